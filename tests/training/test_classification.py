"""The image classifier's loss, training recipe and predictions: of single models, and of ensembles in one model, whose
logits are [M, B, V]."""

import pathlib
import subprocess
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from trees import random_params

from kitlib import configs, data, metrics
from kitlib.ensembles import uncertainty
from kitlib.models.vit import ViT
from kitlib.training import classification


class Echo:
    """A 'model' whose logits are its images, so that the loss can be computed by hand."""

    def apply(self, variables, images, train, rngs):
        return images, None


def loss_of(logits, labels, key=0, **fields):
    loss_fn = classification.classification_loss(Echo(), **fields)
    loss, measured = loss_fn({}, {"image": jnp.asarray(logits), "label": jnp.asarray(labels)}, jax.random.key(key))
    return float(loss), float(measured["accuracy"])


def test_losses_by_hand():
    # Logits ln 3 and 0: probabilities 3/4, 1/4. Sigmoids: 3/4 for class 0 and 1/2 for class 1.
    logits = np.array([[np.log(3), 0.0], [np.log(3), 0.0]])
    loss, accuracy = loss_of(logits, [0, 1])
    assert loss == pytest.approx(-(np.log(3 / 4) + np.log(1 / 4)) / 2)
    assert accuracy == 0.5
    loss, _ = loss_of(logits, [0, 1], sigmoid=True)
    right, wrong = np.log(3 / 4) + np.log(1 / 2), np.log(1 / 4) + np.log(1 / 2)
    assert loss == pytest.approx(-(right + wrong) / 2)


@pytest.mark.slow
def test_mixup_mixes_images_and_targets_alike():
    # One-hot "images" as logits and labels of the same classes: with weight w >= 1/2, example i has logits w at its own
    # class and 1 - w at its neighbour's, and the same numbers as targets. The loss determines w; every key gives
    # another w.
    w = np.linspace(0.5, 1, 100_001)[:, None]
    logits = np.concatenate([w, 1 - w, 0 * w, 0 * w], axis=1)
    losses = -(logits * (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))).sum(axis=1)
    got = [loss_of(jnp.eye(4), jnp.arange(4), key, mixup=1.0)[0] for key in range(5)]
    assert len(set(got)) == 5
    for loss in got:
        assert np.abs(losses - loss).min() < 1e-4


# Two members, two examples, two classes. The members' probabilities of class 0 are 0.1 and 0.2 for the first example,
# 0.3 and 0.4 for the second: the means are 0.15 and 0.35. The numbers in the test of the released code.
P = np.array([[0.1, 0.3], [0.2, 0.4]])
LOG_P = np.log(np.stack([P, 1 - P], axis=-1)).astype(np.float32)  # [M, B, V]


@pytest.mark.parametrize(
    ("labels", "of_mean", "probabilities", "accuracy"),
    [
        ([0, 1], False, [0.1, 0.2, 0.7, 0.6], 0.5),  # both wrong on the first, both right on the second
        ([0, 1], True, [0.15, 0.65], 0.5),
        # Member 0 has the labels 0 and 0, member 1 has 1 and 0. Each predicts class 1 twice: one of four is right.
        ([[0, 0], [1, 0]], False, [0.1, 0.3, 0.8, 0.4], 0.25),
    ],
)
def test_the_loss_of_members_and_of_their_mean_by_hand(labels, of_mean, probabilities, accuracy):
    constants = np.array([[[7.0], [-2.0]], [[0.5], [3.0]]])  # do not matter
    loss, got = loss_of((LOG_P + constants).astype(np.float32), labels, of_mean=of_mean)
    assert loss == pytest.approx(-np.log(probabilities).mean(), rel=1e-5)
    assert got == accuracy
    # Sigmoids: independent probabilities, 0.1 ... 0.4 of class 0, and 1/2 of class 1 (logit 0).
    logits = np.stack([np.log(P / (1 - P)), np.zeros((2, 2))], axis=-1).astype(np.float32)
    loss, _ = loss_of(logits, [0, 1], sigmoid=True)
    assert loss == pytest.approx(-(np.log([0.1, 0.2, 0.7, 0.6]) + np.log(1 / 2)).mean(), rel=1e-5)


