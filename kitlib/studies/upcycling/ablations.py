"""The studies of Sparse Upcycling (2212.05055) at kit scale: which arms answer which question.

For every seed a dense parent is trained. Each arm then continues from it (or starts from scratch), see
`upcycling_runs`. Every kind of arm has its own recipe (`upcycling_tuning`).

Read in notebooks/07_sparse_upcycling.ipynb, 08_t5_and_upcycling.ipynb and 18_real_weights.ipynb.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

from kitlib.configs import ViTConfig
from kitlib.studies import study
from kitlib.studies.upcycling import fine_tuning, real_parent, real_probes, tuning
from kitlib.studies.upcycling.runs import SHARES, UpcyclingArm, depth, prepare_parent, run_arm
from kitlib.studies.upcycling.setups import Recipe, Setup, deeper, pictures, recall, text
from kitlib.upcycling import surgery
from kitlib.upcycling.surgery import ExpertInit

# DOC studies.upcycling_ablations
# | """Ablations of upcycling: one choice at a time is changed, the rest is as tuned (2212.05055, 4.2 and appendix B).
# |
# | Every arm costs a quarter of its parent, so arms with more experts per token take fewer steps. (Arms that cost the same
# | per step take the same number of them.) The recipe, the learning rate first of all, is that of the tuned default: a
# | choice that would be better with another rate is not seen here.
# | """
COST = 0.25  # of every arm, in parents
EXPERTS = (4, 8, 16, 32, 64)


def tuned_arm(task: Setup, start: str, config, cost: float = COST, **fields) -> UpcyclingArm:
    """An arm that is trained for `cost` parents, with the recipe of its kind unless another is given."""
    steps = math.ceil(cost * task.parent_steps / task.relative_cost(config))
    return UpcyclingArm(config, start, **{"steps": steps, "recipe": task.recipes[start]} | fields)


def sparse(task: Setup, start: str = "upcycled", **fields):
    """The configuration with experts that the recipe of a kind asks for; fields: of MoEConfig, in its place."""
    return task.sparse(task.dense, **task.recipes[start].experts | fields)


def gated(task: Setup) -> dict[str, UpcyclingArm]:
    """The arms that a gate looks at: dense training for the cost of two parents, and a mixture from scratch."""
    return {
        "parent": UpcyclingArm(task.dense, "parent", task.parent_steps, task.recipes["parent"]),
        "dense": tuned_arm(task, "dense", task.dense, 1.0),
        "scratch": tuned_arm(task, "scratch", sparse(task, "scratch"), 2.0),
    }


def headline(task: Setup) -> dict[str, UpcyclingArm]:
    """The arms of the paper's main figures: extra cost 1, from scratch a total cost of 2."""
    found = gated(task)
    return {
        "parent": found["parent"],
        "dense": found["dense"],
        "upcycled": tuned_arm(task, "upcycled", sparse(task), 1.0),
        "scratch": found["scratch"],
        "deeper": tuned_arm(task, "deeper", deeper(task.dense), 1.0),
    }


