import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trees import random_params

from kitlib import configs
from kitlib.ensembles.deep_ensemble import predict_members
from kitlib.ensembles.mimo import Mimo, mimo_batch, mimo_loss
from kitlib.models import checkpoint
from kitlib.models.vit import ViT
from kitlib.training import classification, loop, optim

SIZES = {"width": 8, "depth": 1, "mlp_dim": 12, "num_heads": 2, "image_size": (8, 8), "channels": 1, "num_classes": 3}
TINY = configs.vit("tiny/4", **SIZES)
MOE = configs.MoEConfig(num_experts=4, capacity_factor=4.0)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (6, 8, 8, 1)).astype(np.float32)
BATCH = {"image": IMAGES, "label": np.array([0, 1, 2, 1, 0, 2])}

# ---------------------------------------------------------------------------------------------- the model

PAIR = Mimo(TINY, 2)


def mimo_params(config=TINY, m=2):
    """Random parameters of the wide ViT that a Mimo is."""
    wide = config.replace(channels=m * config.channels, num_classes=m * config.num_classes)
    return {"ViT": random_params(wide)}


@functools.cache
def mimo_apply(model):
    return jax.jit(lambda params, images: model.apply({"params": params}, images))


def test_mimo_of_one_is_the_vit():
    params, model = random_params(TINY), Mimo(TINY, 1)
    want = classification.predict(ViT(TINY), params, IMAGES, batch_size=6)
    logits, out = mimo_apply(model)({"ViT": params}, IMAGES)
    np.testing.assert_array_equal(logits, want[None])
    np.testing.assert_array_equal(out["logits"], logits)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)["params"]
    assert jax.tree.map(lambda s: s.shape, shapes) == {"ViT": jax.tree.map(lambda p: p.shape, params)}


def test_mimo_has_the_parameters_of_a_vit_with_wider_ends():
    # M images of one channel in, M times V logits out: only the first kernel and the head grow.
    shapes = jax.eval_shape(PAIR.init, jax.random.key(0), IMAGES)["params"]["ViT"]
    assert shapes["embedding"]["kernel"].shape == (4, 4, 2, 8)
    assert shapes["head"]["kernel"].shape == (8, 6) and shapes["head"]["bias"].shape == (6,)
    more = sum(s.size for s in jax.tree.leaves(shapes)) - sum(
        s.size for s in jax.tree.leaves(checkpoint.expected_shapes(TINY))
    )
    assert more == 4 * 4 * 8 + 8 * 3 + 3


@pytest.mark.slow
def test_in_testing_all_members_read_the_same_images():
    params = mimo_params()
    logits, _ = mimo_apply(PAIR)(params, IMAGES)
    assert logits.shape == (2, 6, 3) and logits.dtype == jnp.float32
    tiled, _ = mimo_apply(PAIR)(params, np.broadcast_to(IMAGES, (2, *IMAGES.shape)))
    np.testing.assert_array_equal(tiled, logits)
    predicted = classification.predict(PAIR, params, IMAGES, batch_size=4)  # padded
    assert predicted.shape == (2, 6, 3)
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
        assert np.all(difference[:, 2] > 1e-3)
        assert np.all(difference[:, [0, 1, 3, 4, 5]] < 1e-5)


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


@pytest.mark.parametrize("shape", [(3, 6, 8, 8, 1), (1, 6, 8, 8, 1), (8, 8, 1)])
def test_another_number_of_images_is_refused(shape):
    with pytest.raises(ValueError, match=r"Expected images \[M=2, B, height, width, channels\] or \[B, \.\.\.\], got"):
        jax.eval_shape(PAIR.apply, {"params": mimo_params()}, jax.ShapeDtypeStruct(shape, jnp.float32))


@pytest.mark.parametrize(
    "fields", [{"num_classes": 0}, {"pool": "none"}, {"batch_ensemble": configs.BatchEnsembleConfig((0,), 2)}]
)
def test_mimo_of_another_model_than_a_plain_vit_is_refused(fields):
    model = Mimo(TINY.replace(**fields), 2)
    with pytest.raises(ValueError, match="made of a plain ViT"):
        jax.eval_shape(model.init, jax.random.key(0), IMAGES)


# ---------------------------------------------------------------------------------------------- training


class Echo:
    """A 'model' whose logits are its images."""

    def apply(self, variables, images, train, rngs):
        return images, None