def test_confident_mistakes_of_all_members_stay_finite():
    logits = np.array([[[0.0, 2000.0]], [[0.0, 1000.0]]], np.float32)
    # -log of (e^-2000 + e^-1000) / 2: 1000 + log 2.
    assert loss_of(logits, [0], of_mean=True)[0] == pytest.approx(1000 + np.log(2), rel=1e-6)


@pytest.mark.slow
def test_the_loss_of_the_mean_never_exceeds_the_mean_loss():
    """Jensen's inequality, for any logits; they are equal if members agree. The loss of the mean is the one of
    `metrics`."""
    rng = np.random.default_rng(1)
    for scale in (0.1, 1.0, 10.0):
        logits, labels = rng.normal(scale=scale, size=(3, 5, 4)).astype(np.float32), rng.integers(4, size=5)
        each, mean = (loss_of(logits, labels, of_mean=of_mean)[0] for of_mean in (False, True))
        assert mean <= each
        combined = uncertainty.combine(metrics.softmax(logits))
        assert mean == pytest.approx(-np.log(combined[np.arange(5), labels]).mean(), rel=1e-4)
        same = np.broadcast_to(logits[:1], logits.shape)
        assert loss_of(same, labels, of_mean=True)[0] == pytest.approx(loss_of(same, labels)[0], rel=1e-5)
        assert loss_of(same, labels)[0] == pytest.approx(loss_of(logits[0], labels)[0], rel=1e-5)


@pytest.mark.parametrize(
    ("message", "logits", "labels", "fields"),
    [
        ("of_mean is for the softmax", LOG_P[0], [0, 1], {"of_mean": True}),
        ("of_mean is for the softmax", LOG_P, [[0, 0], [1, 0]], {"of_mean": True}),
        ("of_mean is for the softmax", LOG_P, [0, 1], {"of_mean": True, "sigmoid": True}),
        ("mixup is for one label per image", LOG_P, [[0, 0], [1, 0]], {"mixup": 0.2}),
        ("mixup is -0.1; expected", LOG_P, [0, 1], {"mixup": -0.1}),
        *((f"{name} is 'no'; expected", LOG_P, [0, 1], {name: "no"}) for name in ("sigmoid", "of_mean", "train")),
    ],
)
def test_losses_that_there_are_not(message, logits, labels, fields):
    with pytest.raises(ValueError, match=message):
        loss_of(logits, labels, **fields)


@pytest.mark.parametrize("labels", [[0, 2], [-1, 0], [[0, 1], [1, 2]]])
def test_labels_of_classes_that_there_are_not(labels):
    """Their loss would be that of no class, 0. In a compiled program nothing can be refused: it is NaN there."""
    with pytest.raises(ValueError, match=r"labels go from .*; expected whole numbers from 0 to 1"):
        loss_of(LOG_P, labels)
    for fields in ({}, {"of_mean": True}, {"sigmoid": True}):
        if np.ndim(labels) == 1 or not fields:
            batch = {"image": jnp.asarray(LOG_P), "label": jnp.asarray(labels)}
            loss = jax.jit(classification.classification_loss(Echo(), **fields))({}, batch, jax.random.key(0))[0]
            assert np.isnan(loss)


@pytest.mark.slow
def test_mixup_mixes_the_targets_of_every_member_over_the_batch():
    """The loss of members that are copies of one model is the loss of that model."""

    class Twice:
        def apply(self, variables, images, train, rngs):
            return jnp.stack([images, images]), None

    @jax.jit
    def losses(batch, key):
        return [classification.classification_loss(model, mixup=1.0)({}, batch, key)[0] for model in (Twice(), Echo())]

    twice, once = losses({"image": jnp.eye(4), "label": jnp.arange(4)}, jax.random.key(0))
    assert float(twice) == pytest.approx(float(once), rel=1e-6)


