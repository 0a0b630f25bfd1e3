import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trees import random_params

from kitlib import configs
from kitlib.ensembles import uncertainty
from kitlib.ensembles.methods import Mimo, mimo_batch, mimo_loss, predict_members
from kitlib.models import checkpoint
from kitlib.models.vit import ViT
from kitlib.training import classification

SIZES = {"width": 8, "depth": 1, "mlp_dim": 12, "num_heads": 2, "image_size": (8, 8), "channels": 1, "num_classes": 3}
TINY = configs.vit("tiny/4", **SIZES)
MOE = configs.MoEConfig(num_experts=4, capacity_factor=4.0)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (6, 8, 8, 1)).astype(np.float32)
BATCH = {"image": IMAGES, "label": np.array([0, 1, 2, 1, 0, 2])}

PAIR = Mimo(TINY, 2)


def mimo_params(config=TINY, m=2):
    """Random parameters of the wide ViT that a Mimo is."""
    return {"ViT": random_params(config.replace(channels=m * config.channels, num_classes=m * config.num_classes))}


@functools.cache
def mimo_apply(model):
    return jax.jit(lambda params, images: model.apply({"params": params}, images))


def test_mimo_of_one_is_the_vit():
    params, model = random_params(TINY), Mimo(TINY, 1)
    want = classification.predict(ViT(TINY), params, IMAGES, batch_size=6)
    logits, out = mimo_apply(model)({"ViT": params}, IMAGES)
    for got in (logits, out["logits"]):
        np.testing.assert_array_equal(got, want[None])
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)["params"]
    assert jax.tree.map(lambda s: s.shape, shapes) == {"ViT": jax.tree.map(lambda p: p.shape, params)}


def test_mimo_has_the_parameters_of_a_vit_with_wider_ends():
    # M images of one channel in, M times V logits out: only the first kernel and the head grow.
    shapes = jax.eval_shape(PAIR.init, jax.random.key(0), IMAGES)["params"]["ViT"]
    assert shapes["embedding"]["kernel"].shape == (4, 4, 2, 8)
    assert shapes["head"]["kernel"].shape == (8, 6) and shapes["head"]["bias"].shape == (6,)
    wide, plain = (sum(s.size for s in jax.tree.leaves(t)) for t in (shapes, checkpoint.expected_shapes(TINY)))
    assert wide - plain == 4 * 4 * 8 + 8 * 3 + 3


@pytest.mark.slow
def test_in_testing_all_members_read_the_same_images():
    params = mimo_params()
    logits, _ = mimo_apply(PAIR)(params, IMAGES)
    assert logits.shape == (2, 6, 3) and logits.dtype == jnp.float32
    np.testing.assert_array_equal(mimo_apply(PAIR)(params, np.stack([IMAGES] * 2))[0], logits)
    predicted = classification.predict(PAIR, params, IMAGES, batch_size=4)  # padded
    np.testing.assert_allclose(predicted, logits, rtol=1e-4, atol=1e-4)
    ensemble = predict_members(PAIR, [params, params], IMAGES, batch_size=4)
    np.testing.assert_array_equal(ensemble, np.concatenate([predicted, predicted]))


def test_image_i_of_one_member_changes_prediction_i_of_all_members_only():
    params = mimo_params()
    pictures = np.stack([IMAGES, IMAGES[::-1]])
    before, _ = mimo_apply(PAIR)(params, pictures)
    for m in (0, 1):
        changed = pictures.copy()
        changed[m, 2] = 0.0
        after, _ = mimo_apply(PAIR)(params, changed)
        difference = np.abs(after - before).max(axis=-1)
        assert np.all(difference[:, 2] > 1e-3) and np.all(difference[:, [0, 1, 3, 4, 5]] < 1e-5)


@pytest.mark.slow
def test_images_lie_side_by_side_in_the_channels_and_classes_in_the_head():
    # Two channels per image: channels 0-1 of the wide image are member 0's, 2-3 member 1's. With zero weights for 2-3,
    # member 1's image has no effect. The head is member 0's classes, then member 1's.
    config = TINY.replace(channels=2)
    model, params = Mimo(config, 2), mimo_params(config)
    pictures = np.random.default_rng(2).uniform(-1, 1, (2, 6, 8, 8, 2)).astype(np.float32)
    params["ViT"]["embedding"]["kernel"][:, :, 2:] = 0.0
    full, _ = mimo_apply(model)(params, pictures)
    for m, seen in ((0, True), (1, False)):
        changed = pictures.copy()
        changed[m] = 0.0
        assert np.array_equal(mimo_apply(model)(params, changed)[0], full) != seen
    params["ViT"]["head"] = {"kernel": np.zeros((8, 6), np.float32), "bias": np.arange(6, dtype=np.float32)}
    logits, _ = mimo_apply(model)(params, pictures)
    np.testing.assert_array_equal(logits[:, 0], [[0, 1, 2], [3, 4, 5]])


