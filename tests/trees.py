"""Random trees of parameters for the tests of several modules."""

import jax
import jax.numpy as jnp
import numpy as np

from kitlib.models import checkpoint


def random_params(config, seed=0, spread=0.3):
    """Parameters away from their special initial values (zero heads and zero biases hide mistakes), as numpy arrays.

    Normal with standard deviation `spread`: around 1 for the scales of norms and for fast weights, else around 0.
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        centre = 1.0 if "scale" in path[-1].key or "fast_weight" in path[-1].key else 0.0
        return (centre + rng.normal(scale=spread, size=leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, checkpoint.expected_shapes(config))


def random_tree(shapes, seed=0, spread=1.0):
    """JAX arrays for a tree of shapes: normal around 0 with standard deviation `spread`, biases and scales included."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(scale=spread, size=leaf.shape), leaf.dtype), shapes)