@pytest.mark.slow
def test_training_is_determined_by_its_seed():
    source = data.load("fashion_mnist")[:32]
    model = ViT(configs.vit("tiny/14", image_size=(28, 28), channels=1, num_classes=10, dropout=0.1))

    def run(seed):
        return classification.train_classifier(model, source, seed=seed, num_steps=4, batch_size=16, warmup=1)

    (params, history), (again, history_again), (_, other) = run(0), run(0), run(1)
    jax.tree.map(np.testing.assert_array_equal, (params, history), (again, history_again))
    assert history["loss"][0] == other["loss"][0]  # the zero head
    assert history["loss"][-1] != other["loss"][-1]


@pytest.mark.slow
def test_training_starts_from_parameters_that_it_leaves_as_they_are():
    """With a rate of 0 they are returned; without decay nothing else changes them."""
    source = data.load("fashion_mnist")[:32]
    model = ViT(configs.vit("tiny/14", image_size=(28, 28), channels=1, num_classes=10))
    start = random_params(model.config)
    options = {"num_steps": 2, "batch_size": 16, "warmup": 1, "weight_decay": 0.0}
    before = jax.tree.map(np.array, start)
    end, _ = classification.train_classifier(model, source, params=start, peak=0.0, **options)
    jax.tree.map(np.testing.assert_array_equal, end, before)
    end, _ = classification.train_classifier(model, source, params=start, peak=0.1, **options)
    jax.tree.map(np.testing.assert_array_equal, start, before)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(end), jax.tree.leaves(before), strict=True))


def test_a_model_with_too_few_outputs_is_refused():
    model = ViT(configs.vit("tiny/14", image_size=(28, 28), channels=1, num_classes=3))
    with pytest.raises(ValueError, match="has 3 outputs, but fashion_mnist has 10 classes; use num_classes=10"):
        classification.train_classifier(model, data.load("fashion_mnist"))


TINY = zoo.SMALL.replace(depth=1)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (6, 8, 8, 1)).astype(np.float32)


def test_batches_are_padded_and_their_results_joined_along_the_axis():
    # Five images in batches of two: three calls, the last with one image of padding, whose result is left out.
    calls = []

    def apply(batch, start):
        calls.append((batch.tolist(), start))
        return 10 * batch[None]

    got = classification.in_batches(apply, np.array([[1], [2], [3], [4], [5]]), 2, axis=1)
    assert calls == [([[1], [2]], 0), ([[3], [4]], 2), ([[5], [0]], 4)]
    np.testing.assert_array_equal(got, [[[10], [20], [30], [40], [50]]])


def test_pictures_from_0_to_1_are_warned_of_and_features_have_no_range():
    with pytest.warns(UserWarning, match=r"make \[-1, 1\] by 2 \* images - 1"):
        classification.in_range(np.linspace(0, 1, 48).reshape(1, 4, 4, 3))
    with warnings.catch_warnings(action="error"):
        for images in (IMAGES, np.zeros((1, 4, 4, 3)), np.full((2, 5, 8), 50.0), np.linspace(0, 1, 8).reshape(1, 2, 4)):
            np.testing.assert_array_equal(classification.in_range(images), images)
    with pytest.raises(ValueError, match="from nan to nan"):
        classification.in_range(np.full((2, 5, 8), np.nan))


