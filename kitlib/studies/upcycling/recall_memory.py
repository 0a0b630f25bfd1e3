"""Memory of mixtures: recall against parameters, at equal FLOPs per token (after 2410.19034).

    kit claims upcycling recall_memory_tuning     # six trials of a mixture, six of a wider model
    kit claims upcycling recall_memory

Names are learned by heart (`setups.recall`). All models are trained from scratch for as many steps as the dense one, so
each of them sees every name as often. Mixtures get more experts, of which a token uses one (C = 1), and so more
parameters at the same FLOPs; dense models get wider MLPs, and so more of both.
"""

import functools

from kitlib.studies import study
from kitlib.studies.study import Study, best_trial
from kitlib.studies.upcycling import recipes
from kitlib.studies.upcycling.ablations import sparse, study_of
from kitlib.studies.upcycling.recipes import Recipe
from kitlib.studies.upcycling.runs import UpcyclingArm, run_arm
from kitlib.studies.upcycling.setups import Setup, recall

EXPERTS = (2, 4, 16, 64)
WIDER = (2, 4)  # times the MLP's width


def trials() -> dict[str, dict[str, Recipe]]:
    """By kind: recipes by name, tried with E = 16 and with twice the width."""
    mixture = {
        f"peak {peak:g}, {'renormalised' if sums else 'raw'}": Recipe(peak, renormalize=sums)
        for peak in (0.004, 0.008, 0.016)
        for sums in (False, True)
    }
    return {"mixture": mixture, "wider": recipes.parents("recall")}


def mixture(task: Setup, num_experts: int, recipe: Recipe) -> UpcyclingArm:
    """A T5 with experts, at the FLOPs of the dense one (and those of its router)."""
    config = sparse(task, "scratch", num_experts=num_experts, capacity_factor=1.0, renormalize=recipe.renormalize)
    return UpcyclingArm(config, "scratch", task.parent_steps, recipe)


def wider(task: Setup, times: int, recipe: Recipe) -> UpcyclingArm:
    """A dense T5 whose MLPs have `times` the width."""
    return UpcyclingArm(task.dense.replace(mlp_dim=times * task.dense.mlp_dim), "scratch", task.parent_steps, recipe)


def tuning() -> Study:
    """recall_memory_tuning."""
    task, make = recall(), {"mixture": (mixture, 16), "wider": (wider, 2)}
    arms = {
        f"{kind}: {name}": make[kind][0](task, make[kind][1], recipe)
        for kind, tried in trials().items()
        for name, recipe in tried.items()
    }
    run = functools.partial(run_arm, functools.partial(recall, "valid"))
    return study.trials("Which recipe for a mixture of C = 1, which for a wider MLP?", task.setting, arms, run)


def memory() -> Study:
    """recall_memory. The dense model has its own recipe (`recall`)."""
    task = recall()
    best = {kind: tried[best_trial("upcycling", "recall_memory_tuning", kind)] for kind, tried in trials().items()}
    arms = {"F": UpcyclingArm(task.dense, "parent", task.parent_steps, task.recipe("parent"))}
    arms |= {f"{times} F": wider(task, times, best["wider"]) for times in WIDER}
    arms |= {f"E={n}": mixture(task, n, best["mixture"]) for n in EXPERTS}
    question = "What is remembered with more experts, at the FLOPs of the dense model? And with a wider one, at more?"
    return study_of(recall, question, arms)


STUDIES = {"recall_memory_tuning": tuning, "recall_memory": memory}
