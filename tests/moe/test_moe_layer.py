import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trees import random_tree

from kitlib import configs, moe
from kitlib.layers import vit_layers
from kitlib.models.vit import ViT
from kitlib.moe import routing
from kitlib.moe.experts import linear_layer
from kitlib.moe.moe_layer import soft_moe, soft_weights
from kitlib.training import classification

B, N, D, F = 3, 10, 8, 16
X = jnp.asarray(np.random.default_rng(0).normal(size=(B, N, D)), jnp.float32)
DROPLESS = {"num_selected": 2, "dispatch": "dropless", "capacity_factor": None}
ROUTERS = {
    "top-1": {},
    "top-2, tight": {"num_experts": 4, "num_selected": 2, "capacity": 3, "capacity_factor": None},
    "priority": {"num_experts": 4, "capacity_factor": 0.5, "batch_priority": True},
    "renormalized": {"num_experts": 4, "num_selected": 2, "renormalize": True},
    "einsum": {"num_experts": 4, "num_selected": 2, "dispatch": "einsum", "renormalize": True},
    "dropless": DROPLESS | {"renormalize": True, "group_size": 8},  # of 30 tokens, 4 groups of 8 with 2 of padding
    "expert choice": {"num_experts": 4, "router": "expert_choice", "capacity_factor": 1.0},
    "soft": {"num_experts": 4, "router": "soft", "capacity_factor": 2.0},
}


def config(**changes):
    return configs.MoEConfig(**{"num_experts": 4, "split_init": True} | changes)


def random_params(layer):
    """Large parameters, so that the logits differ and biases matter."""
    return random_tree(jax.eval_shape(layer.init, jax.random.key(0), X)["params"])


@functools.partial(jax.jit, static_argnums=0)  # one program per layer and shapes, for all tests
def apply(layer, params, *arguments):
    return layer.apply({"params": params}, *arguments)


def run(c, params, x=X, valid=None, **kwargs):
    return apply(moe.MoEMlp(c, F, **kwargs), params, x, valid)


def by_definition(params, x, weights, gated=False):
    """Every expert on every token, times its combine weight float32[B, N, E]."""
    expert = moe.gated_mlp_expert if gated else moe.mlp_expert
    outputs = [
        expert(linear_layer, jax.tree.map(lambda p, e=e: p[e], params["Mlp"]), x) for e in range(weights.shape[-1])
    ]
    return sum(weights[..., e, None] * y for e, y in enumerate(outputs))


@pytest.mark.slow
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("name", [name for name in ROUTERS if name != "soft"])
def test_layer_is_the_weighted_sum_of_experts(name, gated):
    c = config(**ROUTERS[name])
    params = random_params(moe.MoEMlp(c, F, gated))
    y, out = run(c, params, gated=gated)
    np.testing.assert_allclose(y, by_definition(params, X, out["combine_weights"], gated), rtol=1e-4, atol=1e-4)
    assert out["probabilities"].shape == out["combine_weights"].shape == (B, N, c.num_experts)
    np.testing.assert_allclose(out["probabilities"].sum(axis=-1), 1.0, rtol=1e-5)
    # Without renormalisation, a weight is the raw probability of an expert, or 0 if it does not process the token; with
    # it, those of a token sum to 1, or to 0.
    w = out["combine_weights"]
    if c.renormalize:
        np.testing.assert_allclose(w.sum(axis=-1), np.float32((w > 0).any(axis=-1)), rtol=1e-5)
    else:
        np.testing.assert_allclose(w, np.where(w > 0, out["probabilities"], 0.0), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"num_experts": 1, "capacity_factor": 1.0}, {"num_selected": 4}, {"num_selected": 2, "renormalize": True}],
)
def test_identical_experts_with_weights_that_sum_to_one_are_the_mlp(changes):
    # K = E without renormalisation, or any K with it, and nothing dropped (2212.05055, section 2 and B.7).
    c = config(**{"split_init": False, "capacity_factor": 4.0} | changes)
    params = random_params(moe.MoEMlp(c, F))
    params["Mlp"] = jax.tree.map(lambda p: jnp.broadcast_to(p[:1], p.shape), params["Mlp"])
    want = apply(vit_layers.MlpBlock(F), jax.tree.map(lambda p: p[0], params["Mlp"]), X)
    y, out = run(c, params)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)
    assert out["metrics"]["dropped"] == 0.0


