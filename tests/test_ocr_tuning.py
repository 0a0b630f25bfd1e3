"""kitlib.ocr_tuning: labels are what is in the picture; the loss and "found" by hand; a tower learns them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kitlib import configs, mixture, ocr_tuning, optim, pictures, rendered, scenes, train
from kitlib.data import keyed_rng
from kitlib.ocr_tuning import (
    cells,
    found,
    labelled,
    labelled_batches,
    labels_loss,
    start_bias,
    tower_params,
    tower_with_head,
)
from kitlib.vit import ViT

LETTERS = ocr_tuning.letters()


@pytest.fixture(scope="module")
def make():
    return labelled("train")


def test_labels_tell_what_was_drawn_and_where(make, monkeypatch):
    """What is drawn is written down here, in the place of the functions that draw, and compared with the labels. Every
    object is put into the upper left quarter, every letter into the lower right: 16 patches each."""
    things, drawn = mixture.things("train"), []
    emoji = pictures.emoji("train")
    cutouts = scenes.cut_outs(emoji.images[things])
    number = {cutout.tobytes(): i for i, cutout in enumerate(cutouts)}
    image = np.zeros((64, 64, 3), np.uint8)

    def placed(cutout, rng):
        drawn.append({number[cutout.tobytes()]})
        return image, np.array([0, 0, 0.5, 0.5])

    def compose(given, indices, sides, rng):
        assert given.shape == cutouts.shape and sides == (12, 24)
        drawn.append({int(i) for i in indices})
        return scenes.Scene(image, np.array([[0, 0, 0.5, 0.5]] * len(indices)), indices)

    def spelled(texts, rng, side):
        drawn.append(list(texts))
        return image, "".join(texts), np.array([[0.5, 0.5, 1, 1]] * len("".join(texts)))

    monkeypatch.setattr(mixture, "placed", placed)
    monkeypatch.setattr(scenes, "compose", compose)
    monkeypatch.setattr(rendered, "spelled", spelled)
    vocabulary = {word for words in rendered.words("train").values() for word in words}
    easy = {things.index(emoji.names["en"].index(name)) for name in scenes.EASY["train"]}
    kinds, rows = set(), np.arange(64).reshape(8, 8)
    for i in range(60):
        labels = make(keyed_rng(0, i))[1]
        assert labels.dtype == bool and labels.shape == (64, len(LETTERS) + 417)
        told, what = set(np.flatnonzero(labels.any(0)).tolist()), drawn[-1]
        if isinstance(what, list):
            assert set(what) <= vocabulary and 1 <= len(what) <= 4
            assert {LETTERS[i] for i in told} == set("".join(what))
            where = rows[4:, 4:]
            kinds.add("words")
        else:
            assert told == {len(LETTERS) + j for j in what}
            assert what <= easy or len(what) == 1
            where = rows[:4, :4]
            kinds.add(len(what))
        for label in told:
            assert np.flatnonzero(labels[:, label]).tolist() == where.ravel().tolist()
    assert kinds >= {"words", 1, 2, 3} and len(drawn) == 60


def test_patches_of_a_box_by_hand():
    """Of 8 x 8 patches. A box from (0, 0) to (2/8, 1/8): two, one below the other. One that ends at the middle of the
    patches in row 1, 1.5/8, has only the first: a middle at the lower end is outside. A flat one inside a patch and one
    without extent have the patch of their own middle; so have those at the border."""
    boxes = [[0, 0, 2 / 8, 1 / 8], [0, 0, 1.5 / 8, 1 / 8], [0.6 / 8, 0, 0.9 / 8, 1 / 8], [0.3] * 4, [1, 1, 1, 1]]
    found = [np.argwhere(one.reshape(8, 8)).tolist() for one in cells(boxes)]
    assert found == [[[0, 0], [1, 0]], [[0, 0]], [[0, 0]], [[2, 2]], [[7, 7]]]
    assert cells(np.zeros((0, 4))).shape == (0, 64) and cells([0, 0, 1, 1]).all()


def test_pictures_are_what_the_model_takes(make):
    batch = next(batches := labelled_batches(make, 6))
    assert batch["image"].dtype == np.float32 and batch["image"].shape == (6, 64, 64, 3)
    assert -1 <= batch["image"].min() < batch["image"].max() <= 1 and batch["labels"].any(axis=(1, 2)).all()
    state, wanted = batches.get_state(), next(batches)
    again = labelled_batches(make, 6)
    again.set_state(state)
    jax.tree.map(np.testing.assert_array_equal, next(again), wanted)
    assert (next(labelled_batches(make, 6, seed=1))["image"] != batch["image"]).any()


def test_kinds_of_pictures():
    """Things have labels behind those of the letters, and words before."""
    for kinds, words in ((("words",), True), (("thing", "scene"), False)):
        some = labelled("train", kinds)
        labels = np.stack([some(keyed_rng(1, i))[1] for i in range(10)]).any(axis=1)
        assert labels[:, : len(LETTERS)].any() == words and labels[:, len(LETTERS) :].any() != words
    for kinds in ((), ("words", "letters")):
        with pytest.raises(ValueError, match="Kinds of pictures are words, thing, scene"):
            labelled("train", kinds)


def test_letters_are_shared_and_test_things_are_no_labels_of_training():
    for split, things in (("train", 417), ("test", 83)):
        names = ocr_tuning.names(split)
        assert names[: len(LETTERS)] == LETTERS and len(names) == len(LETTERS) + things
        assert len(labelled(split)(keyed_rng(0))[1][0]) == len(names)
    assert {"a", "A", "ß", "я", "Ω", "7"} <= set(LETTERS) and " " not in LETTERS


def test_found_by_hand():
    """Row 0: labels 0 and 3, the two largest logits are 3 and 1: a half. Row 1: one label, found. Row 2: none, 0."""
    logits = jnp.array([[1.0, 2.0, 0.0, 5.0], [0.0, 0.1, 0.2, 0.3], [1.0, 2.0, 3.0, 4.0]])
    labels = jnp.array([[True, False, False, True], [False, False, False, True], [False] * 4])
    np.testing.assert_allclose(found(logits, labels, most=3), (0.5 + 1 + 0) / 3, rtol=1e-6)


def test_the_loss_by_hand():
    """Logits are 0 from a zero head: each of V labels costs log 2. With a bias for probability p, a label that is true
    costs -log p and another -log(1 - p). Of the 16 patches of each picture, every second has labels: 1 of 5 in the
    first, 3 of 5 in the second picture."""
    config = tower_with_head(configs.palix("XS").tower, 5)
    params = train.init_params(ViT(config), (1, 32, 32, 3))
    of_patch = np.array([[[1, 0, 0, 0, 0], [0] * 5], [[1, 1, 1, 0, 0], [0] * 5]], bool)
    labels = jnp.asarray(np.tile(of_patch, (1, 8, 1)))  # bool[2, 16, 5]
    batch = {"image": jnp.zeros((2, 32, 32, 3)), "labels": labels}
    loss, metrics = labels_loss(ViT(config))(params, batch, jax.random.key(0))
    np.testing.assert_allclose(loss, 5 * np.log(2), rtol=1e-6)
    assert set(metrics) == {"found"}
    loss, _ = labels_loss(ViT(config))(start_bias(params, 0.1), batch, jax.random.key(0))
    # Mean over 32 patches: 8 with one true label, 8 with three, 16 with none.
    np.testing.assert_allclose(loss, -(8 + 24) / 32 * np.log(0.1) - (5 - 1) * np.log(0.9), rtol=1e-5)
    assert metrics["found"] == 1  # of equal logits the first count as largest, and the first labels are true


def test_the_tower_fits_into_the_model():
    """Without the head its parameters are those of the tower in PaLI-X, name by name and shape by shape."""
    from kitlib import palix

    config = configs.palix("XS")
    tower = tower_params(train.init_params(ViT(tower_with_head(config.tower, 7)), (1, 32, 32, 3)))
    whole = palix.init_params(palix.PaLIX(config))["tower"]
    assert jax.tree.map(jnp.shape, tower) == jax.tree.map(jnp.shape, whole)


def test_a_tower_learns_its_labels(make):
    """Sixteen pictures, over and over: of chance, 1 label in 651, it comes to nearly all."""
    config = tower_with_head(configs.palix("XS", tower={"image_size": (64, 64)}).tower, len(ocr_tuning.names("train")))
    model = ViT(config)
    batch = next(labelled_batches(make, 16))
    params = start_bias(train.init_params(model, (1, 64, 64, 3)), 1e-3)
    tx = optim.assemble(optax.scale_by_adam(), 3e-3, clip_norm=1.0)
    state, history = train.fit(
        train.make_step(labels_loss(model), tx), train.init_state(params, tx), iter(lambda: batch, None), 120
    )
    assert history["found"][0] < 0.1 and history["found"][-1] > 0.9 and history["loss"][-1] < 0.2 * history["loss"][0]
    assert ocr_tuning.KINDS == ("words", "thing", "scene") and int(state.step) == 120


def test_other_patches_than_the_labels_are_refused(make):
    with pytest.raises(ValueError, match=r"The tower has \(4, 4\) patches, the labels \(8, 8\)"):
        ocr_tuning.tune(configs.palix("XS").tower, make, steps=1, batch_size=2, peak=1e-3)
