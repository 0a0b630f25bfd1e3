import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitlib.layers import t5_layers


@pytest.mark.parametrize(
    ("bidirectional", "buckets"),
    [
        # 32 buckets, 16 per side: 8 for single distances, and 8 that grow from 8 to 128 by a factor of sqrt(2).
        (True, {-1: 1, 0: 0, 1: 17, -7: 7, 7: 23, -8: 8, 8: 24, -90: 14, -91: 15, 91: 31, 128: 31, -5000: 15}),
        # 8 * sqrt(2)^k is whole for even k: 16, 32 and 64 are the first distances of buckets 10, 12 and 14.
        (True, {-15: 9, -16: 10, 16: 26, -31: 11, -32: 12, -63: 13, -64: 14, -127: 15, -128: 15}),
        # All 32 are for earlier keys: 16 single distances, then from 16 to 128 by a factor of 2^(3/16).
        (False, {0: 0, -15: 15, -16: 16, -32: 21, -64: 26, -112: 30, -113: 31, -5000: 31, 1: 0, 5000: 0}),
    ],
)
def test_relative_buckets(bidirectional, buckets):
    found = t5_layers.relative_buckets(jnp.array(list(buckets)), bidirectional)
    np.testing.assert_array_equal(found, list(buckets.values()))


def test_rms_norm_by_hand():
    # Mean square of (3, 4): 12.5. The mean is not subtracted and no bias is added.
    y = t5_layers.rms_norm(jnp.array([[3.0, 4.0]]), jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(y, [[3 / 12.5**0.5, 8 / 12.5**0.5]], rtol=1e-6)


def test_rms_norm_is_computed_in_float32():
    # The squares of 300 are beyond float16, and their mean beyond bfloat16's 8 bits.
    x = jnp.full((1, 8), 300.0, jnp.bfloat16)
    y = t5_layers.rms_norm(x, jnp.ones(8))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y.astype(jnp.float32), 1.0)


@pytest.mark.parametrize("batch", [1, 5])
def test_a_shared_bias_has_the_gradient_of_a_sum(batch):
    """Whole numbers, so that no order of addition matters: the gradient of the bias is the sum over the examples."""
    draw = np.random.default_rng(0)
    scores, given = (jnp.asarray(draw.integers(-9, 10, (batch, 2, 3, 4)), jnp.float32) for _ in range(2))
    bias = jnp.asarray(draw.integers(-9, 10, (1, 2, 3, 4)), jnp.float32)
    out, back = jax.vjp(t5_layers.add_bias, scores, bias)
    np.testing.assert_array_equal(out, np.asarray(scores) + np.asarray(bias))
    to_scores, to_bias = jax.jit(back)(given)
    np.testing.assert_array_equal(to_scores, given)
    np.testing.assert_array_equal(to_bias, np.asarray(given).sum(axis=0, keepdims=True))


def test_attention_weights_by_hand():
    # One query, d = 4, scores 4 and 2: divided by sqrt(d) they would be 2 and 1. The bias makes them 4 and 3.
    query = jnp.ones((1, 1, 1, 4))
    key = jnp.array([1.0, 0.5, 9.0])[None, None, :, None] * jnp.ones((1, 1, 1, 4))
    bias = jnp.array([0.0, 1.0, 0.0])[None, None, None]
    mask = jnp.array([True, True, False])[None, None, None]
    weights = t5_layers.attention_weights(query, key, bias, mask)[0, 0, 0]
    np.testing.assert_allclose(weights, [np.e / (1 + np.e), 1 / (1 + np.e), 0.0], rtol=1e-6)


def test_a_query_without_unmasked_keys_gets_equal_weights():
    nothing = jnp.zeros((1, 1, 1, 3), bool)
    weights = t5_layers.attention_weights(jnp.ones((1, 1, 1, 2)), jnp.ones((1, 1, 3, 2)), None, nothing)
    np.testing.assert_allclose(weights, 1 / 3, rtol=1e-6)