@pytest.mark.slow
def test_dropped_tokens_are_zero_and_counted():
    # 30 tokens, all of which choose expert 0, since the router has only one column that is not zero; with two slots, 28
    # tokens are dropped.
    c = config(capacity=2, capacity_factor=None)
    params = random_params(moe.MoEMlp(c, F))
    params["Router"]["dense"]["kernel"] = jnp.zeros((D, 4)).at[:, 0].set(1.0)
    y, out = run(c, params, jnp.abs(X))
    assert np.sum(np.any(np.asarray(y) != 0, axis=-1)) == 2
    assert np.any(np.asarray(y[0, :2]) != 0, axis=-1).all()  # the first two tokens
    np.testing.assert_allclose(out["metrics"]["dropped"], 28 / 30, rtol=1e-6)
    np.testing.assert_allclose(out["metrics"]["load"], [1, 0, 0, 0])


@pytest.mark.parametrize(("batch", "tokens", "size"), [(1, 1, 1), (1, 7, 3), (2, 5, 5), (3, 4, 100), (4, 3, None)])
def test_groups_fit_any_batch_and_length(batch, tokens, size):
    x = jnp.arange(batch * tokens * 2, dtype=jnp.float32).reshape(batch, tokens, 2)
    groups, valid = moe.to_groups(x, None, size)
    assert groups.shape[1] <= (size or batch * tokens)
    np.testing.assert_array_equal(moe.from_groups(groups, batch, tokens), x)
    assert (valid is None) == (groups.shape[0] * groups.shape[1] == batch * tokens)
    if valid is not None:
        assert valid.sum() == batch * tokens


@pytest.mark.slow
def test_gradients_are_finite_where_padding_is_zero():
    c = config(router="soft", capacity=2, capacity_factor=None)
    layer = moe.MoEMlp(c, F)
    params = random_params(layer)
    valid = jnp.broadcast_to(jnp.arange(N) < N - 2, (B, N))

    def loss(params, x):
        return (layer.apply({"params": params}, x, valid)[0] ** 2).sum()

    grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, X * valid[..., None])
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ROUTERS))
def test_padding_changes_nothing(name):
    """Sequences have the same outputs with padding after them as without, and the outputs of padding are zero."""
    c = config(**ROUTERS[name])
    if c.capacity_factor is not None:  # the same number of slots for every length, which are parameters of Soft MoE
        c = c.replace(capacity={"soft": 5, "expert_choice": 7}.get(c.router, 4), capacity_factor=None)
    params = random_params(moe.MoEMlp(c, F))
    padded = jnp.concatenate([X, 100.0 * jnp.ones((B, 3, D))], axis=1)
    valid = jnp.broadcast_to(jnp.arange(N + 3) < N, (B, N + 3))
    alone, with_padding = run(c, params), run(c, params, padded, valid)
    np.testing.assert_allclose(with_padding[0][:, :N], alone[0], rtol=1e-4, atol=1e-4)
    if c.router != "soft":
        assert (with_padding[0][:, N:] == 0).all()
        for key, value in alone[1]["metrics"].items():
            np.testing.assert_allclose(with_padding[1]["metrics"][key], value, rtol=1e-5, atol=1e-6, err_msg=key)


@pytest.mark.slow
def test_noise_only_in_training_and_from_its_own_key():
    c = config()
    layer = moe.MoEMlp(c, F)
    params = random_params(layer)
    params["Router"]["dense"]["kernel"] *= 0.01  # nearly equal logits, so that the noise decides

    def trained(seed):
        rngs = {"router": jax.random.key(seed)}
        return layer.apply({"params": params}, X, train=True, rngs=rngs)[1]["combine_weights"]

    assert not np.array_equal(trained(0), trained(1))
    np.testing.assert_array_equal(trained(0), trained(0))
    layer.apply({"params": params}, X)  # needs no key


