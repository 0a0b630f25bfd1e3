"""Hyperparameter search of the upcycling studies: the trials of `recipes`, of which the best is taken.

    kit claims upcycling recall_parents                # six learning rates of the dense parent
    kit claims upcycling recall_tuning                 # as many trials each of all that comes after it

The trials have a seed of their own and are scored on a validation split; nothing is judged on either. A trial's score
is the loss at an extra cost of half a parent, for training from scratch of a whole one (`gates` reads the tables).
"""

import functools
from collections.abc import Callable

from kitlib.configs import E3Config
from kitlib.studies import study
from kitlib.studies.study import Study
from kitlib.studies.upcycling import recipes
from kitlib.studies.upcycling.recipes import Recipe
from kitlib.studies.upcycling.runs import UpcyclingArm, prepare_parent, run_arm
from kitlib.studies.upcycling.setups import Setup, deeper

# How long the trials of a kind are, in parents of extra cost.
COST = {"parent": 1.0, "scratch": 1.0, "dense": 0.5, "upcycled": 0.5, "deeper": 0.5, "E3": 1.0}


def parents(task: Callable[..., Setup], name: str) -> Study:
    """<task>_parents; task(split) gives the setup."""
    setup = task("valid")
    arms = {
        trial: UpcyclingArm(setup.dense, "scratch", setup.parent_steps, recipe)
        for trial, recipe in recipes.parents(name).items()
    }
    run = functools.partial(run_arm, functools.partial(task, "valid"))
    return study.trials("Which learning rate for the parent?", setup.name, arms, run)


def tuning(task: Callable[..., Setup], name: str) -> Study:
    """<task>_tuning: all kinds but the parent."""
    valid, setup = functools.partial(task, "valid"), task("valid")
    arms = {
        f"{kind}: {trial}": trial_arm(setup, kind, recipe)
        for kind, tried in recipes.trials(name, setup.recipe("parent").peak).items()
        for trial, recipe in tried.items()
    }
    run, prepare = functools.partial(run_arm, valid), functools.partial(prepare_parent, valid)
    return study.trials("Which recipe for which kind?", setup.setting, arms, run, prepare)


def trial_arm(setup: Setup, kind: str, recipe: Recipe) -> UpcyclingArm:
    """The arm of a kind, trained for the cost of a trial."""
    if kind == "dense":
        config = setup.dense
    else:
        config = deeper(setup.dense) if kind == "deeper" else setup.sparse(setup.dense, **recipe.experts)
    if kind == "E3":
        config = config.replace(e3=E3Config(2))
    steps = -(-COST[kind] * setup.parent_steps // setup.relative_cost(config))
    return UpcyclingArm(config, kind, int(steps), recipe)
