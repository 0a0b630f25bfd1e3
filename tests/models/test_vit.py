import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from trees import random_params

from kitlib import configs
from kitlib.layers.vit_layers import sincos_positions
from kitlib.models import checkpoint
from kitlib.models.vit import ViT

TINY = configs.vit("tiny/7", image_size=(28, 28), channels=1, num_classes=10)
VIT22B = configs.VIT22B_BLOCK
IMAGES = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 28, 28, 1)), jnp.float32)


def test_every_intermediate_has_its_name_and_shape():
    model = ViT(TINY)
    logits, out = jax.eval_shape(lambda: model.apply({"params": random_params(TINY, spread=0.1)}, IMAGES))
    assert {name: x.shape for name, x in flatten_dict(out, sep="/").items()} == {
        "stem": (3, 16, 64),
        "with_posemb": (3, 17, 64),
        **{f"block0{i}/{name}": (3, 17, 64) for i in range(2) for name in ("sa", "+sa", "mlp", "+mlp")},
        **{f"block0{i}/attention": (3, 4, 17, 17) for i in range(2)},
        "encoded": (3, 17, 64),
        "pooled": (3, 64),
        "logits": (3, 10),
    }
    assert logits.shape == (3, 10)


@pytest.mark.slow
def test_the_first_prediction_is_uniform():
    model = ViT(TINY)
    params = model.init(jax.random.key(0), IMAGES)
    assert np.all(model.apply(params, IMAGES)[0] == 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pool", "shape"), [("tok", (3, 64)), ("gap", (3, 64)), ("map", (3, 64)), ("none", (3, 16, 64))]
)
def test_pooling_without_a_head(pool, shape):
    config = TINY.replace(pool=pool, num_classes=0)
    logits, out = ViT(config).apply({"params": random_params(config, spread=0.1)}, IMAGES)
    assert logits.shape == shape
    tokens = {"tok": out["encoded"][:, 0], "gap": out["encoded"].mean(axis=1), "none": out["encoded"]}
    if pool in tokens:
        np.testing.assert_allclose(logits, tokens[pool], atol=1e-6)


@pytest.mark.slow
def test_fixed_positions_are_those_of_the_patches_and_none_of_the_class_token():
    config = TINY.replace(posemb="sincos2d", pool="tok")
    params = random_params(config, spread=0.1)
    assert "pos_embedding" not in params
    _, out = ViT(config).apply({"params": params}, IMAGES)
    added = out["with_posemb"][:, 1:] - out["stem"]
    np.testing.assert_allclose(added, np.repeat(sincos_positions((4, 4), 64), 3, axis=0), atol=1e-6)
    np.testing.assert_array_equal(out["with_posemb"][:, 0], np.repeat(params["cls"][0], 3, axis=0))


@pytest.mark.slow
def test_without_positions_the_order_of_patches_does_not_matter():
    """Average pooling over tokens without positions: permuting the patches does not change the logits."""
    config = TINY.replace(pool="gap")
    params = random_params(config, spread=0.1)
    patches = IMAGES.reshape(3, 4, 7, 4, 7, 1).transpose(0, 1, 3, 2, 4, 5).reshape(3, 16, 7, 7, 1)
    order = np.random.default_rng(1).permutation(16)
    shuffled = patches[:, order].reshape(3, 4, 4, 7, 7, 1).transpose(0, 1, 3, 2, 4, 5).reshape(3, 28, 28, 1)

    def logits(images, params):
        return ViT(config).apply({"params": params}, images)[0]

    without = params | {"pos_embedding": jnp.zeros_like(params["pos_embedding"])}
    np.testing.assert_allclose(logits(shuffled, without), logits(IMAGES, without), atol=1e-4)
    assert np.abs(logits(shuffled, params) - logits(IMAGES, params)).max() > 1e-2  # the control: with positions it does


def test_vit22b_block_parameters():
    names = set(flatten_dict(checkpoint.expected_shapes(TINY.replace(**VIT22B))["Transformer"]["encoderblock_0"]))
    mha = "MultiHeadDotProductAttention_0"
    assert names == {
        ("LayerNorm_0", "scale"),
        *((mha, part, "kernel") for part in ("query", "key", "value", "out")),
        (mha, "out", "bias"),
        (mha, "query_ln", "scale"),
        (mha, "key_ln", "scale"),
        *(("MlpBlock_0", f"Dense_{i}", leaf) for i in (0, 1) for leaf in ("kernel", "bias")),
    }


@pytest.mark.slow
def test_dropout_and_stochastic_depth_act_in_training_only():
    config = TINY.replace(dropout=0.3, drop_path=0.5)
    model, params = ViT(config), {"params": random_params(config, spread=0.1)}

    def run(seed, train):
        keys = jax.random.split(jax.random.key(seed))
        return model.apply(params, IMAGES, train=train, rngs={"dropout": keys[0], "drop_path": keys[1]})[0]

    np.testing.assert_array_equal(run(0, False), run(1, False))
    np.testing.assert_array_equal(run(0, True), run(0, True))
    assert np.abs(run(0, True) - run(1, True)).max() > 1e-3


@pytest.mark.slow
def test_stochastic_depth_is_the_whole_block_or_nothing():
    # Rate 1/2 in the second (last) block, 0 in the first: an example's last block adds 0 or twice its branch.
    config = TINY.replace(drop_path=0.5, parallel=True)
    model, params = ViT(config), {"params": random_params(config, spread=0.1)}
    images = jnp.tile(IMAGES[:1], (64, 1, 1, 1))
    _, out = model.apply(params, images, train=True, rngs={"drop_path": jax.random.key(0)})
    added = out["block01"]["+mlp"] - out["block00"]["+mlp"]
    branch = out["block01"]["sa"] + out["block01"]["mlp"]
    kept = np.abs(added).max(axis=(1, 2)) > 0
    assert 16 < kept.sum() < 48  # 64 fair coins: 4 standard deviations
    np.testing.assert_allclose(added[kept], 2 * branch[kept], atol=1e-4)


@pytest.mark.slow
def test_bfloat16_activations_keep_float32_parameters_and_logits():
    config = TINY.replace(dtype="bfloat16")
    params = random_params(config, spread=0.1)
    logits, out = ViT(config).apply({"params": params}, IMAGES)
    assert logits.dtype == jnp.float32
    assert out["encoded"].dtype == jnp.bfloat16
    assert out["block00"]["attention"].dtype == jnp.float32
    reference = ViT(TINY).apply({"params": params}, IMAGES)[0]
    np.testing.assert_allclose(logits, reference, atol=0.05 * float(np.abs(reference).max()))


@pytest.mark.slow
def test_one_image():
    params = {"params": random_params(TINY, spread=0.1)}
    one = ViT(TINY).apply(params, IMAGES[:1])[0]
    np.testing.assert_allclose(one, ViT(TINY).apply(params, IMAGES)[0][:1], atol=1e-4)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (jnp.zeros((28, 28, 1)), ValueError, r"got shape \(28, 28, 1\); add the axis"),
        (jnp.zeros((2, 28, 28, 3)), ValueError, r"\(28, 28, 3\), the model expects \(28, 28, 1\)"),
        (jnp.zeros((2, 35, 28, 1)), ValueError, r"\(35, 28, 1\), the model expects \(28, 28, 1\)"),
        (jnp.zeros((2, 28, 28, 1), jnp.uint8), TypeError, "got uint8; scale them"),
    ],
)
def test_wrong_images_are_refused(images, error, message):
    with pytest.raises(error, match=message):
        ViT(TINY).init(jax.random.key(0), images)
