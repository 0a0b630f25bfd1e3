"""One run of the upcycling studies (2212.05055): a dense parent is trained, an arm continues from it or starts anew.

All arms of a seed see the same data in the same order. During training they are evaluated with parameters averaged over
about the last 50 steps: without a cool-down, single evaluations vary by more than the differences between arms. The
unit of cost is one parent: extra FLOPs / FLOPs of the parent's whole training. The parent itself is a sunk cost and not
counted, as in the paper.
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
from kitlib.studies.upcycling.recipes import Recipe
from kitlib.studies.upcycling.setups import Setup
from kitlib.training import loop
from kitlib.upcycling import surgery
from kitlib.upcycling.surgery import COPIES, ExpertInit

AVERAGE = 0.02  # weight of the newest parameters in the running average that is evaluated
EVALUATIONS = 10  # per as many steps as the parent's training has
SHARES = (0.25, 0.5, 0.75, 1.0)  # fractions of the parent's training at which it is saved


@dataclasses.dataclass(frozen=True)
class UpcyclingArm:
    """The model that is trained after the parent, its start, its number of steps and its recipe."""

    config: ViTConfig | T5Config
    # "parent": the parent's own training; "dense": it goes on; "upcycled"; "deeper": depth tiling; "scratch" and "E3":
    # anew
    start: str
    steps: int
    recipe: Recipe
    init: ExpertInit = COPIES
    parent: float = 1.0  # fraction of the parent's training after which the arm starts


def prepare_parent(task: Callable[[], Setup], seed: int, folder: Path) -> None:
    """Trains the dense parent of a seed and saves it at each of SHARES, unless the file of the last one exists."""
    task = task()
    if _parent_path(task, folder, seed, 1.0).is_file():
        return
    model, batches = task.model(task.dense), task.batches(seed)
    params = task.init(model, seed)
    state, average = loop.init_state(params, task.tx, seed), params
    rows, done = [{"step": 0, **task.evaluate(model, average)}], 0
    for share in SHARES:
        steps = round(share * task.parent_steps)
        state, average, new = _train(task, task.dense, task.recipe("parent"), state, average, batches, steps)
        rows, done = rows + [row for row in new if row["step"] > done], steps
        _save(_parent_path(task, folder, seed, share), (state, average), batches, rows)


def run_arm(task: Callable[[], Setup], arm: UpcyclingArm, seed: int, folder: Path) -> list[dict]:
    """Trains one arm: rows of extra steps, extra cost in parents, and what the task measures."""
    task = task()
    model, key = task.model(arm.config), jax.random.fold_in(jax.random.key(seed), 1)
    batches = task.batches(seed)
    if arm.start in ("scratch", "E3"):
        params = task.init(model, seed)
        state, average = loop.init_state(params, task.tx, seed), params
    else:
        dense = loop.init_state(task.init(task.model(task.dense), seed), task.tx, seed)
        path = _parent_path(task, folder, seed, arm.parent)
        (state, average), rows = _load(path, (dense, dense.params), batches)
        if arm.start == "parent":
            return _in_parents(rows, 0, 1 / task.parent_steps)
    if arm.start in ("upcycled", "deeper"):
        if arm.start == "deeper":
            old, new = depth(task.dense), depth(arm.config)
            plan = surgery.deepen(state.params, tuple(i * old // new for i in range(new)))
        else:
            plan = surgery.plan(state.params, arm.config)
        # The average is upcycled with the same key, so that it gets the same routers and the same drawn experts.
        params, average = (surgery.apply(plan, p, key, arm.init) for p in (state.params, average))
        if arm.recipe.moments == "resume":
            state = state.replace(opt_state=surgery.resume(plan, state.opt_state, task.tx))
        state = state.replace(params=params)
    if arm.recipe.moments == "restart":
        state = state.replace(opt_state=surgery.restart(state.opt_state, task.tx, state.params))
    start = int(state.step)
    rows = [{"step": start, **task.evaluate(model, average)}]
    _, average, more = _train(task, arm.config, arm.recipe, state, average, batches, start + arm.steps)
    files.write_npz(_end_path(task, arm, folder, seed), _arrays(average))
    return _in_parents(rows + more, start, task.relative_cost(arm.config) / task.parent_steps)


def trained(task: Callable[[], Setup], arm: UpcyclingArm, seed: int, folder: Path):
    """The averaged parameters at the end of an arm, for fine-tuning; the arm is trained if it was not before."""
    like = jax.eval_shape(functools.partial(task().init, task().model(arm.config)), seed)
    if arm.start == "parent":
        prepare_parent(task, seed, folder)
        state = jax.eval_shape(lambda params: loop.init_state(params, task().tx, seed), like)
        return _read(_parent_path(task(), folder, seed, 1.0), (state, like))[0][1]
    path = _end_path(task(), arm, folder, seed)
    if not path.is_file():
        prepare_parent(task, seed, folder)
        run_arm(task, arm, seed, folder)
    return _read(path, like)[0]


def _in_parents(rows: list[dict], start: int, cost: float) -> list[dict]:
    """Rows of a table: the step since `start`, and what it cost; then everything else that a row has."""
    return [
        {"extra_steps": row["step"] - start, "extra_cost": (row["step"] - start) * cost}
        | {name: value for name, value in row.items() if name != "step"}
        for row in rows
    ]


def _train(task: Setup, config, recipe: Recipe, state, average, batches, end: int):
    """Trains up to step `end`: (state, average, a row per evaluation)."""
    model, step = task.model(config), _step(task, config, recipe, end if recipe.cooldown else None)
    every, rows = max(1, task.parent_steps // EVALUATIONS), []
    for t in range(int(state.step) + 1, end + 1):
        state, average, loss = step(state, average, next(batches))
        if t % every == 0 or t == end:
            if not np.isfinite(loss):
                raise loop.NonFiniteLoss(f"The loss is {loss} at step {int(state.step)}.")
            rows.append({"step": int(state.step), **task.evaluate(model, average)})
    return state, average, rows


@functools.cache
def _step(task: Setup, config, recipe: Recipe, end: int | None):
    inner = loop.make_step(task.loss(task.model(config)), task.optimizer_for(recipe, end))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(state, average, batch):
        state, out = inner(state, batch)
        return state, optax.incremental_update(state.params, average, AVERAGE), out["loss"]

    return step


def depth(config) -> int:
    """The number of blocks; of a T5, of each stack."""
    return config.depth if isinstance(config, ViTConfig) else config.num_encoder_layers


# ---------------------------------------------------------------------------------------------- files of parents


def _parent_path(task: Setup, folder: Path, seed: int, share: float) -> Path:
    return folder / f"parent-{files.recipe_hash(task.setting)}-{seed}-{round(100 * share)}.npz"


def _end_path(task: Setup, arm: UpcyclingArm, folder: Path, seed: int) -> Path:
    return folder / f"end-{files.recipe_hash(f'{task.setting}; {arm}')}-{seed}.npz"


def _save(path: Path, tree, batches, rows: list[dict]) -> None:
    texts = {"data": np.array(json.dumps(batches.get_state())), "rows": np.array(json.dumps(rows))}
    files.write_npz(path, _arrays(tree) | texts)


def _arrays(tree) -> dict[str, np.ndarray]:
    leaves = [np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf) for leaf in jax.tree.leaves(tree)]
    return {f"arr_{i}": leaf for i, leaf in enumerate(leaves)}


def _load(path: Path, like, batches):
    """(the tree that `_save` wrote, in the structure of `like`; the rows). The iterator continues where it stopped.

    Raises ValueError with the file's name if it is damaged.
    """
    tree, texts = _read(path, like, ("rows", "data"))
    batches.set_state(texts["data"])
    return tree, texts["rows"]


def _read(path: Path, like, names: tuple[str, ...] = ()):
    """(a stored tree, in the structure of `like`; {name: what JSON said}). Raises ValueError if the file is damaged."""
    leaves, tree = jax.tree.flatten(like)
    arrays = files.read_arrays(path)
    try:
        texts = {name: json.loads(str(arrays[name])) for name in names}
        stored = [jnp.asarray(arrays[f"arr_{i}"]) for i in range(len(leaves))]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is no file of this study ({error}): delete it, and it is made again.") from error
    stored = [jax.random.wrap_key_data(x) if _is_key(leaf) else x for x, leaf in zip(stored, leaves, strict=True)]
    return tree.unflatten(stored), texts


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
