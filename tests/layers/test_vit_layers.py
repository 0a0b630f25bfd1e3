import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from kitlib import configs
from kitlib.layers import vit_layers


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def assert_same_with_gradients(mine, library, *inputs, atol=1e-5):
    """Outputs and the gradients of a fixed, uneven weighting of them, for every input."""

    def weighted(fn):
        def scalar(*xs):
            y = fn(*xs)
            return jnp.sum(y * jnp.cos(jnp.arange(y.size).reshape(y.shape))), y

        return jax.grad(scalar, argnums=tuple(range(len(inputs))), has_aux=True)

    for got, want in zip(*(jax.tree.leaves(weighted(fn)(*inputs)) for fn in (mine, library)), strict=True):
        np.testing.assert_allclose(got, want, atol=atol, rtol=1e-5)


def test_patchify_by_hand():
    # A 4 x 6 image whose pixel values are row * 10 + column, cut into patches of 2: two rows of three patches.
    image = np.add.outer(10 * np.arange(4), np.arange(6)).reshape(1, 4, 6, 1)
    expected = [
        [0, 1, 10, 11], [2, 3, 12, 13], [4, 5, 14, 15],
        [20, 21, 30, 31], [22, 23, 32, 33], [24, 25, 34, 35],
    ]  # fmt: skip
    np.testing.assert_array_equal(vit_layers.patchify(image, 2)[0], expected)
    channels = np.arange(2 * 2 * 3).reshape(1, 2, 2, 3)  # of a pixel stay together
    np.testing.assert_array_equal(vit_layers.patchify(channels, 2)[0, 0], np.arange(12))


@pytest.mark.slow
def test_patch_embedding_is_a_strided_convolution():
    images = normal(0, 2, 8, 12, 3)
    module = vit_layers.PatchEmbedding(width=5, patch_size=4)
    params = {"kernel": normal(1, 4, 4, 3, 5), "bias": normal(2, 5)}
    conv = nn.Conv(5, (4, 4), strides=(4, 4), padding="VALID")
    ours, theirs = (lambda x, k, m=m: m.apply({"params": params | {"kernel": k}}, x) for m in (module, conv))
    assert_same_with_gradients(ours, lambda x, k: theirs(x, k).reshape(2, 6, 5), images, params["kernel"])