def loss_of(logits, labels):
    loss_fn = classification.classification_loss(Echo())
    loss, measured = loss_fn({}, {"image": jnp.asarray(logits), "label": jnp.asarray(labels)}, jax.random.key(0))
    return float(loss), float(measured["accuracy"])


def numbered(size):
    """A batch in which all pixels of image i are i and its label is 10 * i."""
    numbers = np.arange(size)
    return {"image": np.tile(numbers[:, None, None, None], (1, 2, 2, 1)).astype(np.float32), "label": 10 * numbers}


def dealt(size, m, seed=0, **fields):
    """The index of the image that each member reads at each position, int[M, R * B]; checks the labels as well."""
    batch = mimo_batch(numbered(size), jax.random.key(seed), m, **fields)
    total = fields.get("repetitions", 1) * size
    assert batch["image"].shape == (m, total, 2, 2, 1) and batch["label"].shape == (m, total)
    numbers = np.asarray(batch["image"])[..., 0, 0, 0].astype(int)
    np.testing.assert_array_equal(
        np.asarray(batch["image"]), np.broadcast_to(numbers[..., None, None, None], batch["image"].shape)
    )
    np.testing.assert_array_equal(batch["label"], 10 * numbers)
    return numbers


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


@pytest.mark.slow
def test_the_key_decides_the_batch():
    np.testing.assert_array_equal(dealt(50, 2, seed=0, same=0.5), dealt(50, 2, seed=0, same=0.5))
    assert not np.array_equal(dealt(50, 2, seed=0, same=0.5), dealt(50, 2, seed=1, same=0.5))


@pytest.mark.slow
def test_the_loss_of_one_member_is_that_of_its_vit():
    # Every image occurs twice and in another order, but the loss is a mean.
    params = random_params(TINY)
    want = jax.jit(classification.classification_loss(ViT(TINY)))(params, BATCH, jax.random.key(0))
    loss_fn = mimo_loss(Mimo(TINY, 1), repetitions=2)
    got = jax.jit(loss_fn)({"ViT": params}, BATCH, jax.random.key(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, want)


@pytest.mark.slow
def test_the_loss_of_members_that_read_the_same_images_is_their_mean_loss():
    params = mimo_params()
    logits, _ = mimo_apply(PAIR)(params, IMAGES)
    loss_fn = mimo_loss(PAIR, same=1.0)
    loss, measured = jax.jit(loss_fn)(params, BATCH, jax.random.key(0))
    assert float(loss) == pytest.approx(loss_of(logits, BATCH["label"])[0], rel=1e-5)
    assert float(measured["accuracy"]) == pytest.approx(loss_of(logits, BATCH["label"])[1])


@pytest.mark.slow
def test_mimo_memorises_a_batch():
    """In training, half of a member's images are its own; in testing, all members know the images they all read."""
    tx = optim.assemble(optax.scale_by_adam(), 1e-2, clip_norm=1.0)
    step = loop.make_step(mimo_loss(PAIR, repetitions=2, same=0.5), tx)
    params = mimo_params()
    params["ViT"]["head"] = jax.tree.map(np.zeros_like, params["ViT"]["head"])
    state, history = loop.fit(step, loop.init_state(params, tx), iter([BATCH] * 200), 200)
    assert history["loss"].shape == (200,)
    assert history["loss"][0] == pytest.approx(np.log(3), rel=1e-5)  # the zero head
    assert history["loss"][-10:].mean() < 0.5 * np.log(3)
    logits = classification.predict(PAIR, state.params, IMAGES, batch_size=4)
    assert np.mean(logits.argmax(axis=-1) == BATCH["label"][None]) > 0.8


def test_mimo_trains_with_the_recipe_and_with_experts():
    """Initial parameters are those of a Mimo; a V-MoE inside adds its auxiliary loss."""
    config = TINY.replace(moe=MOE, moe_blocks=(0,))
    model = Mimo(config, 2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES[:1])["params"]
    loss_fn = mimo_loss(model, repetitions=2)
    loss, measured = jax.eval_shape(loss_fn, shapes, BATCH, jax.random.key(0))
    assert loss.shape == () and set(measured) == {
        "accuracy",
        "auxiliary_loss",
        "dropped",
        "unprocessed",
        "load",
        "busiest",
    }
