"""Deep ensembles (1612.01474): M training runs of one model that differ in their seed.

    params, history = train_deep_ensemble(model, source, seeds=(0, 1, 2))     # three members, trained as one program
    logits = predict_members(model, unstack(params), images)                  # float32[3, B, V]

`uncertainty` and `metrics` evaluate these logits. A BatchEnsemble or an E3 has all its members in one model
(`layers.batch_ensemble`, `moe.e3`), for which `training.classification.predict` is enough.

Built in notebooks/09_ensembles_and_uncertainty.ipynb.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from kitlib.training import classification, loop
from kitlib.training.recipe import adamw_cosine_step


def stack(trees: Sequence):
    """M trees of the same shapes -> one tree whose leaves have a leading M axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree) -> list:
    """The inverse of `stack`: one tree per member."""
    return [jax.tree.map(lambda leaf, m=m: leaf[m], tree) for m in range(len(jax.tree.leaves(tree)[0]))]


def train_deep_ensemble(
    model,
    source,
    seeds: Sequence[int],
    *,
    num_steps: int = 800,
    batch_size: int = 128,
    peak: float = 4e-3,
    warmup: int = 100,
    weight_decay: float = 0.1,
    augment: str = "flip",
    progress: str | None = None,
) -> tuple[dict, dict[str, np.ndarray]]:
    """`classification.train_classifier` for several seeds as one program: the same members, with a leading M axis.

    Each member has its own initial parameters and its own order of the images. On an accelerator that a small model
    does not fill, M members train in little more time than one; a CPU core is busy with one (`kit bench e3`).
    """
    from kitlib.data import image_batches  # here, because Grain takes longer to import than JAX

    if not seeds:
        raise ValueError("An ensemble has at least one member, got no seeds.")
    tx, step = adamw_cosine_step(
        classification.classification_loss, model, num_steps, peak, warmup=warmup, weight_decay=weight_decay
    )
    shape = (1, *source.image_shape)
    state = stack([loop.init_state(classification.init_params(model, shape, seed), tx, seed) for seed in seeds])
    each = [image_batches.batches(source, batch_size, seed=seed, augment=augment) for seed in seeds]
    state, history = loop.fit(
        _together(step), state, map(_stack_batches, zip(*each, strict=True)), num_steps, progress=progress
    )
    return state.params, {name: np.moveaxis(values, 0, 1) for name, values in history.items()}


@functools.cache
def _together(step: Callable) -> Callable:
    return jax.jit(jax.vmap(step), donate_argnums=0)


def _stack_batches(batches):
    return jax.tree.map(lambda *arrays: np.stack(arrays), *batches)


def predict_members(model, members: Sequence[dict], images, *, batch_size: int = 500) -> np.ndarray:
    """Logits float32[M, B, V] of M training runs of a model; float32[M * M', B, V] if the model has M' members."""
    if not members:
        raise ValueError("An ensemble has at least one member, got no parameters.")
    logits = np.stack([classification.predict(model, params, images, batch_size=batch_size) for params in members])
    return logits.reshape(-1, *logits.shape[-2:])
