import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from kitlib import configs
from kitlib.runs import data_sets, recipes

SEVEN = configs.vit("tiny/7", image_size=(28, 28), channels=1, num_classes=7)
SMALL = configs.palix("XS", text={"vocab_size": 4096})


def recipe(name, **changes):
    return dataclasses.replace(recipes.named(name), **{"batch_size": 8} | changes)


def test_images_fit_the_model_and_evaluation_batches_are_whole():
    found = data_sets.load(recipe("vit", batch_size=500))
    batch = next(found.batches)
    assert batch["image"].shape == (500, 28, 28, 1) and batch["label"].shape == (500,)
    assert [len(b["label"]) for b in found.evaluation] == [500] * 10
    first = data_sets.load(recipe("vit", batch_size=500)).evaluation[0]
    np.testing.assert_array_equal(first["image"], found.evaluation[0]["image"])


def test_texts_have_inputs_and_targets():
    found = data_sets.load(recipe("t5"))
    assert {k: x.shape for k, x in next(found.batches).items()} == {"inputs": (8, 64), "targets": (8, 14)}
    assert len(found.evaluation) == 112 and set(found.evaluation[0]) == {"inputs", "targets"}


def test_images_with_texts():
    found = data_sets.load(recipe("palix", model=SMALL, batch_size=2))
    batch = next(found.batches)
    assert batch["images"].shape == (2, 1, 32, 32, 3)
    assert batch["prompt_tokens"].shape == (2, 40) and batch["targets"].shape == (2, 56)
    assert len(found.evaluation) == 256 and found.evaluation[0]["images"].shape == (2, 1, 32, 32, 3)


@pytest.mark.parametrize("name", ["vit", "t5", "palix"])
def test_every_data_set_goes_on_where_it_was(name):
    changes = {"model": SMALL} if name == "palix" else {}
    found = data_sets.load(recipe(name, **changes)).batches
    next(found)
    state = json.loads(json.dumps(found.get_state()))
    want = next(found)
    again = data_sets.load(recipe(name, **changes)).batches
    again.set_state(state)
    jax.tree.map(np.testing.assert_array_equal, next(again), want)


@pytest.mark.parametrize(
    ("shape", "patch", "size"),
    [
        ((28, 28, 1), None, (28, 28)), ((14, 21, 3), None, (14, 21)), ((32, 32, 3), None, (35, 35)),
        ((32, 32, 3), 4, (32, 32)), ((2, 3, 3), None, (7, 7)),
    ],
)  # fmt: skip
def test_a_model_fits_pictures_of_ones_own(tmp_path, shape, patch, size):
    images = np.random.default_rng(0).integers(0, 256, (60, *shape), np.uint8)
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(60) % 3, class_names=np.array(["a", "b", "c"]))
    fitted = data_sets.fitted(recipe("vit", batch_size=6), str(tmp_path / "own.npz"), patch)
    c = fitted.model
    assert (c.image_size, c.channels, c.num_classes, c.patch_size) == (size, shape[-1], 3, patch or 7)
    found = data_sets.load(fitted)
    assert next(found.batches)["image"].shape == (6, *size, shape[-1])
    assert [len(batch["label"]) for batch in found.evaluation] == [6]  # a tenth


def test_names_go_before_paths_and_their_models_stay(tmp_path, monkeypatch):
    (tmp_path / "fashion_mnist").mkdir()
    monkeypatch.chdir(tmp_path)
    assert data_sets.fitted(recipe("vit"), "fashion_mnist") == recipe("vit")
    assert len(data_sets.pictures(recipe("vit"), "test")) == 5_000


@pytest.fixture
def coco(tmp_path):
    """Two pictures with two captions each, in COCO's files."""
    folder = tmp_path / "train2017"
    folder.mkdir()
    images, annotations = [], []
    for i, colour in enumerate(((200, 30, 30), (30, 30, 200))):
        Image.new("RGB", (40, 30), colour).save(folder / f"{i}.jpg")
        images.append({"id": i, "file_name": f"{i}.jpg"})
        annotations += [{"image_id": i, "caption": f"a {word} picture"} for word in ("red", "plain")]
    path = tmp_path / "captions_train2017.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path, folder


def test_public_sets_are_data_sets_by_name(coco):
    found = data_sets.load(recipe("palix", model=SMALL, batch_size=2, data="coco_captions", files=coco))
    assert next(found.batches)["images"].shape == (2, 1, 32, 32, 3) and found.evaluation == []
    both = data_sets.load(recipe("palix", model=SMALL, batch_size=2, data="coco_captions", files=coco, eval_files=coco))
    assert len(both.evaluation) == 256


@pytest.mark.parametrize("name", data_sets.PUBLIC)
def test_public_sets_say_which_files_they_need(name):
    with pytest.raises(ValueError, match=rf"{name} needs [23] paths, as in --files .*json .*; got 0"):
        data_sets.public_task(name, (), 32)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vit", {"data": "glosses"}, "Unknown data set for a ViT 'glosses'. Known: fashion_mnist"),
        ("t5", {"data": "c4"}, "Unknown data set for a T5 'c4'. Known: glosses, or the path"),
        ("palix", {"data": "coco"}, "Unknown data set for a PaLIX 'coco'; did you mean 'coco_captions'"),
        ("vit", {"data": "cifar10"}, "cifar10 does not come with the kit: add --full"),
        ("vit", {"model": SEVEN}, "fashion_mnist has 1 channels and 10 .* add --model.channels 1 --model.num-classes"),
        ("t5", {"model": configs.t5("tiny", vocab_size=99)}, "tokenizer has 2048 ids, the model 99"),
    ],
)
def test_data_that_do_not_go_with_the_model(name, changes, message):
    with pytest.raises(ValueError, match=message):
        data_sets.load(recipe(name, **changes))
