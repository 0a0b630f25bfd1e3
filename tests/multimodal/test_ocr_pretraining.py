"""kitlib.multimodal.ocr_pretraining: true labels; the loss and "found" by hand; a tower learns its labels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kitlib import configs
from kitlib.data import captioned, keyed_rng
from kitlib.models import palix
from kitlib.models.vit import ViT
from kitlib.multimodal import kit_data, ocr_pretraining
from kitlib.multimodal.ocr_pretraining import found, labelled_batches, labelled_builder, labels_loss, start_bias
from kitlib.synthetic import named_pictures, rendered_text, scenes
from kitlib.training import classification, loop, optim

pytestmark = pytest.mark.slow

LETTERS = ocr_pretraining.letters()


@pytest.fixture(scope="module")
def make():
    return labelled_builder("train")


def test_labels_are_the_drawn_objects_and_letters_at_their_positions(make, monkeypatch):
    """The functions that draw are replaced by ones that record what they are given, which is compared with the labels.
    Every object is put into the upper left quarter, every letter into the lower right: 16 patches each."""
    objects, drawn = kit_data.object_rows("train"), []
    emoji = captioned.emoji("train")
    number = {cutout.tobytes(): i for i, found in enumerate(named_pictures.cutouts(objects)) for cutout in found}
    image = np.zeros((64, 64, 3), np.uint8)

    def place(cutout, rng):
        drawn.append({number[cutout.tobytes()]})
        return image, np.array([0, 0, 0.5, 0.5])

    def compose(given, indices, sides, rng):
        assert indices.tolist() == list(range(len(given))) and sides == (12, 24)
        drawn.append({number[cutout.tobytes()] for cutout in given})
        return scenes.Scene(image, np.array([[0, 0, 0.5, 0.5]] * len(indices)), indices)

    def spelled(texts, rng, side, sizes):
        assert sizes == (8, 20)
        drawn.append(list(texts))
        return image, "".join(texts), np.array([[0.5, 0.5, 1, 1]] * len("".join(texts)))

    monkeypatch.setattr(named_pictures, "varied", lambda cutout, rng: cutout)
    monkeypatch.setattr(ocr_pretraining, "place_on_background", place)
    monkeypatch.setattr(scenes, "compose", compose)
    monkeypatch.setattr(rendered_text, "spelled", spelled)
    vocabulary = {word for words in rendered_text.words("train").values() for word in words}
    vocabulary |= set(rendered_text.more_words("train"))
    easy = {objects.index(emoji.names["en"].index(name)) for name in scenes.EASY["train"]}
    kinds, rows = set(), np.arange(64).reshape(8, 8)
    for i in range(60):
        labels = make(keyed_rng(0, i))[1]
        assert labels.dtype == bool and labels.shape == (64, len(LETTERS) + 417)
        true, content = set(np.flatnonzero(labels.any(0)).tolist()), drawn[-1]
        if isinstance(content, list):
            assert set(content) <= vocabulary and 1 <= len(content) <= 4
            assert {LETTERS[i] for i in true} == set("".join(content))
            patches = rows[4:, 4:]
            kinds.add("words")
        else:
            assert true == {len(LETTERS) + j for j in content}
            assert content <= easy or len(content) == 1
            patches = rows[:4, :4]
            kinds.add(len(content))
        for label in true:
            assert np.flatnonzero(labels[:, label]).tolist() == patches.ravel().tolist()
    assert kinds >= {"words", 1, 2, 3} and len(drawn) == 60


def test_patches_of_a_box_by_hand():
    """Of 8 x 8 patches. A box from (0, 0) to (2/8, 1/8) has two, one below the other. A box that ends at the centre of
    the patches in row 1, 1.5/8, has only the first: a centre at the lower end is outside. A flat box inside a patch and
    a box without extent have the patch of their own centre, also at the border."""
    boxes = [[0, 0, 2 / 8, 1 / 8], [0, 0, 1.5 / 8, 1 / 8], [0.6 / 8, 0, 0.9 / 8, 1 / 8], [0.3] * 4, [1, 1, 1, 1]]
    found = [np.argwhere(one.reshape(8, 8)).tolist() for one in ocr_pretraining.patches_in_boxes(boxes)]
    assert found == [[[0, 0], [1, 0]], [[0, 0]], [[0, 0]], [[2, 2]], [[7, 7]]]
    assert ocr_pretraining.patches_in_boxes(np.zeros((0, 4))).shape == (0, 64)
    assert ocr_pretraining.patches_in_boxes([0, 0, 1, 1]).all()


def test_batches_are_what_the_model_takes(make):
    batch = next(batches := labelled_batches(make, 6))
    assert batch["image"].dtype == np.float32 and batch["image"].shape == (6, 64, 64, 3)
    assert -1 <= batch["image"].min() < batch["image"].max() <= 1 and batch["labels"].any(axis=(1, 2)).all()
    state, expected = batches.get_state(), next(batches)
    again = labelled_batches(make, 6)
    again.set_state(state)
    jax.tree.map(np.testing.assert_array_equal, next(again), expected)
    assert (next(labelled_batches(make, 6, seed=1))["image"] != batch["image"]).any()


def test_kinds_of_images():
    """Images of words have labels of letters, which come first; images of objects have the labels after them."""
    for kinds, words in ((("words",), True), (("thing", "scene"), False)):
        builder = labelled_builder("train", kinds)
        labels = np.stack([builder(keyed_rng(1, i))[1] for i in range(10)]).any(axis=1)
        assert labels[:, : len(LETTERS)].any() == words and labels[:, len(LETTERS) :].any() != words


def test_splits_share_letters_but_not_objects():
    for split, count in (("train", 417), ("test", 83)):
        names = ocr_pretraining.label_names(split)
        assert names[: len(LETTERS)] == LETTERS and len(names) == len(LETTERS) + count
        assert len(labelled_builder(split)(keyed_rng(0))[1][0]) == len(names)
    # 417 in Noto's style, 409 flat, 412 solid, 288 old ones, as `captioned` counts them; the 83 of the tests in one.
    train, test = map(ocr_pretraining.drawn_objects, ("train", "test"))
    assert sum(map(len, train)) == 417 + 409 + 412 + 288 and [len(drawn) for drawn in test] == [1] * 83
    assert {"a", "A", "ß", "я", "Ω", "7"} <= set(LETTERS) and " " not in LETTERS


def test_found_by_hand():
    """Row 0: labels 0 and 3, the two largest logits are 3 and 1: 1/2. Row 1: one label, found. Row 2: no label, 0."""
    logits = jnp.array([[1.0, 2.0, 0.0, 5.0], [0.0, 0.1, 0.2, 0.3], [1.0, 2.0, 3.0, 4.0]])
    labels = jnp.array([[True, False, False, True], [False, False, False, True], [False] * 4])
    np.testing.assert_allclose(found(logits, labels, most=3), (0.5 + 1 + 0) / 3, rtol=1e-6)


def test_the_loss_by_hand():
    """A zero head gives logits of 0: each of V labels costs log 2. With a bias for probability p, a true label costs
    -log p and any other -log(1 - p). In each image, every second of the 16 patches has true labels: 1 of 5 in the first
    image, 3 of 5 in the second."""
    config = ocr_pretraining.tower_with_head(configs.palix("XS").tower, 5)
    params = classification.init_params(ViT(config), (1, 32, 32, 3))
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
    """Without the head, names and shapes of the parameters are those of the tower in PaLI-X."""
    config = configs.palix("XS")
    headed = ViT(ocr_pretraining.tower_with_head(config.tower, 7))
    tower = ocr_pretraining.tower_params(classification.init_params(headed, (1, 32, 32, 3)))
    whole = palix.init_params(palix.PaLIX(config))["tower"]
    assert jax.tree.map(jnp.shape, tower) == jax.tree.map(jnp.shape, whole)


def test_a_tower_learns_its_labels(make):
    """Trained on sixteen images again and again, it finds nearly all labels; by chance it would find 1 in 651."""
    tower = configs.palix("XS", tower={"image_size": (64, 64), "depth": 1}).tower
    model = ViT(ocr_pretraining.tower_with_head(tower, len(ocr_pretraining.label_names("train"))))
    batch = next(labelled_batches(make, 16))
    params = start_bias(classification.init_params(model, (1, 64, 64, 3)), 1e-3)
    tx = optim.assemble(optax.scale_by_adam(), 3e-3, clip_norm=1.0)
    step, state = loop.make_step(labels_loss(model), tx), loop.init_state(params, tx)
    _, history = loop.fit(step, state, iter(lambda: batch, None), 120)
    assert history["found"][0] < 0.1 and history["found"][-1] > 0.9 and history["loss"][-1] < 0.2 * history["loss"][0]


def test_bad_input_is_refused(make):
    with pytest.raises(ValueError, match=r"The tower has \(4, 4\) patches, the labels \(8, 8\)"):
        ocr_pretraining.pretrain(configs.palix("XS").tower, make, steps=1, batch_size=2, peak=1e-3)
    for kinds in ((), ("words", "letters")):
        with pytest.raises(ValueError, match="Kinds of images are words, thing, scene"):
            labelled_builder("train", kinds)