@pytest.mark.slow
@pytest.mark.parametrize("router", ["top_k", "expert_choice"])
def test_auxiliary_losses_are_weighted_and_summed(router):
    weights = {"importance_weight": 0.1, "load_weight": 0.0, "balance_weight": 0.01, "z_weight": 0.001}
    if router == "expert_choice":  # has the z-loss and no other
        weights |= {"load_weight": 0.1}
    c = config(router=router, num_selected=2, capacity_factor=1.0, **weights)
    params = random_params(moe.MoEMlp(c, F))
    logits = X.reshape(1, B * N, D) @ params["Router"]["dense"]["kernel"]
    p = jax.nn.softmax(logits)
    want = 0.001 * routing.z_loss(logits)
    if router == "top_k":
        want += 0.1 * routing.importance_loss(p) + 0.01 * routing.balance_loss(p, routing.top_k(p, 2).expert)
    np.testing.assert_allclose(run(c, params)[1]["auxiliary_loss"], want, rtol=1e-5)
    # If logits are NaN, the loss is NaN, so that `fit` stops and names the step.
    params["Router"]["dense"]["kernel"] *= jnp.nan
    assert np.isnan(run(c, params)[1]["auxiliary_loss"])


@pytest.mark.slow
def test_the_load_loss_is_added_only_with_noise():
    c = config(importance_weight=0.0, load_weight=1.0)
    layer = moe.MoEMlp(c, F)
    params = random_params(layer)
    assert layer.apply({"params": params}, X)[1]["auxiliary_loss"] == 0.0
    noisy = layer.apply({"params": params}, X, train=True, rngs={"router": jax.random.key(0)})[1]
    assert noisy["auxiliary_loss"] > 0.0


SOFT = config(**ROUTERS["soft"])


def test_soft_weights_by_hand():
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
    params = random_params(moe.MoEMlp(SOFT, F))
    y, out = run(SOFT, params)
    slots = moe.capacity(SOFT, N)
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
    params = random_params(moe.MoEMlp(SOFT, F))
    y, _ = run(SOFT, params)
    np.testing.assert_allclose(run(SOFT, params, X.at[1].set(0.0))[0][0], y[0], rtol=1e-5, atol=1e-5)
    order = np.random.default_rng(1).permutation(N)
    np.testing.assert_allclose(run(SOFT, params, X[:, order])[0], y[:, order], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_training_adds_the_auxiliary_loss_and_reports_the_routers():
    c = config(num_selected=2, importance_weight=1.0)
    model = ViT(configs.vmoe("tiny/7", "every-2", c, image_size=(28, 28), channels=1, num_classes=10))
    params = classification.init_params(model, (1, 28, 28, 1))
    batch = {"image": jnp.cos(jnp.arange(4.0 * 28 * 28)).reshape(4, 28, 28, 1), "label": jnp.arange(4)}
    loss, metrics = jax.jit(classification.classification_loss(model))(params, batch, jax.random.key(0))
    # The head starts at zero, so the cross-entropy is log 10.
    np.testing.assert_allclose(loss, np.log(10) + metrics["auxiliary_loss"], rtol=1e-5)
    assert metrics["auxiliary_loss"] > 0
    assert metrics["load"].shape == (1, 4) and metrics["dropped"].shape == (1,)


def test_which_blocks_have_experts():
    # As in V-MoE: the last n of the odd blocks, or every n-th block.
    assert configs.vmoe("VMoE-S/32", "last-2").moe_blocks == (5, 7)
    assert configs.vmoe("B/16", "last-2").moe_blocks == (9, 11)
    assert configs.vmoe("H/14", "last-5").moe_blocks == (23, 25, 27, 29, 31)
    assert configs.vmoe("B/16", "every-2").moe_blocks == (1, 3, 5, 7, 9, 11)
    assert configs.vmoe("B/16", "every-4").moe_blocks == (3, 7, 11)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *[(changes, "one of capacity and capacity_factor") for changes in ({"capacity": 4}, {"capacity_factor": None})],
        ({"capacity": 0, "capacity_factor": None}, "capacity is 0"),
        ({"dispatch": "dropless"}, "has no capacity"),
        ({"dispatch": "dropless", "router": "expert_choice"}, "Dropless dispatch is for token choice"),
        ({"noise_std": 0.0}, "load loss needs router noise"),
    ],
)
def test_bad_configurations(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_bad_batches_and_v_moe_configurations():
    with pytest.raises(ValueError, match="at least one token"):
        moe.to_groups(jnp.zeros((0, N, D)), None, None)
    for changes in ({"moe_blocks": (1,)}, {"moe": config()}, {"moe": config(), "moe_blocks": (12,)}):
        with pytest.raises(ValueError, match=r"come together|not all among the 12 blocks"):
            configs.vit("B/16", **changes)
