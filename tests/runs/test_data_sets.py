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


SHAPES = {
    "vit": {"image": (8, 28, 28, 1), "label": (8,)},
    "t5": {"inputs": (8, 64), "targets": (8, 14)},
    "palix": {"images": (8, 1, 32, 32, 3), "prompt_tokens": (8, 40), "targets": (8, 56)},
}


@pytest.mark.parametrize(("name", "evaluated"), [("vit", 5_000 // 8), ("t5", 112), ("palix", 64)])
def test_batches_fit_the_model_and_go_on_where_they_were(name, evaluated):
    changes = {"model": SMALL} if name == "palix" else {}
    found, again = (data_sets.load(recipe(name, **changes)) for _ in range(2))
    batch = next(found.batches)
    for one in (batch, found.evaluation[0]):  # these are whole, and always the same
        assert SHAPES[name].items() <= {key: x.shape for key, x in one.items()}.items()
    assert len(found.evaluation) == evaluated
    jax.tree.map(np.testing.assert_array_equal, again.evaluation[0], found.evaluation[0])
    again.batches.set_state(json.loads(json.dumps(found.batches.get_state())))
    jax.tree.map(np.testing.assert_array_equal, next(again.batches), next(found.batches))


@pytest.mark.parametrize(
    ("shape", "patch", "size"),
    [
        ((14, 21, 3), None, (14, 21)), ((32, 32, 1), None, (35, 35)), ((32, 32, 3), 4, (32, 32)),
        ((2, 3, 3), None, (7, 7)),
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


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vit", {"data": "glosses"}, "Unknown data set for a ViT 'glosses'. Known: fashion_mnist"),
        ("palix", {"data": "coco"}, "Unknown data set for a PaLIX 'coco'; did you mean 'coco_captions'"),
        ("palix", {"data": "coco_captions"}, r"coco_captions needs 2 paths, as in --files .*json .*; got 0"),
        ("vit", {"data": "cifar10"}, "cifar10 does not come with the kit: add --full"),
        ("vit", {"model": SEVEN}, "fashion_mnist has 1 channels and 10 .* add --model.channels 1 --model.num-classes"),
        ("t5", {"model": configs.t5("tiny", vocab_size=99)}, "tokenizer has 2048 ids, the model 99"),
    ],
)
def test_data_that_do_not_go_with_the_model(name, changes, message):
    with pytest.raises(ValueError, match=message):
        data_sets.load(recipe(name, **changes))
