"""The studies of Sparse Upcycling (2212.05055) at kit scale: a ViT on Fashion-MNIST and a T5 on WordNet's glosses.

For every seed a dense parent is trained. Each arm then continues from it (or starts from scratch) with the same data in
the same order and the same learning-rate schedule. During training it is evaluated with parameters averaged over about
the last 50 steps: without a cool-down, single evaluations vary by more than the differences between arms. The unit of
cost is one parent: extra FLOPs / FLOPs of the parent's whole training. The parent itself is a sunk cost and not
counted, as in the paper.

The optimiser's moments are kept. For language the paper resets them and loses nothing; at our scale a reset harms any
run, dense ones too (the study "optimizer"), and would hide the effect of the experts. The curves have both.

Read in notebooks/07_sparse_upcycling.ipynb and notebooks/08_t5_and_upcycling.ipynb.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kitlib.configs import T5Config, ViTConfig
from kitlib.data import files
from kitlib.studies import study
from kitlib.studies.upcycling_setups import Setup, language, vision
from kitlib.training import loop
from kitlib.upcycling import optimizer_state, surgery
from kitlib.upcycling.surgery import COPIES, ExpertInit

AVERAGE = 0.02  # weight of the newest parameters in the running average that is evaluated
EVALUATIONS = 8  # per as many steps as the parent's training has
SHARES = (0.25, 0.5, 0.75, 1.0)  # fractions of the parent's training at which it is saved


@dataclasses.dataclass(frozen=True)
class UpcyclingArm:
    """The model that is trained after the parent, its start, and its number of steps."""

    config: ViTConfig | T5Config
    start: str  # "dense": dense continuation; "upcycled"; "deeper": depth tiling; "scratch": nothing of the parent
    steps: int
    init: ExpertInit = COPIES
    moments: str = "resume"  # of the optimiser; or "restart": new moments, while the schedule continues
    parent: float = 1.0  # fraction of the parent's training after which the arm starts


# ---------------------------------------------------------------------------------------------- one run


def prepare_parent(task: Callable[[], Setup], seed: int, folder: Path) -> None:
    """Trains the dense parent of a seed and saves it at each of SHARES, unless the file of the last one exists."""
    task = task()
    if _parent_path(task, folder, seed, 1.0).is_file():
        return
    params = task.init(task.model(task.dense), seed)
    state, average, batches = loop.init_state(params, task.tx, seed), params, task.batches(seed)
    done = 0
    for share in SHARES:
        steps = round(share * task.parent_steps)
        state, average, _ = _train(task, task.dense, state, average, batches, steps - done)
        done = steps
        _save(_parent_path(task, folder, seed, share), (state, average), batches)


def run_arm(task: Callable[[], Setup], arm: UpcyclingArm, seed: int, folder: Path) -> list[dict]:
    """Trains one arm: rows of extra steps, extra cost in parents, accuracy and loss on the test set."""
    task = task()
    model, key = task.model(arm.config), jax.random.fold_in(jax.random.key(seed), 1)
    batches = task.batches(seed)
    if arm.start == "scratch":
        params = task.init(model, seed)
        state, average = loop.init_state(params, task.tx, seed), params
    else:
        dense = loop.init_state(task.init(task.model(task.dense), seed), task.tx, seed)
        state, average = _load(_parent_path(task, folder, seed, arm.parent), (dense, dense.params), batches)
    if arm.start in ("upcycled", "deeper"):
        if arm.start == "deeper":
            old, new = _depth(task.dense), _depth(arm.config)
            plan = surgery.deepen(state.params, tuple(i * old // new for i in range(new)))
        else:
            plan = surgery.plan(state.params, arm.config)
        # The average is upcycled with the same key, so that it gets the same routers and the same drawn experts.
        params, average = (surgery.apply(plan, p, key, arm.init) for p in (state.params, average))
        if arm.moments == "resume":
            state = state.replace(opt_state=optimizer_state.resume(plan, state.opt_state, task.tx))
        state = state.replace(params=params)
    if arm.moments == "restart":
        state = state.replace(opt_state=optimizer_state.restart(state.opt_state, task.tx, state.params))
    start, cost = int(state.step), task.forward_flops(arm.config) / task.forward_flops(task.dense)
    first = {"step": start, **task.evaluate(model, average)}
    _, _, rows = _train(task, arm.config, state, average, batches, arm.steps)
    return [
        {
            "extra_steps": row["step"] - start,
            "extra_cost": (row["step"] - start) * cost / task.parent_steps,
            "accuracy": row["accuracy"],
            "loss": row["loss"],
        }
        for row in [first, *rows]
    ]


def _train(task: Setup, config, state, average, batches, steps: int):
    model, step = task.model(config), _step(task, config)
    every, rows = max(1, task.parent_steps // EVALUATIONS), []
    for t in range(1, steps + 1):
        state, average, loss = step(state, average, next(batches))
        if t % every == 0 or t == steps:
            if not np.isfinite(loss):
                raise loop.NonFiniteLoss(f"The loss is {loss} at step {int(state.step)}.")
            rows.append({"step": int(state.step), **task.evaluate(model, average)})
    return state, average, rows


@functools.cache
def _step(task: Setup, config):
    inner = loop.make_step(task.loss(task.model(config)), task.tx)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(state, average, batch):
        state, out = inner(state, batch)
        return state, optax.incremental_update(state.params, average, AVERAGE), out["loss"]

    return step


def _parent_path(task: Setup, folder: Path, seed: int, share: float) -> Path:
    return folder / f"parent-{files.recipe_hash(task.setting)}-{seed}-{round(100 * share)}.npz"


def _save(path: Path, tree, batches) -> None:
    leaves = [np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf) for leaf in jax.tree.leaves(tree)]
    arrays = {f"arr_{i}": leaf for i, leaf in enumerate(leaves)}
    files.write_npz(path, arrays | {"data": np.array(json.dumps(batches.get_state()))})


def _load(path: Path, like, batches):
    """The tree that `_save` wrote, in the structure of `like`; the iterator continues where the parent's stopped."""
    leaves, tree = jax.tree.flatten(like)
    with np.load(path, allow_pickle=False) as file:
        batches.set_state(json.loads(str(file["data"])))
        stored = [jnp.asarray(file[f"arr_{i}"]) for i in range(len(leaves))]
    stored = [jax.random.wrap_key_data(x) if _is_key(leaf) else x for x, leaf in zip(stored, leaves, strict=True)]
    return tree.unflatten(stored)


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


