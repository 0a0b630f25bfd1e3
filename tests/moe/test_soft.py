import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trees import random_tree

from kitlib import configs, moe
from kitlib.moe.experts import linear_layer
from kitlib.moe.soft import soft_moe, soft_weights

B, N, D, F = 3, 10, 8, 16
X = jnp.asarray(np.random.default_rng(0).normal(size=(B, N, D)), jnp.float32)
C = configs.MoEConfig(num_experts=4, router="soft", capacity_factor=2.0, split_init=True)


def random_params(layer):
    """Large parameters, so that the logits differ and biases matter."""
    return random_tree(jax.eval_shape(layer.init, jax.random.key(0), X)["params"])


def run(c, params, x=X):
    return jax.jit(moe.MoEMlp(c, F).apply)({"params": params}, x)


def test_weights_by_hand():
    # Two tokens, one expert with one slot, logits 0 and ln 3: the slot takes 1/4 and 3/4 of the tokens, and each token
    # takes the whole slot.
    logits = jnp.array([0.0, np.log(3)], jnp.float32).reshape(1, 2, 1, 1)
    dispatch_weights, combine_weights = soft_weights(logits)
    np.testing.assert_allclose(dispatch_weights.ravel(), [0.25, 0.75], rtol=1e-6)
    np.testing.assert_allclose(combine_weights.ravel(), [1.0, 1.0], rtol=1e-6)
    padding = soft_weights(logits, jnp.zeros((1, 2), bool))  # of nothing but padding: anything finite
    assert all(np.isfinite(weights).all() for weights in padding)
    dispatch_weights, _ = soft_weights(logits, jnp.array([[True, False]]))  # padding has weight 0
    np.testing.assert_allclose(dispatch_weights.ravel(), [1.0, 0.0], rtol=1e-6)


@pytest.mark.slow
def test_one_slot_and_identity_experts_give_the_weighted_mean_of_the_tokens():
    mu = jnp.zeros((D, 1, 1))  # all logits are 0: plain means
    y, out = soft_moe(X, mu, jnp.ones(()), lambda buffers: buffers)
    np.testing.assert_allclose(y, jnp.broadcast_to(X.mean(axis=1, keepdims=True), X.shape), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out["combine_weights"], 1.0)


@pytest.mark.slow
def test_soft_moe_by_definition():
    params = random_params(moe.MoEMlp(C, F))
    y, out = run(C, params)
    slots = moe.capacity(C, N)
    assert slots == 5  # factor 2 of 10 tokens over 4 experts
    for b in range(B):
        x = np.asarray(X[b])
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        mu = np.asarray(params["mu"]).reshape(D, -1)
        logits = float(params["scale"]) * unit @ (mu / np.linalg.norm(mu, axis=0, keepdims=True))
        dispatch_weights = np.exp(logits) / np.exp(logits).sum(axis=0)
        combine_weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        mixed = (dispatch_weights.T @ x).reshape(4, slots, D)
        outputs = [
            moe.mlp_expert(linear_layer, jax.tree.map(lambda p, e=e: p[e], params["Mlp"]), mixed[e]) for e in range(4)
        ]
        np.testing.assert_allclose(y[b], combine_weights @ np.concatenate(outputs), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(out["combine_weights"].sum(axis=-1), 1.0, rtol=1e-5)


@pytest.mark.slow
def test_soft_moe_keeps_images_apart_and_follows_permutations():
    params = random_params(moe.MoEMlp(C, F))
    y, _ = run(C, params)
    np.testing.assert_allclose(run(C, params, X.at[1].set(0.0))[0][0], y[0], rtol=1e-5, atol=1e-5)
    order = np.random.default_rng(1).permutation(N)
    np.testing.assert_allclose(run(C, params, X[:, order])[0], y[:, order], rtol=1e-4, atol=1e-4)