def test_sizes_that_do_not_fit_are_refused():
    for message, call in (
        ("9 x 8 pixels do not divide into patches of 4", lambda: vit_layers.patchify(jnp.zeros((1, 9, 8, 1)), 4)),
        ("width divisible by 4, got 6", lambda: vit_layers.sincos_positions((2, 2), 6)),
        ("18 positions are not a", lambda: vit_layers.resize_positions(jnp.zeros((1, 18, 2)), (4, 4), (6, 6))),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_sincos_by_hand():
    # D = 8: two frequencies, 1 and 1/10,000. Position (row 1, column 2): sin and cos of 2 and 2e-4, then of 1 and 1e-4.
    table = vit_layers.sincos_positions((2, 3), 8)
    assert table.shape == (1, 6, 8)
    x, y = np.array([2, 2e-4]), np.array([1, 1e-4])
    np.testing.assert_allclose(table[0, 5], [*np.sin(x), *np.cos(x), *np.sin(y), *np.cos(y)], atol=1e-7)
    np.testing.assert_allclose(table[0, 0], [0, 0, 1, 1, 0, 0, 1, 1])
    # Dot products depend on the offset only: sin a sin b + cos a cos b = cos(a - b), per frequency and axis.
    table = vit_layers.sincos_positions((5, 5), 32)[0].reshape(5, 5, 32)
    assert np.dot(table[0, 1], table[2, 2]) == pytest.approx(np.dot(table[2, 3], table[4, 4]), abs=1e-5)


def test_resize_by_hand():
    # One row of two positions with values 0 and 1 becomes four: corners stay, the rest divides the way evenly.
    table = jnp.array([0.0, 1.0]).reshape(1, 2, 1)
    resized = vit_layers.resize_positions(table, (1, 2), (1, 4))[0, :, 0]
    np.testing.assert_allclose(resized, [0, 1 / 3, 2 / 3, 1], atol=1e-6)


@pytest.mark.parametrize("new", [(7, 7), (3, 9), (2, 5), (1, 1)])
def test_resize_is_the_zoom_of_the_reference_codes(new):
    table = normal(0, 1, 16, 3)
    expected = ndimage.zoom(np.asarray(table).reshape(4, 4, 3), (new[0] / 4, new[1] / 4, 1), order=1)
    got = vit_layers.resize_positions(table, (4, 4), new).reshape(*new, 3)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    with_class_token = jnp.concatenate([jnp.full((1, 1, 3), 7.0), table], axis=1)
    resized = vit_layers.resize_positions(with_class_token, (4, 4), new)
    np.testing.assert_array_equal(resized, jnp.concatenate([with_class_token[:, :1], got.reshape(1, -1, 3)], axis=1))
    assert vit_layers.resize_positions(table, (4, 4), (4, 4)) is table


def test_cubic_resize_by_hand():
    # Two positions become one in the middle: its neighbours are at -1 (the edge again), 0, 1 and 2 (again), at
    # distances 1.5, 0.5, 0.5, 1.5. Keys' weights with a = -0.75: 0.59375 near, -0.09375 far: 1/2 for each position.
    table = jnp.array([1.0, 3.0]).reshape(1, 2, 1)
    assert float(vit_layers.resize_positions(table, (1, 2), (1, 1), cubic=True)[0, 0, 0]) == pytest.approx(2.0)
    # 4 -> 2: the first new position is at 0.5, between old 0 and 1; old -1 is 0 again: 0.5 of old 0, 0.59375 of old 1,
    # -0.09375 of old 2.
    table = jnp.array([1.0, 2.0, 4.0, 8.0]).reshape(1, 4, 1)
    first = float(vit_layers.resize_positions(table, (1, 4), (1, 2), cubic=True)[0, 0, 0])
    assert first == pytest.approx(0.5 * 1 + 0.59375 * 2 - 0.09375 * 4)
    # Constants and the class token stay.
    table = jnp.concatenate([jnp.full((1, 1, 2), 7.0), jnp.full((1, 37 * 37, 2), 3.0)], axis=1)
    resized = vit_layers.resize_positions(table, (37, 37), (16, 9), cubic=True)
    np.testing.assert_allclose(resized[0, 0], 7.0)
    np.testing.assert_allclose(resized[0, 1:], np.full((144, 2), 3.0), rtol=1e-6)


def test_attention_by_hand():
    # One query, two keys, d = 4, so scores are divided by 2. Scores 2 ln 3 / 2 = ln 3 and 0: weights 3/4 and 1/4.
    query = jnp.array([2 * np.log(3), 0, 0, 0]).reshape(1, 1, 1, 4)
    key = jnp.array([[1.0, 0, 0, 0], [0, 1, 0, 0]]).reshape(1, 2, 1, 4)
    value = jnp.array([[4.0, 0, 0, 0], [0, 8, 0, 0]]).reshape(1, 2, 1, 4)
    out, weights = vit_layers.attention(query, key, value)
    np.testing.assert_allclose(weights[0, 0, 0], [0.75, 0.25], atol=1e-6)
    np.testing.assert_allclose(out[0, 0, 0], [3, 2, 0, 0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m", "heads"), [(5, 5, 2), (1, 7, 3), (4, 1, 1)])
def test_attention_against_jax(n, m, heads):
    q, k, v = normal(0, 2, n, heads, 8), normal(1, 2, m, heads, 8), normal(2, 2, m, heads, 8)
    assert_same_with_gradients(lambda *x: vit_layers.attention(*x)[0], jax.nn.dot_product_attention, q, k, v)


@pytest.mark.slow
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_module_against_flax(qk_norm, bias):
    x, kv = normal(0, 2, 5, 12), normal(1, 2, 7, 12)
    theirs = nn.MultiHeadDotProductAttention(num_heads=3, normalize_qk=qk_norm, use_bias=bias)
    params = jax.tree.map(lambda p: normal(p.size, *p.shape), theirs.init(jax.random.key(0), x, kv)["params"])
    mine_params = dict(params)
    if not bias:  # ours keeps the output bias, as ViT-22B does
        mine_params["out"] = params["out"] | {"bias": jnp.zeros(12)}
    ours = vit_layers.MultiHeadDotProductAttention(3, qkv_bias=bias, qk_norm=qk_norm)
    assert_same_with_gradients(
        lambda *a: ours.apply({"params": mine_params}, *a)[0], lambda *a: theirs.apply({"params": params}, *a), x, kv
    )


@pytest.mark.slow
def test_qk_norm_bounds_the_scores():
    # After LayerNorm with scale 1 a vector of d channels has norm sqrt(d), so |q.k| / sqrt(d) <= sqrt(d): no score can
    # leave [-sqrt(d), sqrt(d)], however large the input; the weights are at least exp(-2 sqrt(d)) / N.
    d, n = 4, 6
    module = vit_layers.MultiHeadDotProductAttention(2, qk_norm=True)
    x = normal(0, 1, n, 2 * d)
    params = module.init(jax.random.key(0), x, x)
    _, weights = module.apply(params, 1e4 * x, 1e4 * x)
    assert weights.min() >= np.exp(-2 * np.sqrt(d)) / n
    plain = vit_layers.MultiHeadDotProductAttention(2)
    _, collapsed = plain.apply(plain.init(jax.random.key(0), x, x), 1e4 * x, 1e4 * x)
    assert collapsed.min() == 0.0  # without it the softmax is one-hot


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [False, True])
def test_block_is_its_equation(parallel):
    x = normal(0, 2, 5, 8)
    block = vit_layers.EncoderBlock(mlp_dim=16, num_heads=2, parallel=parallel)
    params = jax.tree.map(lambda p: normal(p.size, *p.shape) / 3, block.init(jax.random.key(0), x)["params"])

    def norm(name, x):
        p = params[name]
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * p["scale"][None, None] + p["bias"][None, None]

    def sa(x):
        module = vit_layers.MultiHeadDotProductAttention(2)
        return module.apply({"params": params["MultiHeadDotProductAttention_0"]}, x, x)[0]

    def mlp(x):
        p = params["MlpBlock_0"]
        hidden = x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"][None, None]
        return jax.nn.gelu(hidden) @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"][None, None]

    if parallel:
        y = norm("LayerNorm_0", x)
        expected = x + sa(y) + mlp(y)
        assert "LayerNorm_1" not in params
    else:
        y = x + sa(norm("LayerNorm_0", x))
        expected = y + mlp(norm("LayerNorm_1", y))
    got, out = block.apply({"params": params}, x)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_array_equal(out["+mlp"], got)


@pytest.mark.slow
def test_vit22b_block_is_two_matmuls():
    """Its input goes through one wide matrix (queries, keys, values, hidden layer), its output through one tall one."""
    d, f, heads, x = 8, 16, 2, normal(0, 2, 5, 8)
    block = vit_layers.EncoderBlock(mlp_dim=f, num_heads=heads, **configs.vision.VIT22B_BLOCK)
    leaves, tree = jax.tree.flatten(block.init(jax.random.key(0), x)["params"])
    params = tree.unflatten([np.asarray(normal(i, *leaf.shape)) / 3 for i, leaf in enumerate(leaves)])
    mha, mlp = params["MultiHeadDotProductAttention_0"], params["MlpBlock_0"]
    wide = [mha[name]["kernel"].reshape(d, d) for name in ("query", "key", "value")] + [mlp["Dense_0"]["kernel"]]
    tall = [mha["out"]["kernel"].reshape(d, d), mlp["Dense_1"]["kernel"]]

    def norm(x, scale):
        centred = x - x.mean(axis=-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) * scale

    y = norm(np.asarray(x), params["LayerNorm_0"]["scale"]) @ np.concatenate(wide, axis=1)
    query, key, value = (part.reshape(2, 5, heads, d // heads) for part in np.split(y[..., : 3 * d], 3, axis=-1))
    query, key = norm(query, mha["query_ln"]["scale"]), norm(key, mha["key_ln"]["scale"])
    weights = jax.nn.softmax(np.einsum("bnhd,bmhd->bhnm", query, key) / np.sqrt(d // heads))
    mixed = np.einsum("bhnm,bmhd->bnhd", weights, value).reshape(2, 5, d)
    hidden = jax.nn.gelu(y[..., 3 * d :] + mlp["Dense_0"]["bias"])
    out = np.concatenate([mixed, hidden], axis=-1) @ np.concatenate(tall)
    expected = np.asarray(x) + out + mha["out"]["bias"] + mlp["Dense_1"]["bias"]
    np.testing.assert_allclose(block.apply({"params": params}, x)[0], expected, atol=1e-5)


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    x = jnp.ones((4000, 2, 3))
    y = vit_layers.drop_path(x, 0.25, jax.random.key(0))
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert np.all(y == y[:, :1, :1])  # an example is kept or dropped as a whole
    # The mean of 4,000 Bernoulli(3/4) / (3/4) has standard deviation sqrt(.25 * .75 / 4000) / .75 = 0.009.
    assert abs(float(y.mean()) - 1.0) < 5 * 0.009
    np.testing.assert_array_equal(vit_layers.drop_path(x, 0.0, jax.random.key(0)), x)


@pytest.mark.slow
def test_map_head_ignores_the_order_of_tokens():
    x = normal(0, 2, 6, 8)
    head = vit_layers.MAPHead(mlp_dim=16, num_heads=2)
    params = head.init(jax.random.key(0), x)
    pooled = head.apply(params, x)
    assert pooled.shape == (2, 8)
    np.testing.assert_allclose(head.apply(params, x[:, ::-1]), pooled, atol=1e-5)
    assert np.abs(head.apply(params, x[::-1]) - pooled).max() > 1e-3  # but not the images


@pytest.mark.slow
def test_gelu_stores_only_its_input():
    """Values and gradients are those of the formula x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))); only x is stored."""
    x = jnp.linspace(-4.0, 4.0, 101)

    def formula(x):
        return 0.5 * x * (1.0 + jnp.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))

    np.testing.assert_allclose(vit_layers.gelu(x), formula(x), rtol=1e-5, atol=1e-6)
    slope = jax.vmap(jax.grad(vit_layers.gelu))(x)
    np.testing.assert_allclose(slope, jax.vmap(jax.grad(formula))(x), rtol=1e-5, atol=1e-6)
    stored = [leaf for leaf in jax.tree.leaves(jax.vjp(vit_layers.gelu, x)[1]) if leaf.size == x.size]
    assert len(stored) == 1 and np.array_equal(stored[0], x)


def test_exact_gelu_by_hand():
    # x * Phi(x): 1 * 0.841345, -2 * 0.022750. The tanh form is off by up to 3e-4.
    np.testing.assert_allclose(vit_layers.gelu_exact(jnp.array([0.0, 1.0, -2.0])), [0, 0.841345, -0.045500], atol=1e-6)
    x = jnp.linspace(-4, 4, 401)
    assert 1e-4 < float(jnp.abs(vit_layers.gelu_exact(x) - vit_layers.gelu(x)).max()) < 5e-4


@pytest.mark.parametrize("parallel", [False, True])
def test_layer_scale_multiplies_both_branches(parallel):
    """With factors of zero a block is the identity; with ones it is the block without them."""
    x = normal(0, 2, 5, 16)
    plain = vit_layers.EncoderBlock(32, 4, parallel=parallel)
    params = plain.init(jax.random.key(0), x)["params"]
    scaled = vit_layers.EncoderBlock(32, 4, parallel=parallel, layer_scale=1e-5)
    first = scaled.init(jax.random.key(0), x)["params"]
    np.testing.assert_allclose(first["LayerScale_0"]["scale"], np.full(16, 1e-5))

    def applied(attention, mlp):
        scales = {f"LayerScale_{i}": {"scale": jnp.full(16, value)} for i, value in enumerate((attention, mlp))}
        return scaled.apply({"params": params | scales}, x)

    expected, out = plain.apply({"params": params}, x)
    np.testing.assert_allclose(applied(1.0, 1.0)[0], expected, atol=1e-6)
    np.testing.assert_allclose(applied(0.0, 0.0)[0], x, atol=1e-6)
    np.testing.assert_allclose(applied(2.0, 0.0)[0], x + 2 * out["sa"], atol=1e-5)
