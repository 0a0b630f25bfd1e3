"""kitlib.ocr_tuning: labels are what is in the picture; the loss and "found" by hand; a tower learns them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kitlib import configs, mixture, ocr_tuning, optim, pictures, rendered, scenes, tokenizer, train
from kitlib.data import keyed_rng
from kitlib.ocr_tuning import found, labelled, labelled_batches, labels_loss, start_bias, tower_params, tower_with_head
from kitlib.vit import ViT

WORDS = tokenizer.multilingual()


@pytest.fixture(scope="module")
def make():
    return labelled("train", WORDS)


def test_labels_tell_what_was_drawn(make, monkeypatch):
    """What is drawn is written down here, in the place of the functions that draw, and compared with the labels."""
    emoji, drawn = pictures.emoji("train"), []
    cutouts = scenes.cut_outs(emoji.images)
    number = {cutout.tobytes(): i for i, cutout in enumerate(cutouts)}
    image = np.zeros((64, 64, 3), np.uint8)

    def placed(cutout, rng):
        drawn.append({number[cutout.tobytes()]})
        return image

    def compose(given, indices, sides, rng):
        assert given.shape == cutouts.shape and sides == (12, 24)
        drawn.append({int(i) for i in indices})
        return scenes.Scene(image, None, indices)

    def scattered(texts, rng, side):
        drawn.append(list(texts))
        return image, tuple(texts), None

    monkeypatch.setattr(mixture, "placed", placed)
    monkeypatch.setattr(scenes, "compose", compose)
    monkeypatch.setattr(rendered, "scattered", scattered)
    vocabulary = {word for words in rendered.words("train").values() for word in words}
    easy = {emoji.names["en"].index(name) for name in scenes.EASY["train"]}
    kinds = set()
    for i in range(60):
        labels = make(keyed_rng(0, i))[1]
        assert labels.dtype == bool and labels.shape == (4096 + len(emoji),)
        told, what = set(np.flatnonzero(labels).tolist()), drawn[-1]
        if isinstance(what, list):
            assert set(what) <= vocabulary and 1 <= len(what) <= 4
            assert told == {piece for word in what for piece in WORDS.encode(f" {word}")}
            kinds.add("words")
        else:
            assert told == {4096 + j for j in what}
            assert what <= easy or (len(what) == 1 and what <= set(mixture.things("train")))
            kinds.add(len(what))
    assert kinds >= {"words", 1, 2, 3} and len(drawn) == 60


def test_pictures_are_what_the_model_takes(make):
    batch = next(batches := labelled_batches(make, 6))
    assert batch["image"].dtype == np.float32 and batch["image"].shape == (6, 64, 64, 3)
    assert -1 <= batch["image"].min() < batch["image"].max() <= 1 and batch["labels"].any(axis=1).all()
    state, wanted = batches.get_state(), next(batches)
    again = labelled_batches(make, 6)
    again.set_state(state)
    jax.tree.map(np.testing.assert_array_equal, next(again), wanted)
    assert (next(labelled_batches(make, 6, seed=1))["image"] != batch["image"]).any()


def test_kinds_of_pictures():
    """Things have labels behind those of the words, and words before."""
    for kinds, words in ((("words",), True), (("thing", "scene"), False)):
        some = labelled("train", WORDS, kinds)
        labels = np.stack([some(keyed_rng(1, i))[1] for i in range(10)])
        assert labels[:, :4096].any() == words and labels[:, 4096:].any() != words
    for kinds in ((), ("words", "letters")):
        with pytest.raises(ValueError, match="Kinds of pictures are words, thing, scene"):
            labelled("train", WORDS, kinds)


def test_test_words_and_things_are_no_labels_of_training():
    train_size, test_size = (len(labelled(split, WORDS)(keyed_rng(0))[1]) for split in ("train", "test"))
    assert (train_size, test_size) == (4096 + 1235, 4096 + 186)


def test_found_by_hand():
    """Row 0: labels 0 and 3, the two largest logits are 3 and 1: a half. Row 1: one label, found. Row 2: none, 0."""
    logits = jnp.array([[1.0, 2.0, 0.0, 5.0], [0.0, 0.1, 0.2, 0.3], [1.0, 2.0, 3.0, 4.0]])
    labels = jnp.array([[True, False, False, True], [False, False, False, True], [False] * 4])
    np.testing.assert_allclose(found(logits, labels, most=3), (0.5 + 1 + 0) / 3, rtol=1e-6)


def test_the_loss_by_hand():
    """Logits are 0 from a zero head: each of V labels costs log 2. With a bias for probability p, a label that is true
    costs -log p and another -log(1 - p)."""
    config = tower_with_head(configs.palix("XS").tower, 5)
    assert config.pool == "map"  # as ViT-22B's
    params = train.init_params(ViT(config), (1, 32, 32, 3))
    batch = {"image": jnp.zeros((2, 32, 32, 3)), "labels": jnp.array([[1, 0, 0, 0, 0], [1, 1, 1, 0, 0]], bool)}
    loss, metrics = labels_loss(ViT(config))(params, batch, jax.random.key(0))
    np.testing.assert_allclose(loss, 5 * np.log(2), rtol=1e-6)
    assert set(metrics) == {"found"}
    loss, _ = labels_loss(ViT(config))(start_bias(params, 0.1), batch, jax.random.key(0))
    np.testing.assert_allclose(loss, -2 * np.log(0.1) - 3 * np.log(0.9), rtol=1e-5)


def test_the_tower_fits_into_the_model():
    """Without the head its parameters are those of the tower in PaLI-X, name by name and shape by shape."""
    from kitlib import palix

    config = configs.palix("XS")
    tower = tower_params(train.init_params(ViT(tower_with_head(config.tower, 7)), (1, 32, 32, 3)))
    whole = palix.init_params(palix.PaLIX(config))["tower"]
    assert jax.tree.map(jnp.shape, tower) == jax.tree.map(jnp.shape, whole)


def test_a_tower_learns_its_labels(make):
    """Sixteen pictures, over and over: of chance, 1 label in 5,331, it comes to nearly all."""
    config = tower_with_head(configs.palix("XS", tower={"image_size": (64, 64)}).tower, 4096 + 1235)
    model = ViT(config)
    batch = next(labelled_batches(make, 16))
    params = start_bias(train.init_params(model, (1, 64, 64, 3)), 1e-3)
    tx = optim.assemble(optax.scale_by_adam(), 3e-3, clip_norm=1.0)
    state, history = train.fit(
        train.make_step(labels_loss(model), tx), train.init_state(params, tx), iter(lambda: batch, None), 120
    )
    assert history["found"][0] < 0.1 and history["found"][-1] > 0.9 and history["loss"][-1] < 0.2 * history["loss"][0]
    assert ocr_tuning.KINDS == ("words", "thing", "scene") and int(state.step) == 120
