import flax.linen as nn
import jax
import numpy as np
import pytest

from kitlib.layers.initialize import init_params, shuffled_params

MODEL = nn.Dense(3)
INPUTS = np.ones((2, 5), np.float32)


@pytest.mark.slow
def test_parameters_are_those_of_the_modules_own_init():
    want = MODEL.init(jax.random.key(7), INPUTS)["params"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), init_params(MODEL, INPUTS, seed=7), dict(want)
    )


def test_only_the_shapes_of_the_inputs_and_the_seed_matter():
    first = init_params(MODEL, INPUTS)
    jax.tree.map(np.testing.assert_array_equal, init_params(MODEL, 0 * INPUTS), first)
    assert np.any(init_params(MODEL, INPUTS, seed=1)["kernel"] != first["kernel"])
    shapes = jax.eval_shape(lambda: init_params(MODEL, INPUTS))
    assert jax.tree.map(lambda s: s.shape, shapes) == {"kernel": (5, 3), "bias": (3,)}


def test_shuffled_arrays_keep_their_values_and_lose_their_order():
    """100 different values of a kernel, in another order for another seed; a bias of three equal ones stays."""
    tree = {"kernel": jax.numpy.arange(100.0).reshape(20, 5), "bias": np.ones(3, np.float32)}
    first, again, other = shuffled_params(tree), shuffled_params(tree), shuffled_params(tree, seed=1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert first["kernel"].shape == (20, 5) and first["kernel"].dtype == np.float32
    np.testing.assert_array_equal(np.sort(first["kernel"], axis=None), np.arange(100))
    assert (first["kernel"] != tree["kernel"]).mean() > 0.9 and (first["kernel"] != other["kernel"]).mean() > 0.9
    np.testing.assert_array_equal(first["bias"], tree["bias"])
