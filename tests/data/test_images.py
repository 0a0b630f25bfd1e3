"""kitlib.data.images: `Source`, the committed image sets, and the errors of `load`. The full sets: test_datasets."""

import io
import pickle
import subprocess
import sys

import numpy as np
import pytest

from kitlib import data
from kitlib.data.images import COMMITTED


def small():
    images = np.arange(6 * 4 * 5 * 3, dtype=np.uint8).reshape(6, 4, 5, 3)
    return images, data.from_arrays(images, [0, 1, 2, 0, 1, 2], name="small", class_names=["a", "b", "c"])


def test_source_records_slices_and_take():
    images, source = small()
    assert len(source) == 6 and source.num_classes == 3 and source.class_names == ("a", "b", "c")
    np.testing.assert_array_equal(source[1]["image"], images[1])
    assert source[1]["label"] == 1 and isinstance(source[1]["label"], int) and source[-1]["label"] == 2
    view = source[1:6:2][1:]  # records 3 and 5
    assert len(view) == 2 and view.name == "small" and len(source[2:2]) == 0
    np.testing.assert_array_equal(view.arrays()[0], images[[3, 5]])
    np.testing.assert_array_equal(view[-1]["image"], images[5])
    np.testing.assert_array_equal(source[::-1].take([0, 0, 5])[0], images[[5, 5, 0]])
    assert [record["label"] for record in source] == [0, 1, 2, 0, 1, 2]
    source[0]["image"][:] = 255  # a copy
    source.arrays()[0][:] = 255
    assert images[0].max() < 255
    with pytest.raises(IndexError):
        source[6]
    for indices in ([0, 2], [-1]):  # never outside of the view
        with pytest.raises(IndexError, match="which has 2 records"):
            source[:2].take(indices)
    assert str(source) == "Source(small: 6 pictures (4, 5, 3), 3 classes: a, b, c)"


TWO = np.zeros((2, 4, 4, 1), np.uint8)


@pytest.mark.parametrize(("images", "labels", "names", "message"), [
    (TWO[..., 0], [0, 1], "ab", r"uint8\[2, 4, 4\]; expected uint8\[n, H, W, C\].*images\[\.\.\., None\]"),
    (np.zeros((2, 3, 32, 32), np.uint8), [0, 1], "ab", r"channels first, .* use images\.transpose\(0, 2, 3, 1\)"),
    (np.zeros((2, 1, 28, 28), np.float32), [0, 1], "ab", "channels first"),
    (np.zeros((2, 3, 4, 4), np.uint8), [0, 1], "ab", "channels first"),
    (np.zeros((2, 4, 9, 9), np.uint8), [0, 1], "ab", "channels first"),
    (np.zeros((2, 9, 9, 5), np.uint8), [0, 1], "ab", "1 to 4 channels"),
    (TWO[:, :0], [0, 1], "ab", r"uint8\[2, 0, 4, 1\]"), (TWO, [0, 2], "ab", "from 0 to 2; expected 0 to 1"),
    (TWO, [0, 1], ["a", "a"], "class names of mine"), (TWO, [0, 1], ["a", " "], "class names of mine"),
    (TWO, [0, 1], ["a", 1], "class names of mine"),
])  # fmt: skip
def test_from_arrays_says_what_is_wrong(images, labels, names, message):
    with pytest.raises(ValueError, match=message):
        data.from_arrays(images, labels, name="mine", class_names=names)


SIZES = {"fashion_mnist": (10_000, 5_000), "animal_mnist": (7_769, 1_947)}


@pytest.mark.parametrize("name", list(COMMITTED))
def test_committed_set_is_whole_and_no_picture_is_in_both_splits(name):
    seen = set()
    for split, size in zip(COMMITTED[name], SIZES[name], strict=True):
        source = data.load(name, split)
        images, labels = source.arrays()
        assert len(source) == size and source.num_classes == 10 and len(set(source.class_names)) == 10
        assert images.dtype == np.uint8 and images.shape == (size, 28, 28, 1) and labels.dtype == np.int32
        pictures = {image.tobytes() for image in images}
        assert len(pictures) == size, "a picture occurs twice"
        assert not pictures & seen, "a picture is in both splits"
        seen |= pictures
        # Every block of ten shows each class once, until a class is exhausted: the first n are a balanced subset.
        assert all(sorted(block) == list(range(10)) for block in labels[:1000].reshape(-1, 10))


def test_counts_per_class():
    fashion, animals = (
        [np.bincount(data.load(name, split).arrays()[1]) for split in ("train", "test")] for name in COMMITTED
    )
    assert (fashion[0] == 1000).all() and (fashion[1] == 500).all()
    np.testing.assert_array_equal(animals[0], (animals[0] + animals[1]) * 4 // 5)


def test_labels_fit_the_pictures():
    """Wrong labels or a wrong order would reduce the accuracy of the nearest class mean to 10 %."""
    images, labels = data.load("fashion_mnist").arrays()
    means = np.stack([images[labels == c].mean(0).ravel() for c in range(10)])
    test_images, test_labels = data.load("fashion_mnist", "test")[:1000].arrays()
    flat = test_images.reshape(1000, -1).astype(np.float64)
    guess = ((flat[:, None] - means) ** 2).sum(-1).argmin(-1)
    assert (guess == test_labels).mean() > 0.6


def test_the_kits_own_data_are_light():
    """They need numpy, and corruptions scipy: not TFDS, Grain or JAX."""
    code = (
        "import sys, kitlib.data; from kitlib.data import captioned, shifts, texts; captioned.emoji(); "
        "captioned.easy_vqa('test'); captioned.taxonomy(); shifts.corrupt(shifts.images('animals', 2), 'fog', 1); "
        "texts.facts(); "
        "print([m for m in ('tensorflow_datasets', 'grain', 'jax', 'PIL', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("args", "full", "message"), [
    (("cifar11",), True, "did you mean 'cifar10'.*cifar100, imagenet2012"),
    (("cifar10",), False, "'cifar10' is available only with full=True; with full=False: fashion_mnist, animal_mnist"),
    (("animal_mnist",), True, "'animal_mnist' is available only with full=False"),
    (("imagenet2012", "test"), True, r"split of imagenet2012 'test'.*Known: train, validation\."),
])  # fmt: skip
def test_errors_for_unknown_names_list_the_known_ones(args, full, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        data.load(*args, full=full, data_dir=tmp_path)
    assert not list(tmp_path.iterdir())


class Bomb:
    """Its unpickling would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("kind", ["object array", "pickle", "other arrays", "one array", "text"])
def test_file_with_other_content_is_refused_and_never_unpickled(kind, commit, tmp_path):
    bomb, made = Bomb(tmp_path / "exploded"), io.BytesIO()
    objects = np.array([bomb], dtype=object)
    if kind == "object array":
        np.savez(made, train_images=objects, train_labels=objects, class_names=objects)
    elif kind == "other arrays":
        np.savez(made, something=np.zeros(3))
    elif kind == "one array":
        np.save(made, np.zeros(3))
    else:
        made.write(pickle.dumps(bomb) if kind == "pickle" else b"hello")
    commit(made.getvalue())
    with pytest.raises(ValueError, match=r"fashion_mnist\.npz is not a data file of the kit.*make_data"):
        data.load("fashion_mnist", data_dir=tmp_path)
    assert not (tmp_path / "exploded").exists()
