"""Initial parameters, drawn in one compiled call; trained ones, shuffled, as a control."""

import functools

import jax
import numpy as np


def init_params(model, *inputs: np.ndarray, seed: int = 0) -> dict:
    """The initial "params" of a Linen module. inputs: example arguments of its call; only shapes and dtypes matter.

    Pass numpy arrays: they stay constants if this is called under `jax.eval_shape`.
    """
    return _jitted_init(model)(jax.random.key(seed), *inputs)


def shuffled_params(params, seed: int = 0):
    """Every array of a tree with its own values in a random order: sizes as trained, and nothing learned.

    The control for a trained start. Unlike initial parameters, its values have the sizes that training gave them.
    """
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.permutation(np.ravel(leaf)).reshape(np.shape(leaf)), params)


@functools.cache
def _jitted_init(model):
    return jax.jit(lambda key, *inputs: model.init(key, *inputs)["params"])  # the forward pass is not computed