# ---------------------------------------------------------------------------------------------- the questions


def studies() -> dict[str, study.Study]:
    """All studies: vision_curves, vision_experts, ..., language_curves, ..."""
    by_name = {}
    for name, task in (("vision", vision), ("language", language)):
        for topic, (question, arms) in questions(task()).items():
            prepare, run = functools.partial(prepare_parent, task), functools.partial(run_arm, task)
            by_name[f"{name}_{topic}"] = study.Study(question, task().setting, arms, prepare, run)
    return by_name


def questions(task: Setup) -> dict[str, tuple[str, dict[str, UpcyclingArm]]]:
    """By name: the question and the arms that answer it, most with half of the parent's steps, as in the paper."""
    dense, steps = task.dense, task.parent_steps // 2
    sparse = functools.partial(task.sparse, dense)
    num_experts = next(iter(surgery.moe_layers(sparse()).values())).num_experts
    numbers = tuple(range(_depth(dense)))  # of blocks

    def upcycled(config, **fields):
        return UpcyclingArm(config, "upcycled", **{"steps": steps} | fields)

    def capacity(factor, **fields):
        return upcycled(sparse(capacity_factor=float(factor), **fields))

    def top_k(k, priority):
        fields = {"num_selected": k, "capacity_factor": 1.0, "batch_priority": priority} | task.top_k
        return upcycled(sparse(router="top_k", **fields))

    dense_arm = {"dense": UpcyclingArm(dense, "dense", steps)}
    last = {f"last {n}": numbers[-n:] for n in range(1, len(numbers))}
    blocks = last | {"every second": numbers[1::2], "first 2": numbers[:2], "all": numbers}
    inits = {"copies": {}, "noise 0.25": {"noise": 0.25}, "noise 1": {"noise": 1.0}, "half redrawn": {"redraw": 0.5}}
    inits |= {"half random": {"fresh": num_experts // 2}, "random": {"fresh": num_experts}}
    return {
        "curves": (
            "Upcycled against dense continuation, MoE from scratch and depth tiling.",
            {
                "dense": UpcyclingArm(dense, "dense", 2 * steps),
                "upcycled": upcycled(sparse(), steps=2 * steps),
                "scratch": UpcyclingArm(sparse(), "scratch", 4 * steps),
                "deeper": UpcyclingArm(_deeper(dense), "deeper", 2 * steps),
            }
            | ({"restarted": upcycled(sparse(), steps=2 * steps, moments="restart")} if task.restarts else {}),
        ),
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
            | {"dense restarted": UpcyclingArm(dense, "dense", steps, moments="restart")}
            | {"resumed": upcycled(sparse()), "restarted": upcycled(sparse(), moments="restart")},
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
                f"{start} from {round(100 * share)} %": UpcyclingArm(config, start, steps // 2, parent=share)
                for share in SHARES
                for start, config in (("dense", dense), ("upcycled", sparse()))
            },
        ),
    }


def _depth(config) -> int:
    return config.depth if isinstance(config, ViTConfig) else config.num_encoder_layers  # the same in both stacks


def _deeper(config):
    if isinstance(config, ViTConfig):
        return config.replace(depth=config.depth + 1)
    return config.replace(num_encoder_layers=_depth(config) + 1, num_decoder_layers=_depth(config) + 1)


def _placed(config, numbers: tuple[int, ...]):
    """The sparse configuration with its experts in other blocks."""
    if isinstance(config, ViTConfig):
        return config.replace(moe_blocks=numbers)
    return config.replace(moe_layers=numbers, decoder_moe_layers=numbers)
