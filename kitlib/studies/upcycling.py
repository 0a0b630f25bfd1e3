"""The studies of Sparse Upcycling (2212.05055) at kit scale: which arms answer which question.

For every seed a dense parent is trained. Each arm then continues from it (or starts from scratch), see
`upcycling_runs`. On tuned tasks every kind of arm has its own recipe (`upcycling_tuning`); on the older task
"language", which has no gate, all have one, and the optimiser's moments are kept. The paper resets them and loses
nothing; there a reset harms any run, dense ones too (the study "optimizer"), and would hide the effect of the experts.

Read in notebooks/07_sparse_upcycling.ipynb and notebooks/08_t5_and_upcycling.ipynb.
"""

import dataclasses
import functools

from kitlib.configs import ViTConfig
from kitlib.studies import real_parent, real_probes, study, text_downstream, upcycling_tuning
from kitlib.studies.upcycling_ablations import ablations, headline
from kitlib.studies.upcycling_runs import SHARES, UpcyclingArm, depth, prepare_parent, run_arm
from kitlib.studies.upcycling_setups import Setup, language
from kitlib.studies.upcycling_tasks import pictures, recall, text
from kitlib.upcycling import surgery
from kitlib.upcycling.surgery import ExpertInit

HEADLINE_SEEDS = 10


def studies() -> dict[str, study.Study]:
    """All studies: real_probes, real_tuning, real_curves, recall_parents, recall_tuning, recall_curves, ..."""
    by_name = real_probes.studies() | real_parent.studies() | text_downstream.studies()
    for name, task in (("recall", recall), ("text", text), ("pictures", pictures)):
        by_name |= upcycling_tuning.studies(name, task)
    tasks = (("recall", recall, tuned), ("text", text, tuned), ("pictures", pictures, tuned))
    for name, task, ask in (*tasks, ("language", language, untuned)):
        prepare, run = functools.partial(prepare_parent, task), functools.partial(run_arm, task)
        for topic, (question, arms) in ask(task()).items():
            seeds = HEADLINE_SEEDS if ask is tuned and topic == "curves" else study.SEEDS
            by_name[f"{name}_{topic}"] = study.Study(question, task().setting, arms, prepare, run, seeds)
    return by_name


def tuned(task: Setup) -> dict[str, tuple[str, dict[str, UpcyclingArm]]]:
    """By name: the question and the arms that answer it, on a task with a recipe for every kind of arm."""
    question = "Upcycled against dense continuation, MoE from scratch and depth tiling."
    return {"curves": (question, headline(task))} | ablations(task)


def untuned(task: Setup) -> dict[str, tuple[str, dict[str, UpcyclingArm]]]:
    """The same for the older task, most arms with half of the parent's steps, as in the paper."""
    dense, steps = task.dense, task.parent_steps // 2
    sparse = functools.partial(task.sparse, dense)
    num_experts = next(iter(surgery.moe_layers(sparse()).values())).num_experts
    numbers = tuple(range(depth(dense)))  # of blocks
    recipe = task.recipes["parent"]
    restarted = dataclasses.replace(recipe, moments="restart")

    def upcycled(config, **fields):
        return UpcyclingArm(config, "upcycled", **{"steps": steps, "recipe": recipe} | fields)

    def capacity(factor, **fields):
        return upcycled(sparse(capacity_factor=float(factor), **fields))

    def top_k(k, priority):
        fields = {"num_selected": k, "capacity_factor": 1.0, "batch_priority": priority} | task.top_k
        return upcycled(sparse(router="top_k", **fields))

    dense_arm = {"dense": UpcyclingArm(dense, "dense", steps, recipe)}
    last = {f"last {n}": numbers[-n:] for n in range(1, len(numbers))}
    blocks = last | {"every second": numbers[1::2], "first 2": numbers[:2], "all": numbers}
    inits = {"copies": {}, "noise 0.25": {"noise": 0.25}, "noise 1": {"noise": 1.0}, "half redrawn": {"redraw": 0.5}}
    inits |= {"half random": {"fresh": num_experts // 2}, "random": {"fresh": num_experts}}
    return {
        "experts": (
            "How many experts?",
            dense_arm | {f"E={n}": upcycled(sparse(num_experts=n)) for n in (2, 4, 8, 16, 32)},
        ),
        "capacity": (
            "How many experts does a token have, on average (C)?",
            dense_arm | {f"C={c}": capacity(c) for c in (1, 2, 3, 5)},
        ),
        "blocks": (
            "How many blocks get experts, and which?",
            dense_arm | {name: upcycled(_placed(sparse(), chosen)) for name, chosen in blocks.items()},
        ),
        "routers": (
            "Which router, at equal capacity?",
            dense_arm
            | {f"expert choice C={c}": capacity(c) for c in (1, 2)}
            | {f"top-{k}{' priority' if p else ''}": top_k(k, p) for k in (1, 2) for p in (False, True)},
        ),
        "init": (
            "How do the experts start?",
            dense_arm | {name: upcycled(sparse(), init=ExpertInit(**fields)) for name, fields in inits.items()},
        ),
        "optimizer": (
            "Is the optimiser's state taken along?",
            dense_arm
            | {"dense restarted": UpcyclingArm(dense, "dense", steps, restarted)}
            | {"resumed": upcycled(sparse()), "restarted": upcycled(sparse(), recipe=restarted)},
        ),
        "renormalize": (
            "Do combine weights sum to one?",
            dense_arm
            | {f"renormalized C={c}": capacity(c, renormalize=True) for c in (1, 2)}
            | {f"raw C={c}": capacity(c, renormalize=False) for c in (1, 2)},
        ),
        "pretraining": (
            "How long was the parent trained?",
            {
                f"{start} from {round(100 * share)} %": UpcyclingArm(config, start, steps // 2, recipe, parent=share)
                for share in SHARES
                for start, config in (("dense", dense), ("upcycled", sparse()))
            },
        ),
    }


def _placed(config, numbers: tuple[int, ...]):
    """The sparse configuration with its experts in other blocks."""
    if isinstance(config, ViTConfig):
        return config.replace(moe_blocks=numbers)
    return config.replace(moe_layers=numbers, decoder_moe_layers=numbers)