def ablations(task: Setup) -> dict[str, tuple[str, dict[str, UpcyclingArm]]]:
    """By name: the question and the arms that answer it."""
    upcycled, configured = functools.partial(tuned_arm, task, "upcycled"), functools.partial(sparse, task)
    default = configured()
    e = next(iter(surgery.moe_layers(default).values())).num_experts
    c = task.recipes["upcycled"].capacity
    recipe, on = task.recipes["upcycled"], task.recipes["dense"]
    dense = {"dense": tuned_arm(task, "dense", task.dense)}
    inits = {"copies": {}, "noise 0.25": {"noise": 0.25}, "noise 1": {"noise": 1.0}, "half redrawn": {"redraw": 0.5}}
    inits |= {"half random": {"fresh": e // 2}, "random": {"fresh": e}}

    def moments(kind: str, recipe: Recipe, how: str):
        config = task.dense if kind == "dense" else default
        return tuned_arm(task, kind, config, recipe=dataclasses.replace(recipe, moments=how))

    def top_k(priority: bool):
        fields = {"num_selected": int(c), "capacity_factor": 1.0, "batch_priority": priority} | task.top_k
        config = task.sparse(task.dense, **recipe.experts | {"router": "top_k"} | fields)
        if not isinstance(config, ViTConfig):  # the decoder chooses as many as in the other arms
            config = config.replace(decoder_moe=default.decoder_moe)
        return upcycled(config)

    return {
        "experts": ("How many experts?", dense | {f"E={n}": upcycled(configured(num_experts=n)) for n in EXPERTS}),
        "capacity": (
            "How many experts does a token have, on average (C)?",
            dense | {f"C={n}": upcycled(configured(capacity_factor=float(n))) for n in (1, 2, 3, 5)},
        ),
        "blocks": (
            "Which layers get experts?",
            dense | {name: upcycled(config) for name, config in placed(default).items()},
        ),
        "routers": (
            "Which router, at equal capacity?",
            dense
            | {"expert choice": upcycled(default)}
            | {f"top-{int(c)}{' priority' if priority else ''}": top_k(priority) for priority in (False, True)},
        ),
        "init": (
            "How do the experts start?",
            dense | {name: upcycled(default, init=ExpertInit(**fields)) for name, fields in inits.items()},
        ),
        "optimizer": (
            "Is the optimiser's state taken along?",
            {
                f"{kind} {'resumed' if how == 'resume' else 'restarted'}": moments(kind, kinds, how)
                for kind, kinds in (("dense", on), ("upcycled", recipe))
                for how in ("resume", "restart")
            },
        ),
        "renormalize": (
            "Do combine weights sum to one?",
            dense
            | {
                f"{'renormalized' if sums else 'raw'} C={n}": upcycled(
                    configured(capacity_factor=float(n), renormalize=sums)
                )
                for n in (1, 2)
                for sums in (True, False)
            },
        ),
        "pretraining": (
            "How long was the parent trained?",
            {
                f"{start} from {round(100 * share)} %": tuned_arm(task, start, config, parent=share)
                for share in SHARES
                for start, config in (("dense", task.dense), ("upcycled", default))
            },
        ),
        "cooldown": (
            "Does the learning rate's cool-down decide?",
            {
                kind: _cooled(tuned_arm(task, kind, config, 2 * COST))
                for kind, config in (("dense", task.dense), ("upcycled", default), ("deeper", deeper(task.dense)))
            },
        ),
    }


def _cooled(plain: UpcyclingArm) -> UpcyclingArm:
    """The same arm, whose learning rate falls to 0 in the last half of its steps."""
    return dataclasses.replace(plain, recipe=dataclasses.replace(plain.recipe, cooldown=plain.steps // 2))


def placed(config) -> dict[str, object]:
    """The sparse configuration with its experts elsewhere: other layers, of a T5 also one stack only."""
    numbers = tuple(range(depth(config)))
    if isinstance(config, ViTConfig):
        last = {f"last {n}": numbers[-n:] for n in range(1, len(numbers))}
        chosen = last | {"every second": numbers[1::2], "first 2": numbers[:2], "all": numbers}
        return {name: config.replace(moe_blocks=blocks) for name, blocks in chosen.items()}
    both = {"last": config.moe_layers, "first": (0,), "all": numbers}
    return {name: config.replace(moe_layers=layers, decoder_moe_layers=layers) for name, layers in both.items()} | {
        "encoder only": config.replace(decoder_moe=None, decoder_moe_layers=()),
        "decoder only": config.replace(moe=None, moe_layers=()),
    }


# DOC studies.recall_memory
# | """Memory of mixtures: recall against parameters, at equal FLOPs per token (after 2410.19034).
# |
# |     kit claims upcycling recall_memory_tuning     # six trials of a mixture, six of a wider model
# |     kit claims upcycling recall_memory
# |
# | Names are learned by heart (`upcycling_tasks.recall`). All models are trained from scratch for as many steps as the
# | dense one, so each of them sees every name as often. Mixtures get more experts, of which a token uses one (C = 1), and
# | so more parameters at the same FLOPs; dense models get wider MLPs, and so more of both.
# | """
MEMORY_EXPERTS = (2, 4, 16, 64)
WIDER = (2, 4)  # times the MLP's width
# Chosen by the trials, of E = 16 and of twice the width; a test compares. The dense model has its own (`recall`).
MEMORY_RECIPES = {"mixture": Recipe(0.008, renormalize=False), "wider": Recipe(0.016)}


def memory_trials() -> dict[str, dict[str, Recipe]]:
    """By kind: recipes by name."""
    mixture = {
        f"peak {peak:g}, {'renormalised' if sums else 'raw'}": Recipe(peak, renormalize=sums)
        for peak in (0.004, 0.008, 0.016)
        for sums in (False, True)
    }
    return {"mixture": mixture, "wider": {f"peak {p:g}": Recipe(p) for p in tuning.PEAKS["recall"]}}


def mixture(task: Setup, num_experts: int, recipe: Recipe) -> UpcyclingArm:
    """A T5 with experts, at the FLOPs of the dense one (and those of its router)."""
    config = sparse(task, "scratch", num_experts=num_experts, capacity_factor=1.0, renormalize=recipe.renormalize)
    return UpcyclingArm(config, "scratch", task.parent_steps, recipe)


def wider(task: Setup, times: int, recipe: Recipe) -> UpcyclingArm:
    """A dense T5 whose MLPs have `times` the width."""
    return UpcyclingArm(task.dense.replace(mlp_dim=times * task.dense.mlp_dim), "scratch", task.parent_steps, recipe)


def memory_studies() -> dict[str, study.Study]:
    """recall_memory_tuning and recall_memory."""
    task, valid = recall(), functools.partial(recall, "valid")
    tried = {f"mixture: {name}": mixture(task, 16, recipe) for name, recipe in memory_trials()["mixture"].items()}
    tried |= {f"wider: {name}": wider(task, 2, recipe) for name, recipe in memory_trials()["wider"].items()}
    arms = {"F": UpcyclingArm(task.dense, "parent", task.parent_steps, task.recipes["parent"])}
    arms |= {f"{times} F": wider(task, times, MEMORY_RECIPES["wider"]) for times in WIDER}
    arms |= {f"E={n}": mixture(task, n, MEMORY_RECIPES["mixture"]) for n in MEMORY_EXPERTS}
    return {
        "recall_memory_tuning": study.Study(
            "Which recipe for a mixture of C = 1, which for a wider MLP?", task.setting, tried, study.nothing,
            functools.partial(run_arm, valid), 1, tuning.SEED,
        ),
        "recall_memory": study.Study(
            "What is remembered with more experts, at the FLOPs of the dense model? And with a wider one, at more?",
            task.setting, arms, functools.partial(prepare_parent, recall), functools.partial(run_arm, recall),
        ),
    }  # fmt: skip


# DOC studies.upcycling
HEADLINE_SEEDS = 10


def studies() -> dict[str, study.Study]:
    """All studies: real_probes, real_tuning, real_curves, recall_parents, recall_tuning, recall_curves, ..."""
    by_name = real_probes.studies() | real_parent.studies() | fine_tuning.studies() | memory_studies()
    question = "Upcycled against dense continuation, MoE from scratch and depth tiling."
    for name, task in (("recall", recall), ("text", text), ("pictures", pictures)):
        by_name |= _studies(name, task, question, headline(task()))
    for name, task in (("text", text), ("pictures", pictures)):
        for topic, (asked, arms) in ablations(task()).items():
            by_name[f"{name}_{topic}"] = _study(task, asked, arms, study.SEEDS)
    for width in (8, 32):  # of which narrower and wider E3s are made (`naming_sizes`)
        task = functools.partial(pictures, width=width)
        question = f"A ViT of width {width}, and a V-MoE from scratch."
        by_name |= _studies(f"pictures{width}", task, question, gated(task()))
    return by_name


def _studies(name: str, task: Callable[..., Setup], question: str, curves: dict) -> dict[str, study.Study]:
    """The trials of a task, and the arms that are judged by ten seeds."""
    found = {f"{name}_curves": _study(task, question, curves, HEADLINE_SEEDS)}
    return tuning.studies(name, task) | found


def _study(task: Callable[..., Setup], question: str, arms: dict, seeds: int) -> study.Study:
    prepare, run = functools.partial(prepare_parent, task), functools.partial(run_arm, task)
    return study.Study(question, task().setting, arms, prepare, run, seeds)
