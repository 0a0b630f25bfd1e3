"""Memory of mixtures: recall against parameters, at equal FLOPs per token (after 2410.19034).

    kit claims upcycling recall_memory_tuning     # six trials of a mixture, six of a wider model
    kit claims upcycling recall_memory

Names are learned by heart (`upcycling_tasks.recall`). All models are trained from scratch for as many steps as the
dense one, so each of them sees every name as often. Mixtures get more experts, of which a token uses one (C = 1), and
so more parameters at the same FLOPs; dense models get wider MLPs, and so more of both.
"""

import functools

from kitlib.studies import study, upcycling_tuning
from kitlib.studies.upcycling_ablations import sparse
from kitlib.studies.upcycling_recipes import Recipe
from kitlib.studies.upcycling_runs import UpcyclingArm, prepare_parent, run_arm
from kitlib.studies.upcycling_setups import Setup
from kitlib.studies.upcycling_tasks import recall

EXPERTS = (2, 4, 16, 64)
WIDER = (2, 4)  # times the MLP's width
# Chosen by the trials, of E = 16 and of twice the width; a test compares. The dense model has its own (`recall`).
RECIPES = {"mixture": Recipe(0.008, renormalize=False), "wider": Recipe(0.016)}


def trials() -> dict[str, dict[str, Recipe]]:
    """By kind: recipes by name."""
    mixture = {
        f"peak {peak:g}, {'renormalised' if sums else 'raw'}": Recipe(peak, renormalize=sums)
        for peak in (0.004, 0.008, 0.016)
        for sums in (False, True)
    }
    return {"mixture": mixture, "wider": {f"peak {p:g}": Recipe(p) for p in upcycling_tuning.PEAKS["recall"]}}


def mixture(task: Setup, num_experts: int, recipe: Recipe) -> UpcyclingArm:
    """A T5 with experts, at the FLOPs of the dense one (and those of its router)."""
    config = sparse(task, "scratch", num_experts=num_experts, capacity_factor=1.0, renormalize=recipe.renormalize)
    return UpcyclingArm(config, "scratch", task.parent_steps, recipe)


def wider(task: Setup, times: int, recipe: Recipe) -> UpcyclingArm:
    """A dense T5 whose MLPs have `times` the width."""
    return UpcyclingArm(task.dense.replace(mlp_dim=times * task.dense.mlp_dim), "scratch", task.parent_steps, recipe)


def studies() -> dict[str, study.Study]:
    """recall_memory_tuning and recall_memory."""
    task, valid = recall(), functools.partial(recall, "valid")
    tried = {f"mixture: {name}": mixture(task, 16, recipe) for name, recipe in trials()["mixture"].items()}
    tried |= {f"wider: {name}": wider(task, 2, recipe) for name, recipe in trials()["wider"].items()}
    arms = {"F": UpcyclingArm(task.dense, "parent", task.parent_steps, task.recipes["parent"])}
    arms |= {f"{times} F": wider(task, times, RECIPES["wider"]) for times in WIDER}
    arms |= {f"E={n}": mixture(task, n, RECIPES["mixture"]) for n in EXPERTS}
    return {
        "recall_memory_tuning": study.Study(
            "Which recipe for a mixture of C = 1, which for a wider MLP?", task.setting, tried, study.nothing,
            functools.partial(run_arm, valid), 1, upcycling_tuning.SEED,
        ),
        "recall_memory": study.Study(
            "What is remembered with more experts, at the FLOPs of the dense model? And with a wider one, at more?",
            task.setting, arms, functools.partial(prepare_parent, recall), functools.partial(run_arm, recall),
        ),
    }  # fmt: skip
