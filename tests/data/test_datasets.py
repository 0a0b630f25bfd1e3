"""kitlib.data.datasets: the committed image sets, and the errors of `load`. The full sets: test_tfds_builders."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from kitlib import data
from kitlib.data import datasets

FOLDER = data.data_folder()
SIZES = {"fashion_mnist": (10_000, 5_000), "animal_mnist": (7_769, 1_947)}


# --- the committed sets ---


@pytest.mark.parametrize("name", list(datasets.COMMITTED))
def test_committed_set_is_whole_and_no_picture_is_in_both_splits(name):
    seen = set()
    for split, size in zip(datasets.COMMITTED[name], SIZES[name], strict=True):
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


def test_fashion_counts_per_class():
    for split, count in (("train", 1000), ("test", 500)):
        np.testing.assert_array_equal(np.bincount(data.load("fashion_mnist", split).arrays()[1]), np.full(10, count))


def test_animal_split_is_four_fifths_of_each_class():
    train, test = (np.bincount(data.load("animal_mnist", split).arrays()[1]) for split in ("train", "test"))
    np.testing.assert_array_equal(train, (train + test) * 4 // 5)


def test_labels_fit_the_pictures():
    """Wrong labels or a wrong order would reduce the accuracy of the nearest class mean to 10 %."""
    images, labels = data.load("fashion_mnist").arrays()
    means = np.stack([images[labels == c].mean(0).ravel() for c in range(10)])
    test_images, test_labels = data.load("fashion_mnist", "test")[:1000].arrays()
    flat = test_images.reshape(1000, -1).astype(np.float64)
    guess = ((flat[:, None] - means) ** 2).sum(-1).argmin(-1)
    assert (guess == test_labels).mean() > 0.6


# --- load ---


def test_load_is_light():
    """The committed data need numpy only: not TFDS, Grain or JAX."""
    code = (
        "import sys, kitlib.data; kitlib.data.load('animal_mnist', 'test').arrays(); "
        "print([m for m in ('tensorflow_datasets', 'grain', 'jax', 'PIL', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (("fashion_mnits",), {}, "did you mean 'fashion_mnist'.*animal_mnist"),
        (("zzz",), {}, r"Unknown data set with full=False 'zzz'.*Known: fashion_mnist, animal_mnist\."),
        (("cifar11",), {"full": True}, "did you mean 'cifar10'.*cifar100, imagenet2012"),
        (("cifar10",), {}, "'cifar10' is available only with full=True; with full=False: fashion_mnist, animal_mnist"),
        (("animal_mnist",), {"full": True}, "'animal_mnist' is available only with full=False"),
        (("fashion_mnist", "validation"), {}, r"split of fashion_mnist 'validation'.*Known: train, test\."),
        (("imagenet2012", "test"), {"full": True}, r"split of imagenet2012 'test'.*Known: train, validation\."),
    ],
)
def test_errors_for_unknown_names_list_the_known_ones(args, kwargs, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        data.load(*args, data_dir=tmp_path, **kwargs)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_truncated_file_is_refused_by_name(tmp_path):
    (tmp_path / "checksums.txt").write_bytes((FOLDER / "checksums.txt").read_bytes())
    (tmp_path / "animal_mnist.npz").write_bytes((FOLDER / "animal_mnist.npz").read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"animal_mnist\.npz is damaged or was changed"):
        data.load("animal_mnist", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"fashion_mnist\.npz is missing"):
        data.load("fashion_mnist", data_dir=tmp_path)


def test_file_without_a_checksum_is_refused(commit, tmp_path):
    commit(b"x")
    (tmp_path / "checksums.txt").write_text("")
    with pytest.raises(ValueError, match=r"expected a line in checksums\.txt"):
        data.load("fashion_mnist", data_dir=tmp_path)


class Bomb:
    """Its unpickling would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("kind", ["object array", "pickle", "other arrays", "one array", "empty", "text"])
def test_file_with_other_content_is_refused_and_never_unpickled(kind, commit, tmp_path):
    path = tmp_path / "made.npz"
    bomb = Bomb(tmp_path / "exploded")
    if kind == "object array":
        objects = np.array([bomb], dtype=object)
        np.savez(path, train_images=objects, train_labels=objects, class_names=objects)
    elif kind == "other arrays":
        np.savez(path, something=np.zeros(3))
    elif kind == "one array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        path.write_bytes({"pickle": pickle.dumps(bomb), "empty": b"", "text": b"hello"}[kind])
    commit(path.read_bytes())
    with pytest.raises(ValueError, match=r"fashion_mnist\.npz is not a data file of the kit.*make_data") as error:
        data.load("fashion_mnist", data_dir=tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "exploded").exists()
