import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from devices import run_on_devices
from flax.traverse_util import flatten_dict, unflatten_dict
from trees import random_params
from zoo import SMALL, SMALL_IMAGES, ensemble, is_fast, logits_of

from kitlib import configs
from kitlib.layers import batch_ensemble
from kitlib.models import checkpoint
from kitlib.models.vit import ViT
from kitlib.training import classification, optim
from kitlib.upcycling import surgery

BATCH = {"image": SMALL_IMAGES[:4], "label": np.array([0, 1, 2, 1])}
# Shape of an example, features, axis.
LAYERS = {
    "vector": ((5,), 7, -1), "tokens": ((4, 5), 7, -1), "query": ((4, 6), (2, 3), -1),
    "out": ((4, 2, 3), 5, (-2, -1)), "heads to heads": ((2, 3), (4, 2), (-2, -1)),
}  # fmt: skip


def layer_and_params(name, **fields):
    """A layer of M = 3 members, its parameters with a wide spread, and M * 2 examples."""
    example, features, axis = LAYERS[name]
    layer = batch_ensemble.Dense(ensemble(num_members=3), features, axis, **fields)
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(6, *example)), jnp.float32)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    return layer, jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), shapes), x


def outer(a, b):
    return a.reshape(a.shape + (1,) * b.ndim) * b.reshape((1,) * a.ndim + b.shape)


def by_definition(params, x, axis):
    """Computes each member's kernel W * (alpha gamma^T), then one plain product per member."""
    axes = 1 if axis == -1 else len(axis)
    alphas, gammas = params["fast_weight_alpha"], params["fast_weight_gamma"]
    size, answers = len(x) // len(alphas), []
    for m, (alpha, gamma) in enumerate(zip(alphas, gammas, strict=True)):
        y = jnp.tensordot(x[m * size : (m + 1) * size], params["kernel"] * outer(alpha, gamma), axes)
        answers.append(y + jnp.broadcast_to(params["bias"][m], y.shape))
    return jnp.concatenate(answers)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LAYERS))
def test_a_layer_is_one_plain_product_per_member(name):
    layer, params, x = layer_and_params(name)

    def loss(fn):
        def of(params, x):
            y = fn(params, x)
            return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

        return jax.jit(jax.value_and_grad(of, argnums=(0, 1), has_aux=True))

    (_, want), want_grads = loss(lambda p, x: by_definition(p, x, LAYERS[name][2]))(params, x)
    (_, got), grads = loss(lambda p, x: layer.apply({"params": p}, x))(params, x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), grads, want_grads)


def test_two_members_by_hand():
    # W = [1 2; 3 4], alpha = (1, 1) and (2, 0), gamma = (1, 1) and (1, 10), biases 0 and (5, 6), x = (1, 1) for both.
    # Member 0: (1 + 3, 2 + 4). Member 1 sees (2, 0): (2, 4), times gamma (2, 40), plus bias (7, 46).
    params = {
        "kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]]),
        "fast_weight_alpha": jnp.array([[1.0, 1.0], [2.0, 0.0]]),
        "fast_weight_gamma": jnp.array([[1.0, 1.0], [1.0, 10.0]]),
        "bias": jnp.array([[0.0, 0.0], [5.0, 6.0]]),
    }
    y = batch_ensemble.Dense(ensemble(), 2).apply({"params": params}, jnp.ones((2, 2)))
    np.testing.assert_array_equal(y, [[4, 6], [7, 46]])


