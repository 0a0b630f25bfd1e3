import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from flax.traverse_util import flatten_dict
from zoo import IMAGES, TINY

from kitlib.configs import BatchEnsembleConfig
from kitlib.layers.vit_layers import sincos_positions
from kitlib.models import vit
from kitlib.models.vit import ViT
from kitlib.upcycling import surgery


def run(config, images=IMAGES, params=None, train=False, **fields):
    return zoo.applied(ViT(config), train=train)(zoo.params(config) if params is None else params, images, **fields)


def test_every_intermediate_has_its_name_and_shape():
    logits, out = jax.eval_shape(lambda: run(TINY))
    assert logits.shape == (3, 10)
    assert {name: x.shape for name, x in flatten_dict(out, sep="/").items()} == {
        "stem": (3, 16, 64),
        "with_posemb": (3, 17, 64),
        **{f"block0{i}/{name}": (3, 17, 64) for i in range(2) for name in ("sa", "+sa", "mlp", "+mlp")},
        **{f"block0{i}/attention": (3, 4, 17, 17) for i in range(2)},
        "encoded": (3, 17, 64),
        "pooled": (3, 64),
        "logits": (3, 10),
    }


@pytest.mark.slow
def test_the_first_prediction_is_uniform_and_images_do_not_meet():
    assert np.all(run(TINY, params=ViT(TINY).init(jax.random.key(0), IMAGES)["params"])[0] == 0.0)
    np.testing.assert_allclose(run(TINY, IMAGES[:1])[0], run(TINY)[0][:1], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["tok", "gap", "map", "none"])
def test_pooling_without_a_head(pool):
    logits, out = run(TINY.replace(pool=pool, num_classes=0))
    tokens = {"tok": out["encoded"][:, 0], "gap": out["encoded"].mean(axis=1), "none": out["encoded"]}
    assert logits.shape == ((3, 16, 64) if pool == "none" else (3, 64))
    if pool in tokens:
        np.testing.assert_allclose(logits, tokens[pool], atol=1e-6)


@pytest.mark.slow
def test_fixed_positions_are_those_of_the_patches_and_none_of_the_class_token():
    config = TINY.replace(posemb="sincos2d", pool="tok")
    assert "pos_embedding" not in zoo.params(config)
    _, out = run(config)
    added = out["with_posemb"][:, 1:] - out["stem"]
    np.testing.assert_allclose(added, np.repeat(sincos_positions((4, 4), 64), 3, axis=0), atol=1e-6)
    np.testing.assert_array_equal(out["with_posemb"][:, 0], np.repeat(zoo.params(config)["cls"][0], 3, axis=0))


@pytest.mark.slow
def test_without_positions_the_order_of_patches_does_not_matter():
    """Average pooling over tokens without positions: permuting the patches does not change the logits."""
    config = TINY.replace(pool="gap")
    params = zoo.params(config)
    patches = IMAGES.reshape(3, 4, 7, 4, 7, 1).transpose(0, 1, 3, 2, 4, 5).reshape(3, 16, 7, 7, 1)
    order = np.random.default_rng(1).permutation(16)
    shuffled = patches[:, order].reshape(3, 4, 4, 7, 7, 1).transpose(0, 1, 3, 2, 4, 5).reshape(3, 28, 28, 1)
    without = params | {"pos_embedding": np.zeros_like(params["pos_embedding"])}
    np.testing.assert_allclose(run(config, shuffled, without)[0], run(config, params=without)[0], atol=1e-4)
    assert np.abs(run(config, shuffled)[0] - run(config)[0]).max() > 1e-2  # the control: with positions it does


@pytest.mark.slow
def test_dropout_and_stochastic_depth_act_in_training_only():
    def logits(seed, train):
        rngs = dict(zip(("dropout", "drop_path"), jax.random.split(jax.random.key(seed)), strict=True))
        return run(TINY.replace(dropout=0.3, drop_path=0.5), train=train, rngs=rngs)[0]

    np.testing.assert_array_equal(logits(0, False), logits(1, False))
    np.testing.assert_array_equal(logits(0, True), logits(0, True))
    assert np.abs(logits(0, True) - logits(1, True)).max() > 1e-3


