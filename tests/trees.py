"""Trees of parameters that tests of several modules need."""

import jax
import numpy as np

from kitlib import checkpoint


def random_params(config, seed=0):
    """Parameters away from their special initial values (zero heads hide mistakes); numpy compiles nothing."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        centre = 1.0 if "scale" in path[-1].key or "fast_weight" in path[-1].key else 0.0
        return (centre + rng.normal(scale=0.3, size=leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, checkpoint.expected_shapes(config))
