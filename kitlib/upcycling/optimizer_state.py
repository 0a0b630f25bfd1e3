"""The optimiser's state after surgery: moments follow their parameters or start again, and the schedule continues.

    opt_state = resume(plan, dense_state, tx)               # the paper's choice for vision (2212.05055, section B.6)
    opt_state = restart(dense_state, tx, params)            # for language: fresh moments
    state = train_state.replace(params=params, opt_state=opt_state)      # step and key are kept

In both cases the learning rate does not jump: a second warm-up would destroy what the dense model has learned, and a
schedule that started again at its peak would be ten times too high for a T5 after a million steps.

Built in notebooks/07_sparse_upcycling.ipynb.
"""

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import unflatten_dict
from jax.tree_util import DictKey, keystr

from kitlib.upcycling.surgery import EXPERT, Plan, tile


def resume(plan: Plan, dense_state, tx: optax.GradientTransformation):
    """The state of `tx` for the new parameters: moments are copied and tiled like them, zero for routers; counts kept.

    Works for any optax chain whose state follows the parameters: AdamW, SGD with momentum, Adafactor with its factored
    moments.

    Raises ValueError where dense_state is not a state of `tx` for the dense model.
    """
    old = {keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(dense_state)}
    shapes = {name: jax.ShapeDtypeStruct(origin.shape, jnp.float32) for name, origin in plan.origins.items()}
    target = jax.eval_shape(tx.init, unflatten_dict(shapes, sep="/"))

    def moved(path, like):
        prefix, name = _split(path, plan)
        origin = plan.origins.get(name)
        if origin and origin.how == "new":
            return jnp.zeros(like.shape, like.dtype)
        source = keystr((*prefix, *map(DictKey, origin.source.split("/"))) if origin else path)
        leaf = old.get(source)
        if leaf is not None and leaf.dtype == like.dtype:
            if leaf.shape == like.shape:  # copied leaves, counts, and the placeholders of factored moments
                return jnp.array(leaf)
            if origin and origin.how == "tiled":
                block, part = EXPERT.fullmatch(name).groups()
                # A factored moment has one axis less: it is a single row for all units, and is only repeated.
                tiled = tile(leaf, part if leaf.ndim == len(origin.shape) - 1 else "", plan.moe[block])
                if tiled.shape == like.shape:
                    return tiled
        got = "missing" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"
        raise ValueError(
            f"The optimiser state does not fit: {source} is {got}, expected what makes {like.dtype}{list(like.shape)}; "
            "pass the state and the tx of the dense run (of a scanned model, unstacked), or use restart."
        )

    return jax.tree_util.tree_map_with_path(moved, target)


def restart(dense_state, tx: optax.GradientTransformation, params):
    """A fresh state of `tx` whose learning-rate schedule continues where the dense run stopped (as in T5X's upcycling).

    The count of Adam, by which it corrects the bias of its moments, starts again with them.
    Raises ValueError where the two states differ in their schedules.
    """

    def schedule(node) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    kept = [node for node in jax.tree.leaves(dense_state, is_leaf=schedule) if schedule(node)]
    nodes, tree = jax.tree.flatten(tx.init(params), is_leaf=schedule)
    if sum(map(schedule, nodes)) != len(kept):
        raise ValueError("The dense run and tx differ in their learning-rate schedules; pass the tx of the dense run.")
    left = iter(kept)
    nodes = [jax.tree.map(jnp.array, next(left)) if schedule(node) else node for node in nodes]
    return jax.tree.unflatten(tree, nodes)


def _split(path: tuple, plan: Plan) -> tuple[tuple, str]:
    """Splits the path of a leaf of the state into (the optimiser's part, the name of the parameter, or "")."""
    for start, _ in enumerate(path):
        name = "/".join(str(getattr(key, "key", key)) for key in path[start:])
        if name in plan.origins:
            return path[:start], name
    return path, ""