@pytest.mark.slow
def test_stochastic_depth_is_the_whole_block_or_nothing():
    # Rate 1/2 in the second (last) block, 0 in the first: an example's last block adds 0 or twice its branch.
    config, images = TINY.replace(drop_path=0.5, parallel=True), jnp.tile(IMAGES[:1], (64, 1, 1, 1))
    _, out = run(config, images, train=True, rngs={"drop_path": jax.random.key(0)})
    added = out["block01"]["+mlp"] - out["block00"]["+mlp"]
    branch = out["block01"]["sa"] + out["block01"]["mlp"]
    kept = np.abs(added).max(axis=(1, 2)) > 0
    assert 16 < kept.sum() < 48  # 64 fair coins: 4 standard deviations
    np.testing.assert_allclose(added[kept], 2 * branch[kept], atol=1e-4)


@pytest.mark.slow
def test_bfloat16_activations_keep_float32_parameters_and_logits():
    params = zoo.params(TINY)
    logits, out = run(TINY.replace(dtype="bfloat16"), params=params)
    assert logits.dtype == out["block00"]["attention"].dtype == jnp.float32
    assert out["encoded"].dtype == jnp.bfloat16
    reference = run(TINY)[0]
    np.testing.assert_allclose(logits, reference, atol=0.05 * float(np.abs(reference).max()))


def test_wrong_images_are_refused():
    for images, error, message in (
        (jnp.zeros((28, 28, 1)), ValueError, r"got shape \(28, 28, 1\); add the axis"),
        (jnp.zeros((2, 35, 28, 1)), ValueError, r"\(35, 28, 1\), the model expects \(28, 28, 1\)"),
        (jnp.zeros((2, 28, 28, 1), jnp.uint8), TypeError, "got uint8; scale them"),
    ):
        with pytest.raises(error, match=message):
            ViT(TINY).init(jax.random.key(0), images)


# --------------------------------------------------------------------------------------------------------- in two parts


FOUR = TINY.replace(depth=4, layer_scale=0.1)
SPARSE = surgery.vision_recipe(FOUR, num_experts=4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", [FOUR, SPARSE, FOUR.replace(pool="gap", representation_size=8), FOUR.replace(pool="map")]
)
@pytest.mark.parametrize("first", [1, 2])
def test_two_parts_compute_what_the_whole_does(config, first):
    params = zoo.params(config)
    lower, upper = vit.split(params, first)
    tokens = vit.tokens_before(config, lower, IMAGES, first)
    assert tokens.shape == (3, config.num_tokens, 64)
    logits, out = zoo.applied(vit.UpperViT(vit.upper_config(config, first)))(upper, tokens)
    whole, everything = run(config)
    np.testing.assert_allclose(logits, whole, atol=1e-5)
    np.testing.assert_allclose(out["encoded"], everything["encoded"], atol=1e-5)
    assert ("auxiliary_loss" in out) == (config is SPARSE)


def test_parts_come_together_again():
    params = zoo.params(FOUR)
    lower, upper = vit.split(params, 3)
    assert "head" not in lower and set(lower["Transformer"]) == {f"encoderblock_{i}" for i in range(3)}
    assert "head" in upper and set(upper["Transformer"]) == {"encoderblock_0", "encoder_norm"}
    jax.tree.map(np.testing.assert_array_equal, vit.join(lower, upper, 3), params)


def test_what_cannot_be_split():
    members = FOUR.replace(batch_ensemble=BatchEnsembleConfig((3,), 2))
    for config, first, message in (
        (FOUR, 0, "first is 0; with 4 blocks it must be 1 to 3"),
        (FOUR, 4, "first is 4"),
        (SPARSE, 3, r"experts in blocks \[2\]"),
        (members, 2, "batch_ensemble=BatchEnsembleConfig"),
    ):
        with pytest.raises(ValueError, match=message):
            vit.upper_config(config, first)
