"""Hyperparameter search of the upcycling studies: six trials or more per kind of arm; the best is frozen.

    kit claims upcycling recall_parents                # six learning rates of the dense parent
    kit claims upcycling recall_tuning                 # as many trials each of all that comes after it

The trials have a seed of their own and are scored on a validation split; nothing is judged on either. A trial's score
is the loss at an extra cost of half a parent, for training from scratch of a whole one (`gates` reads the tables). All
kinds of a task have equally many trials, six, or eight of pictures; where the best one has the smallest or largest
learning rate that was tried, the next one beyond is tried, too, until it is not. What they vary is what is known to
matter for the kind: for all the peak of the learning rate; for a dense model whether the moments of the optimiser go
on; for a new mixture whether weights are renormalised; for upcycling both. With pictures, for which the papers have
both kinds of routers, tokens may choose, too.
"""

import functools
from collections.abc import Callable

from kitlib.configs import E3Config
from kitlib.studies import study
from kitlib.studies.upcycling.runs import UpcyclingArm, prepare_parent, run_arm
from kitlib.studies.upcycling.setups import TOP_1, Recipe, Setup, deeper

# DOC studies.upcycling_tuning
SEED = 100
# How long the trials of a kind are, in parents of extra cost.
COST = {"parent": 1.0, "scratch": 1.0, "dense": 0.5, "upcycled": 0.5, "deeper": 0.5, "E3": 1.0}
PICTURES = (0.001, 0.002, 0.004, 0.008, 0.011, 0.016, 0.023, 0.032)
PEAKS = {  # of the parent, by task
    "recall": (0.002, 0.004, 0.008, 0.016, 0.032, 0.064),
    "text": (0.001, 0.002, 0.004, 0.008, 0.016, 0.032),
    "pictures": PICTURES,
    "pictures8": PICTURES,
    "pictures32": PICTURES,
}
# By task and kind, the trials that went on from a best one at an end of its range.
BEYOND: dict[str, dict[str, dict[str, Recipe]]] = {
    "recall": {
        "dense": {"peak 0.004, resumed": Recipe(0.004)},
        "upcycled": {"peak 0.032, raw, restarted": Recipe(0.032, "restart", renormalize=False)},
        "scratch": {"peak 0.004, renormalised": Recipe(0.004, renormalize=True)},
    },
    "text": {
        "dense": {"peak 0.004, restarted": Recipe(0.004, "restart")},
        "upcycled": {"peak 0.032, renormalised, restarted": Recipe(0.032, "restart", renormalize=True)},
    },
    "pictures": {
        "dense": {"peak 0.044, restarted": Recipe(0.044, "restart")},
        "upcycled": {
            f"peak {peak}, raw, restarted": Recipe(peak, "restart", renormalize=False) for peak in (0.044, 0.088)
        },
        "deeper": {"peak 0.044, resumed": Recipe(0.044)},
    },
    "pictures8": {"dense": {"peak 0.064, restarted": Recipe(0.064, "restart")}},
    "pictures32": {},
}


def trials(name: str, peak: float) -> dict[str, dict[str, Recipe]]:
    """By kind of arm: recipes by name. peak: the parent's, once it is known."""
    below, at, above = ({f"peak {x:g}": Recipe(x)} for x in (peak / 2, peak, 2 * peak))
    rates, upcycled_rates = below | at | above, below | at
    raw, sums = {"renormalize": False}, {"renormalize": True}
    resumed, restarted = {"moments": "resume"}, {"moments": "restart"}
    moments = {"resumed": resumed, "restarted": restarted}
    weights = {"raw": raw, "renormalised": sums}
    upcycled = {
        "raw, restarted": raw | restarted,
        "renormalised, restarted": sums | restarted,
        "renormalised, resumed": sums | resumed,
    }
    if name.startswith("pictures"):
        rates, upcycled_rates = {f"peak {peak / 4:g}": Recipe(peak / 4)} | rates, at | above
        weights = {"raw": raw, "top-1": TOP_1}
        upcycled |= {"top-2, renormalised, restarted": sums | restarted | {"router": "top_k", "capacity": 2.0}}
    # An E3's tokens have to choose, so what varies is the rate alone; so do those of a V-MoE of another width, which
    # becomes an E3.
    top_1 = {f"peak {peak * f:g}, top-1": Recipe(peak * f, **TOP_1) for f in (0.125, 0.25, 0.5, 1, 2, 4)}
    first = {
        "parent": {f"peak {x:g}": Recipe(x) for x in PEAKS[name]},
        "dense": _each(rates, **moments),
        "deeper": _each(rates, **moments),
        "scratch": top_1 if name in ("pictures8", "pictures32") else _each(rates, **weights),
        "upcycled": _each(upcycled_rates, **upcycled),
        "E3": top_1,
    }
    return {kind: recipes | BEYOND[name].get(kind, {}) for kind, recipes in first.items()}


def _each(recipes: dict[str, Recipe], **ways: dict) -> dict[str, Recipe]:
    return {
        f"{rate}, {way}": Recipe(recipe.peak, **fields)
        for rate, recipe in recipes.items()
        for way, fields in ways.items()
    }


def studies(name: str, task: Callable[..., Setup]) -> dict[str, study.Study]:
    """The two studies of a task: <task>_parents and <task>_tuning; task(split) gives its setup."""
    valid = functools.partial(task, "valid")
    setup = valid()
    chosen = trials(name, setup.recipes["parent"].peak)
    parents = {
        trial: UpcyclingArm(setup.dense, "scratch", setup.parent_steps, recipe)
        for trial, recipe in chosen["parent"].items()
    }
    later = {
        f"{kind}: {trial}": trial_arm(setup, kind, recipe)
        for kind in setup.recipes
        if kind != "parent"
        for trial, recipe in chosen[kind].items()
    }
    prepare, run = functools.partial(prepare_parent, valid), functools.partial(run_arm, valid)
    return {
        f"{name}_parents": study.Study(
            "Which learning rate for the parent?", setup.name, parents, study.nothing, run, 1, SEED
        ),
        f"{name}_tuning": study.Study("Which recipe for which kind?", setup.setting, later, prepare, run, 1, SEED),
    }


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