@pytest.mark.parametrize("name", list(LAYERS))
def test_parameters_have_the_names_and_shapes_of_the_public_code(name):
    _, params, _ = layer_and_params(name)
    example, features, axis = LAYERS[name]
    inputs = example[-1:] if axis == -1 else example[-2:]
    outputs = features if isinstance(features, tuple) else (features,)
    own = {"bias": (3, *outputs), "fast_weight_alpha": (3, *inputs), "fast_weight_gamma": (3, *outputs)}
    assert {n: p.shape for n, p in params.items()} == {"kernel": (*inputs, *outputs)} | own
    # M (C + D) for the fast weights, and M biases instead of one: M (C + D) + (M - 1) D more.
    c, d = int(np.prod(inputs)), int(np.prod(outputs))
    assert sum(p.size for p in params.values()) - (c * d + d) == 3 * (c + d) + 2 * d
    assert "bias" not in layer_and_params(name, use_bias=False)[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "init"), [("vector", None), ("query", nn.initializers.normal()), ("out", nn.initializers.xavier_uniform())]
)
def test_the_kernel_is_drawn_as_that_of_a_dense_layer(name, init):
    layer, _, x = layer_and_params(name)
    (_, features, axis), fields = LAYERS[name], {"kernel_init": init} if init else {}
    layers = batch_ensemble.Dense(layer.config, features, axis, **fields), nn.DenseGeneral(features, axis, **fields)
    ours, plain = jax.jit(lambda key: [layer.init(key, x)["params"] for layer in layers])(jax.random.key(5))
    np.testing.assert_array_equal(ours["kernel"], plain["kernel"])
    assert np.all(ours["bias"] == 0.0)


