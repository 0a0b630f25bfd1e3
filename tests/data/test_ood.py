"""kitlib.data.shifts: the source, size and draws of each set, and its distance to the test pictures."""

import gzip
import hashlib

import numpy as np
import pytest

from kitlib import data
from kitlib.data import shifts

OFFLINE = [name for name in shifts.SETS if name != "mnist"]


@pytest.fixture(scope="module")
def test_set():
    return data.load("fashion_mnist", "test").arrays()


@pytest.mark.parametrize("name", OFFLINE)
def test_type_shape_seed_first_n_and_every_picture_once_at_most(name):
    out, most = shifts.images(name, 30), {"vertical_flip": 4000, "animals": 1947}.get(name, 5000)
    assert out.dtype == np.uint8 and out.shape == (30, 28, 28, 1)
    assert len({picture.tobytes() for picture in out}) == 30
    np.testing.assert_array_equal(shifts.images(name, 10), out[:10])
    assert (shifts.images(name, 30, seed=1) != out).any(axis=(1, 2, 3)).all()
    assert shifts.images(name, 0).shape == (0, 28, 28, 1)
    if name in ("vertical_flip", "inverted", "animals"):
        assert len({picture.tobytes() for picture in shifts.images(name, most)}) == most
    for count in (most + 1, -1):
        with pytest.raises(ValueError, match=f"{count} pictures of '{name}' were asked for; expected 0 to {most}"):
            shifts.images(name, count)


def test_flips_without_dresses_and_bags_turns_both_ways_inverted_and_animals_are_test_pictures(test_set):
    label = {image.tobytes(): int(y) for image, y in zip(*test_set, strict=True)}
    found = [label[picture[::-1].tobytes()] for picture in shifts.images("vertical_flip", 500)]  # KeyError: another
    names = data.load("fashion_mnist").class_names
    assert {names[y] for y in found} == set(names) - {"Dress", "Bag"}
    turned = shifts.images("quarter_turn", 200)
    left, right = (np.array([np.rot90(picture, way).tobytes() in label for picture in turned]) for way in (-1, 1))
    assert (left ^ right).all() and 70 < left.sum() < 130
    assert all((255 - picture).tobytes() in label for picture in shifts.images("inverted", 50))
    animals = {image.tobytes() for image in data.load("animal_mnist", "test").arrays()[0]}
    assert all(picture.tobytes() in animals for picture in shifts.images("animals", 50))


def test_patches_are_the_squares_of_one_test_picture_in_another_order(test_set):
    def squares(image):
        return [image[r : r + 7, c : c + 7].tobytes() for r in range(0, 28, 7) for c in range(0, 28, 7)]

    known = {tuple(sorted(squares(image))): squares(image) for image in test_set[0]}
    same = [known[tuple(sorted(squares(picture)))] == squares(picture) for picture in shifts.images("patches", 100)]
    assert not any(same)


def test_noise_sets_have_the_spectrum_they_claim():
    uniform, smooth = (shifts.images(name, 100).astype(float) for name in ("uniform_noise", "smooth_noise"))
    assert abs(uniform.mean() - 127.5) < 1.1 and abs(uniform.std() - 73.9) < 0.7  # 4 standard errors
    assert uniform.min() == 0 and uniform.max() == 255
    assert (smooth.min(axis=(1, 2, 3)) == 0).all() and (smooth.max(axis=(1, 2, 3)) == 255).all()
    for images, expected in ((uniform, 0.0), (smooth, np.exp(-1 / 16))):  # exp(-d^2 / 4 sigma^2) at d = 1, sigma = 2
        assert abs(np.corrcoef(images[:, 1:].ravel(), images[:, :-1].ravel())[0, 1] - expected) < 0.05


def test_the_distances_that_the_module_states(test_set):
    """AUROC of the distance to the nearest training picture, against test pictures (in the module: 1,000 each)."""
    train = data.load("fashion_mnist").arrays()[0].reshape(10_000, -1).astype(np.float32)

    def distance(images):
        flat = images.reshape(len(images), -1).astype(np.float32)
        return ((flat**2).sum(1, keepdims=True) + (train**2).sum(1)[None] - 2 * flat @ train.T).min(axis=1)

    inside = distance(test_set[0][:300])
    stated = {"vertical_flip": 0.87, "quarter_turn": 0.90, "inverted": 1.0, "patches": 0.98}
    stated |= {"uniform_noise": 1.0, "smooth_noise": 0.99, "animals": 0.98}
    for name in OFFLINE:
        auroc = (distance(shifts.images(name, 300))[:, None] > inside[None]).mean()
        assert abs(auroc - stated[name]) < 0.04, (name, auroc)


def test_mnist_is_read_from_the_users_folder_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_DATA_DIR", str(tmp_path / "other"))
    with pytest.raises(FileNotFoundError, match=r"other.downloads.manual.mnist.t10k.* is missing: fetch .* 'animals'"):
        shifts.images("mnist", 1)
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    path = tmp_path / "downloads" / "manual" / "mnist" / "t10k-images-idx3-ubyte.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(b"\0\0\x08\x03" + np.array(images.shape, ">i4").tobytes() + images.tobytes()))
    with pytest.raises(ValueError, match=r"is not MNIST's own file: its sha256 is .*expected 8d422c7b0a1c"):
        shifts.images(
            "mnist", 5, data_dir=tmp_path
        )  # Fashion-MNIST's file, of the same name, would be refused like this
    monkeypatch.setattr(shifts, "MNIST_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setenv("KIT_DATA_DIR", str(tmp_path))
    out = shifts.images("mnist", 20)
    assert {picture.tobytes() for picture in out} == {image.tobytes() for image in images}
    np.testing.assert_array_equal(out[:5], shifts.images("mnist", 5, data_dir=tmp_path))
    with pytest.raises(ValueError, match="OOD set 'mnits'; did you mean 'mnist'"):
        shifts.images("mnits", 1)