def test_other_images_and_other_models_than_a_plain_vit_are_refused():
    for shape in ((3, 6, 8, 8, 1), (8, 8, 1)):
        with pytest.raises(ValueError, match=r"Expected images \[M=2"):
            jax.eval_shape(PAIR.apply, {"params": mimo_params()}, jax.ShapeDtypeStruct(shape, jnp.float32))
    members = configs.BatchEnsembleConfig((0,), 2)
    for fields in ({"num_classes": 0}, {"pool": "none"}, {"batch_ensemble": members}):
        with pytest.raises(ValueError, match="plain ViT"):
            jax.eval_shape(Mimo(TINY.replace(**fields), 2).init, jax.random.key(0), IMAGES)


def dealt(size, m, **fields):
    """The index of the image that each member reads at each position, int[M, R * B]; checks the labels as well."""
    # All pixels of image i are i and its label is 10 * i.
    images = np.tile(np.arange(size)[:, None, None, None], (1, 2, 2, 1))
    batch = mimo_batch({"image": images, "label": 10 * np.arange(size)}, jax.random.key(0), m, **fields)
    images, labels = np.asarray(batch["image"]), np.asarray(batch["label"])
    assert images.shape == (m, fields.get("repetitions", 1) * size, 2, 2, 1) and labels.shape == images.shape[:2]
    assert np.all(10 * images == labels[..., None, None, None])
    return images[..., 0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("repetitions", [1, 3])
@pytest.mark.parametrize("same", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("m", [1, 3])
def test_every_member_reads_every_image_equally_often(m, same, repetitions):
    numbers = dealt(5, m, repetitions=repetitions, same=same)
    for row in numbers:
        np.testing.assert_array_equal(np.sort(row), np.repeat(np.arange(5), repetitions))
    equal = np.all(numbers == numbers[:1], axis=0).sum()
    assert equal >= 5 * repetitions - round((1 - same) * 5 * repetitions)
    if same == 1.0 or m == 1:
        assert equal == 5 * repetitions


@pytest.mark.slow
@pytest.mark.parametrize("repetitions", [1, 2])
@pytest.mark.parametrize("same", [0.0, 0.25, 0.9])
def test_members_read_the_same_image_at_the_given_share_of_positions(same, repetitions):
    # In addition, two independent orders agree by chance at as many positions as there are copies of an image, on
    # average (Poisson): with two copies, at 15 or more with a probability of 1e-8.
    numbers = dealt(200, 3, same=same, repetitions=repetitions)
    shared = round(200 * repetitions * same)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert shared <= (numbers[a] == numbers[b]).sum() < shared + 15


@pytest.mark.slow
def test_members_are_independent_where_they_are_not_the_same():
    # Fixed points of a random order of 4: mean 1, variance 1. Over 500 keys, within 4 standard errors; at every
    # position with probability 1/4.
    keys = jax.random.split(jax.random.key(0), 500)
    deal = jax.jit(jax.vmap(lambda key: mimo_batch({"label": jnp.arange(4)}, key, 2)["label"]))
    labels = np.asarray(deal(keys))
    equal = labels[:, 0] == labels[:, 1]
    assert abs(equal.sum(axis=1).mean() - 1.0) < 4 / np.sqrt(500)
    assert np.all(np.abs(equal.mean(axis=0) - 1 / 4) < 4 * np.sqrt(3 / 16 / 500))
    for m in (0, 1):  # and each member's order is uniform: an image is at each position with probability 1/4
        share = np.stack([(labels[:, m] == i).mean(axis=0) for i in range(4)])
        assert np.all(np.abs(share - 1 / 4) < 4 * np.sqrt(3 / 16 / 500))
    np.testing.assert_array_equal(dealt(50, 2, same=0.5), dealt(50, 2, same=0.5))  # by the key alone


@pytest.mark.slow
def test_the_loss_of_one_member_is_that_of_its_vit():
    # Every image occurs twice and in another order, but the loss is a mean.
    params = random_params(TINY)
    want = jax.jit(classification.classification_loss(ViT(TINY)))(params, BATCH, jax.random.key(0))
    got = jax.jit(mimo_loss(Mimo(TINY, 1), repetitions=2))({"ViT": params}, BATCH, jax.random.key(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, want)
    # Of members that read the same images it is their mean loss.
    params = mimo_params()
    logits, _ = mimo_apply(PAIR)(params, IMAGES)
    loss, measured = jax.jit(mimo_loss(PAIR, same=1.0))(params, BATCH, jax.random.key(0))
    assert float(loss) == pytest.approx(uncertainty.members_nll(logits, BATCH["label"]), rel=1e-5)
    assert float(measured["accuracy"]) == pytest.approx(np.mean(logits.argmax(axis=-1) == BATCH["label"][None]))


def test_mimo_trains_with_the_recipe_and_with_experts():
    """Initial parameters are those of a Mimo; a V-MoE inside adds its auxiliary loss."""
    config = TINY.replace(moe=MOE, moe_blocks=(0,))
    model = Mimo(config, 2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES[:1])["params"]
    loss, measured = jax.eval_shape(mimo_loss(model, repetitions=2), shapes, BATCH, jax.random.key(0))
    names = {"accuracy", "auxiliary_loss", "dropped", "unprocessed", "load", "busiest"}
    assert loss.shape == () and set(measured) == names