@pytest.mark.slow
def test_bfloat16_activations_keep_float32_parameters():
    layer, params, x = layer_and_params("tokens", dtype=jnp.bfloat16)  # parameters as `init` makes them
    assert {p.dtype for p in params.values()} == {jnp.dtype("float32")}
    y = layer.apply({"params": params}, x)
    assert y.dtype == jnp.bfloat16
    want = by_definition(params, x, -1)
    # Four roundings to 8 bits (inputs, weights, products), relative to the largest answer.
    np.testing.assert_allclose(y.astype(jnp.float32), want, atol=4 * 2.0**-8 * float(np.abs(want).max()))


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.5])
def test_normal_fast_weights_have_mean_one_and_the_spread_as_standard_deviation(spread):
    n = 20_000
    draws = np.asarray(batch_ensemble.fast_weight_init(ensemble(spread=spread))(jax.random.key(0), (4, n // 4)))
    assert draws.shape == (4, n // 4)
    # Standard errors: s / sqrt(n) of a mean, s / sqrt(2 n) of a normal's standard deviation; 4 of each.
    assert abs(draws.mean() - 1.0) <= 4 * spread / np.sqrt(n)
    assert abs(draws.std() - spread) <= 4 * spread / np.sqrt(2 * n)


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 1.0])
def test_signs_are_plus_one_with_the_probability_given(p):
    n = 20_000
    init = batch_ensemble.fast_weight_init(ensemble(sign_probability=p, spread=0.3))
    draws = np.asarray(init(jax.random.key(0), (n,)))
    assert set(np.unique(draws)) <= {-1.0, 1.0}
    assert abs((draws > 0).mean() - p) <= 4 * np.sqrt(p * (1 - p) / n)  # exact at 0 and 1


@pytest.mark.slow
def test_members_and_both_sides_draw_their_own_fast_weights():
    layer = batch_ensemble.Dense(ensemble(), 64, kernel_init=nn.initializers.zeros)
    params = layer.init(jax.random.key(0), jnp.ones((2, 64)))["params"]
    rows = [params[f"fast_weight_{side}"][m] for side in ("alpha", "gamma") for m in (0, 1)]
    assert np.abs(np.corrcoef(rows) - np.eye(4)).max() < 4 / np.sqrt(64)


def members_as_vits(params, m):
    """The parameters of the plain ViT that equals member m: its kernels, and its own or shared other parameters."""
    flat, plain = flatten_dict(params), {}
    for path, leaf in flat.items():
        if is_fast(path[-1]):
            continue
        alpha = flat.get((*path[:-1], "fast_weight_alpha"))
        if alpha is not None and path[-1] == "kernel":
            leaf = leaf * outer(alpha[m], flat[(*path[:-1], "fast_weight_gamma")][m])
        elif alpha is not None:
            leaf = leaf[m]
        plain[path] = leaf
    return unflatten_dict(plain)


MODELS = {
    "MLP of the last block": {"batch_ensemble": ensemble((1,), 3)},
    "attention, out of order": {"batch_ensemble": ensemble((1, 0), 2, attention=True)},
    "ViT-22B": {"batch_ensemble": ensemble((1,), 2, attention=True), "pool": "map"} | configs.VIT22B_BLOCK,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_every_member_is_the_vit_with_its_kernels(name):
    config = SMALL.replace(**MODELS[name])
    params = random_params(config)
    logits = logits_of(config, params)
    m = config.batch_ensemble.num_members
    assert logits.shape == (m, 4, 3)
    plain = config.replace(batch_ensemble=None)
    wants = [logits_of(plain, members_as_vits(params, i)) for i in range(m)]
    np.testing.assert_allclose(logits, wants, rtol=1e-4, atol=1e-4)
    for i in range(1, m):  # the control: members are not the same
        assert np.abs(wants[i] - wants[0]).max() > 1e-2


@pytest.mark.slow
def test_tokens_are_copied_before_the_first_block_and_members_are_the_outer_axis():
    config = SMALL.replace(depth=3, batch_ensemble=ensemble((2, 1), 3))
    assert (config.num_members, config.tiled_block, config.tiled_after_attention) == (3, 1, False)
    shapes = jax.eval_shape(ViT(config).apply, {"params": checkpoint.expected_shapes(config)}, SMALL_IMAGES[:4])[1]
    assert [shapes[f"block0{i}"]["+mlp"].shape[0] for i in range(3)] == [4, 12, 12]
    assert shapes["encoded"].shape[0] == 12 and shapes["logits"].shape == (3, 4, 3)


@pytest.mark.parametrize("attention", [False, True])
def test_only_the_given_blocks_and_the_head_have_fast_weights(attention):
    config = SMALL.replace(depth=3, batch_ensemble=ensemble((0, 2), 2, attention=attention))
    names = flatten_dict(checkpoint.expected_shapes(config), sep="/")
    layers = {name.rpartition("/")[0] for name in names if is_fast(name)}
    inside = [f"MlpBlock_0/Dense_{i}" for i in (0, 1)]
    if attention:
        inside += [f"MultiHeadDotProductAttention_0/{part}" for part in ("query", "key", "value", "out")]
    assert layers == {"head", *(f"Transformer/encoderblock_{i}/{part}" for i in (0, 2) for part in inside)}
    plain = flatten_dict(checkpoint.expected_shapes(SMALL.replace(depth=3)), sep="/")
    assert {name for name in names if not is_fast(name)} == set(plain)


@pytest.mark.slow
def test_a_fresh_head_is_zero_and_the_first_prediction_of_every_member_uniform():
    config = SMALL.replace(**MODELS["MLP of the last block"])
    params = random_params(config)
    params["head"] = jax.jit(lambda key: ViT(config).init(key, SMALL_IMAGES[:4])["params"]["head"])(jax.random.key(0))
    assert np.all(logits_of(config, params) == 0.0)
    assert np.all(params["head"]["fast_weight_alpha"] != 0.0)


LEARNER = SMALL.replace(**MODELS["attention, out of order"])


@functools.cache
def loss_and_gradients():
    loss = classification.classification_loss(ViT(LEARNER))
    return jax.jit(jax.value_and_grad(lambda params: loss(params, BATCH, jax.random.key(0))[0]))


@pytest.mark.slow
def test_gradients_reach_every_fast_weight_and_bias():
    grads = jax.device_get(loss_and_gradients()(random_params(LEARNER))[1])
    for name, grad in flatten_dict(grads, sep="/").items():
        assert np.isfinite(grad).all(), name
        # A bias of the keys adds the same to all scores of a query: its gradient is zero but for rounding.
        if (is_fast(name) or name.endswith("bias")) and not name.endswith("key/bias"):
            assert np.all(np.abs(grad).max(axis=-1) > 0), name


@pytest.mark.slow
def test_weight_decay_leaves_fast_weights_alone():
    # Without gradients, only the decay of the kernels remains.
    tx = optim.assemble(optax.identity(), 1.0, weight_decay=0.1)
    updates = jax.jit(lambda p: tx.update(jax.tree.map(jnp.zeros_like, p), tx.init(p), p)[0])(random_params(LEARNER))
    for name, update in flatten_dict(jax.device_get(updates), sep="/").items():
        assert np.any(update != 0) == name.endswith("kernel"), name


def trained(spread):
    """The largest difference of two members' logits after 20 steps from one ViT, and the losses."""
    config = LEARNER.replace(batch_ensemble=dataclasses.replace(LEARNER.batch_ensemble, spread=spread))
    params = surgery.batch_ensemble_from_dense(random_params(SMALL), config, jax.random.key(0))
    losses = []
    for _ in range(20):
        loss, grads = loss_and_gradients()(params)
        params = jax.tree.map(lambda p, g: p - np.float32(0.1) * np.asarray(g), params, grads)
        losses.append(float(loss))
    logits = logits_of(LEARNER, params)
    return np.abs(logits[1] - logits[0]).max(), losses


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_members_that_start_equal_stay_equal_and_others_stay_different(spread):
    """Gradients of equal members are the same, so they never differ: only the spread makes an ensemble of them."""
    difference, losses = trained(spread)
    assert difference > 1e-2 if spread else difference < 1e-4
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_blocks_with_experts_and_blocks_with_fast_weights_go_together():
    """Experts in block 1 get all members' tokens; with enough capacity and fast weights of 1, members agree."""
    sparse = SMALL.replace(moe=configs.MoEConfig(2, num_selected=2, capacity_factor=2.0), moe_blocks=(1,))
    config = sparse.replace(batch_ensemble=ensemble((0,), 2, spread=0.0))
    dense = random_params(sparse)
    params = surgery.batch_ensemble_from_dense(dense, config, jax.random.key(0))
    logits = logits_of(config, params)
    np.testing.assert_allclose(logits, np.broadcast_to(logits_of(sparse, dense), (2, 4, 3)), rtol=1e-4, atol=1e-4)


# ----------------------------------------------------------------------------------------------------------- the layout


def test_on_one_device_members_are_outermost():
    x = jnp.arange(3)
    assert batch_ensemble.tile(x, 2).tolist() == [0, 1, 2, 0, 1, 2]
    assert batch_ensemble.split(batch_ensemble.tile(x, 2), 2).tolist() == [[0, 1, 2], [0, 1, 2]]
    y = jnp.arange(12).reshape(2, 3, 2)
    np.testing.assert_array_equal(batch_ensemble.split(batch_ensemble.merge(y), 2), y)


@pytest.mark.parametrize("x", [jnp.ones(3), jnp.ones((5, 2)), jnp.ones(())])
def test_unequal_members_are_refused(x):
    with pytest.raises(ValueError, match="does not hold 2 members of equally many examples"):
        batch_ensemble.split(x, 2)


ON_EIGHT = """
from kitlib.layers import batch_ensemble as members
m = mesh.make(data=2, fsdp=4)
with jax.set_mesh(m):
    x = mesh.global_batch(m, np.arange(16).reshape(16, 1))
    tiled = jax.jit(lambda x: mesh.constrain(members.tile(x, 2), "tokens"))
    found["tiled"] = np.asarray(tiled(x)).ravel()[:8].tolist()
    both = jax.jit(lambda x: members.split(members.tile(x, 2), 2))(x)
    found["split"] = bool((np.asarray(both) == np.asarray(x)[None]).all())
    text = tiled.lower(x).compile().as_text()
    found["moved"] = sum(volume.bytes for volume in ahead_of_time.totals(text).values())
    try:
        members.merge(jnp.ones((2, 12)))
    except ValueError as error:
        found["error"] = str(error)
"""


@pytest.mark.slow
def test_on_a_mesh_copying_moves_nothing():
    found = run_on_devices(ON_EIGHT)
    assert found["tiled"] == [0, 1, 0, 1, 2, 3, 2, 3]  # two examples per device, and their copies
    assert found["split"] and found["moved"] == 0
    assert found["error"] == "A batch of 12 does not divide among the 8 parts of the mesh."