@pytest.mark.slow
@pytest.mark.parametrize(("router", "members"), [("top_k", None), ("expert_choice", None), ("top_k", 2)])
def test_predict_gives_no_slot_of_an_expert_to_padding(router, members):
    """With buffers for half of the tokens, images of padding would take slots: the last two images are a batch."""
    tight = configs.MoEConfig(num_experts=2, router=router, capacity_factor=0.5, capacity_multiple_of=1)
    model = ViT(TINY.replace(pool="gap", moe=tight, moe_blocks=(0,), e3=members and configs.E3Config(members)))
    params = random_params(model.config)
    apart = [classification.predict(model, params, part) for part in (IMAGES[:4], IMAGES[4:])]
    got = classification.predict(model, params, IMAGES, batch_size=4)
    np.testing.assert_allclose(got, np.concatenate(apart, axis=-2), atol=1e-4)
    filled = classification.predict(model, params, np.pad(IMAGES[4:], ((0, 2), (0, 0), (0, 0), (0, 0))))
    assert np.abs(filled[..., :2, :] - apart[1]).max() > 1e-2  # the control: padding would have changed them


@pytest.mark.slow
@pytest.mark.parametrize("members", [None, 2])
def test_predict_pads_the_last_batch_and_finds_its_axis_if_a_model_has_logits_for_every_token(members):
    """Logits [B, N, V], or [M, B, N, V]: the padding of the last batch is removed along the right axis."""
    config = TINY.replace(pool="none", batch_ensemble=members and configs.BatchEnsembleConfig((0,), members))
    model, params = ViT(config), random_params(config)
    assert classification.has_members(model) == bool(members)
    want = classification.predict(model, params, IMAGES)
    assert want.shape == ((2, 6, 4, 3) if members else (6, 4, 3))
    np.testing.assert_allclose(classification.predict(model, params, IMAGES, batch_size=4), want, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(classification.predict(model, params, IMAGES, batch_size=10**9), want)


RUN = """
import hashlib, sys
import jax
import numpy as np
sys.path[:0] = {tests!r}
import test_classification
print("started", flush=True)
params, history = test_classification.small_run({folder!r})
digest = hashlib.sha256()
for leaf in jax.tree.leaves((params, history)):
    digest.update(np.asarray(leaf).tobytes())
print(digest.hexdigest(), flush=True)
"""


def small_run(folder=None, **changes):
    """Dropout, flips and a cosine, so that every kind of state matters; saved after every second step."""
    model = ViT(configs.vit("tiny/7", image_size=(28, 28), channels=1, num_classes=10, dropout=0.1))
    options = {"num_steps": 12, "batch_size": 16, "warmup": 2} | changes
    saves = {"checkpoint_dir": folder, "save_every": 2} if folder else {}
    return classification.train_classifier(model, data.load("fashion_mnist")[:200], **options, **saves)


@pytest.mark.slow
def test_a_killed_training_goes_on_bit_by_bit(tmp_path):
    """kill -9 at the start, while it saves, between saves; then the same call gives what an undisturbed one gives."""
    folder, killed = tmp_path / "run", 0

    def started(folder):
        script = RUN.format(tests=[str(path) for path in pathlib.Path(__file__).parents[:2]], folder=str(folder or ""))
        with (tmp_path / "errors.txt").open("w") as errors:
            process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout.readline() == "started\n", (tmp_path / "errors.txt").read_text()
        return process

    def writing():
        return any(".orbax-checkpoint-tmp" in path.name for path in folder.glob("*"))

    for moment in (lambda: True, writing, (folder / "6.sha256").is_file, writing):
        process = started(folder)
        while process.poll() is None and not moment():
            time.sleep(0.001)
        process.kill()
        killed += process.wait() != 0
        process.stdout.close()
    assert killed >= 3  # the last kill may come too late
    # Each in a process of its own, as users have it: parameters and history, to the last bit.
    ends = [started(where).communicate()[0] for where in (folder, None)]
    assert len(ends[0]) == 65 and ends[0] == ends[1]
    for name, old, new in (("seed", 0, 1), ("peak", 0.004, 0.001), ("batch_size", 16, 8), ("num_steps", 12, 14)):
        with pytest.raises(ValueError, match=f"another recipe: .*{name}={old}.*, now .*{name}={new}"):
            small_run(folder, **{name: new})
