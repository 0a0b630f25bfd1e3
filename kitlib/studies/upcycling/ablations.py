"""The studies of Sparse Upcycling (2212.05055) at kit scale: the paper's main figures, and one choice at a time.

For every seed a dense parent is trained; each arm then continues from it or starts from scratch (`runs`), with the
recipe of its kind (`recipes`). In ablations (4.2 and appendix B) every arm costs a quarter of its parent, so arms with
more experts per token take fewer steps. (Arms that cost the same per step take the same number of them.) The recipe,
the learning rate first of all, is that of the tuned default: a choice that would be better with another rate is not
seen here.

Read in notebooks/07_sparse_upcycling.ipynb and 08_t5_and_upcycling.ipynb.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

from kitlib.configs import ViTConfig
from kitlib.studies import study
from kitlib.studies.study import Study
from kitlib.studies.upcycling import tuning
from kitlib.studies.upcycling.recipes import Recipe
from kitlib.studies.upcycling.runs import SHARES, UpcyclingArm, depth, prepare_parent, run_arm
from kitlib.studies.upcycling.setups import Setup, deeper, pictures, recall, text
from kitlib.upcycling import surgery
from kitlib.upcycling.surgery import ExpertInit

COST = 0.25  # of every arm, in parents
EXPERTS = (4, 8, 16, 32, 64)


def tuned_arm(task: Setup, start: str, config, cost: float = COST, **fields) -> UpcyclingArm:
    """An arm that is trained for `cost` parents, with the recipe of its kind unless another is given."""
    steps = math.ceil(cost * task.parent_steps / task.relative_cost(config))
    return UpcyclingArm(config, start, **{"steps": steps, "recipe": task.recipe(start)} | fields)


def sparse(task: Setup, start: str = "upcycled", **fields):
    """The configuration with experts that the recipe of a kind asks for; fields: of MoEConfig, in its place."""
    return task.sparse(task.dense, **task.recipe(start).experts | fields)


def gated(task: Setup) -> dict[str, UpcyclingArm]:
    """The arms that a gate looks at: dense training for the cost of two parents, and a mixture from scratch."""
    return {
        "parent": UpcyclingArm(task.dense, "parent", task.parent_steps, task.recipe("parent")),
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
    c = task.recipe("upcycled").capacity
    recipe, on = task.recipe("upcycled"), task.recipe("dense")
    dense = {"dense": tuned_arm(task, "dense", task.dense)}
    inits = {"copies": {}, "noise 0.25": {"noise": 0.25}, "noise 1": {"noise": 1.0}, "half redrawn": {"redraw": 0.5}}
    inits |= {"half random": {"fresh": e // 2}, "random": {"fresh": e}}

    def moments(kind: str, recipe: Recipe, how: str):
        config = task.dense if kind == "dense" else default
        return tuned_arm(task, kind, config, recipe=dataclasses.replace(recipe, moments=how))

    def top_k(k: int, priority: bool = False, **fields):
        """Tokens choose K experts, in the decoder of a T5, too."""
        fields |= {"num_selected": k, "capacity_factor": 1.0, "batch_priority": priority} | task.top_k
        config = task.sparse(task.dense, **recipe.experts | {"router": "top_k"} | fields)
        if not isinstance(config, ViTConfig):
            sums = config.moe.renormalize
            config = config.replace(decoder_moe=default.decoder_moe.replace(num_selected=k, renormalize=sums))
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
            | {f"top-{int(c)}{' priority' if priority else ''}": top_k(int(c), priority) for priority in (False, True)},
        ),
        "choices": (
            "Does a token choose one expert or two?",
            dense
            | {f"top-{k}": top_k(k, renormalize=False) for k in (1, 2)}
            | {"top-2 renormalized": top_k(2, renormalize=True)},
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


# ---------------------------------------------------------------------------------------------- the studies

HEADLINE_SEEDS = 10


def study_of(task: Callable[..., Setup], question: str, arms: dict, seeds: int = study.SEEDS) -> Study:
    """Arms that start from the parent of their seed; task(): the setup."""
    run, prepare = functools.partial(run_arm, task), functools.partial(prepare_parent, task)
    return Study(question, task().setting, arms, run, prepare, seeds)


def curves(task: Callable[..., Setup]) -> Study:
    """<task>_curves, the main figures."""
    question = "Upcycled against dense continuation, MoE from scratch and depth tiling."
    return study_of(task, question, headline(task()), HEADLINE_SEEDS)


def width_curves(width: int) -> Study:
    """pictures8_curves and pictures32_curves: what narrower and wider E3s are made of (`ensembles.naming`)."""
    task = functools.partial(pictures, width=width)
    return study_of(task, f"A ViT of width {width}, and a V-MoE from scratch.", gated(task()), HEADLINE_SEEDS)


def ablation(task: Callable[..., Setup], topic: str, seeds: int = study.SEEDS) -> Study:
    """<task>_<topic>."""
    return study_of(task, *ablations(task())[topic], seeds)


TUNED = {"recall": recall, "text": text, "pictures": pictures}
TUNED |= {f"pictures{width}": functools.partial(pictures, width=width) for width in (8, 32)}
TOPICS = (
    "experts", "capacity", "blocks", "routers", "init", "optimizer", "renormalize", "pretraining", "cooldown",
)  # fmt: skip
STUDIES: dict[str, Callable[[], Study]] = {
    **{f"{name}_parents": functools.partial(tuning.parents, task, name) for name, task in TUNED.items()},
    **{f"{name}_tuning": functools.partial(tuning.tuning, task, name) for name, task in TUNED.items()},
    **{f"{name}_curves": functools.partial(curves, TUNED[name]) for name in ("recall", "text", "pictures")},
    **{f"pictures{width}_curves": functools.partial(width_curves, width) for width in (8, 32)},
    **{
        f"{name}_{topic}": functools.partial(ablation, TUNED[name], topic)
        for name in ("text", "pictures")
        for topic in TOPICS
    },
    "text_choices": functools.partial(ablation, text, "choices", HEADLINE_SEEDS),
}
