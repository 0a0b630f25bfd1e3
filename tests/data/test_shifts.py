"""kitlib.data.shifts: each corruption computed another way, its draws; the source and distance of each OOD set."""

import gzip
import hashlib
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from kitlib import data
from kitlib.data import shifts
from kitlib.data.shifts import CORRUPTIONS, corrupt

WITHOUT_CHANCE = {"gaussian_blur", "pixelate", "scale", "contrast", "brightness"}


@pytest.fixture(scope="module")
def clean():
    return data.load("fashion_mnist", "test")[:150].arrays()[0]


def fixed(value):
    """A generator that always draws this value."""
    return SimpleNamespace(
        uniform=lambda low, high: value, choice=lambda options: value, random=lambda n: np.full(n, value)
    )


def photo(height=28, width=28, channels=1, seed=0):
    return np.random.default_rng(seed).random((height, width, channels))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_difference_grows_with_severity_and_chance_comes_from_seed_and_index_alone(name, clean):
    changed = [corrupt(clean, name, severity) for severity in range(1, 6)]
    errors = [np.mean((images.astype(float) - clean) ** 2) for images in changed]
    assert errors[0] > 50 and (np.diff(errors) > 0.1 * errors[0]).all(), errors
    before, whole = clean[:12].copy(), corrupt(clean[:12], name, 3, seed=5)
    np.testing.assert_array_equal(corrupt(clean[:12], name, 3, seed=5), whole)
    np.testing.assert_array_equal(corrupt(clean[7:8], name, 3, seed=5, indices=[7]), whole[7:8])
    np.testing.assert_array_equal(corrupt(clean[[9, 2]], name, 3, seed=5, indices=np.array([9, 2])), whole[[9, 2]])
    np.testing.assert_array_equal(clean[:12], before)  # the input is unchanged
    twice = np.repeat(clean[:20], 2, axis=0)
    a, b = corrupt(twice, name, 3, seed=0), corrupt(twice, name, 3, seed=1)
    for one, other in ((a, b), (a[::2], a[1::2])):  # a side (left or right) is the same in half of the pictures
        share = (one != other).any(axis=(1, 2, 3)).mean()
        assert share == 0 if name in WITHOUT_CHANCE else share > 0.3


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(2, 32, 40, 3), (1, 64, 48, 1), (1, 5, 3, 2), (1, 1, 1, 1), (0, 28, 28, 1)])
def test_any_size_keeps_type_and_shape(name, shape):
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for severity in (1, 5):
        out = corrupt(images, name, severity)
        assert out.dtype == np.uint8 and out.shape == shape
    assert len(corrupt(images, name, 1, indices=range(len(images)))) == len(images)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("value", [0, 255])
def test_values_are_clipped_and_do_not_wrap(name, value):
    """In a black or white picture, a sum that wraps around would give values near the other end."""
    out = corrupt(np.full((8, 28, 28, 1), value, np.uint8), name, 1).astype(int)
    if name == "impulse_noise":
        assert set(np.unique(out)) == {0, 255}
    elif name in {"translate", "rotate", "scale", "shear", "elastic"}:  # black comes in, the inside stays
        assert (out[:, 8:20, 8:20] == value).all() and (out == 0).any()
    elif name == "occlusion":
        assert set(np.unique(out)) == {value, 128}
    else:  # the largest changes at severity 1: light 0.1, shot noise of white 0.7
        assert abs(out - value).max() < (190 if name == "shot_noise" else 80)


def test_severities_share_their_draws(clean):
    changed = [corrupt(clean[:20], "impulse_noise", severity) != clean[:20] for severity in range(1, 6)]
    assert all((weak <= strong).all() for weak, strong in itertools.pairwise(changed))
    black = np.zeros((20, 28, 28, 1), np.uint8)
    covered = [corrupt(black, "occlusion", severity) > 0 for severity in range(1, 6)]
    assert all((weak <= strong).all() for weak, strong in itertools.pairwise(covered))


def test_names_have_keys_of_their_own_which_do_not_depend_on_other_names():
    keys = [shifts.name_key("corruption", name, CORRUPTIONS, 0) for name in CORRUPTIONS]
    assert len({data.keyed_rng(0, key, 0).random() for key in keys}) == 15
    assert keys == [shifts.name_key("", name, [name], 0) for name in CORRUPTIONS]


def test_noise_has_its_deviation_is_poisson_or_hits_its_share_half_black_half_white():
    rng, image = np.random.default_rng(0), np.full((100, 100, 1), 0.4)
    noise = shifts.gaussian_noise(image, 0.1, rng) - image
    assert abs(noise.mean()) < 0.004 and abs(noise.std() - 0.1) < 0.003  # 4 standard errors
    out = shifts.shot_noise(image, 1 / 20, rng)
    np.testing.assert_allclose(out * 20, np.rint(out * 20), atol=1e-9)  # whole photons
    assert abs(out.mean() - 0.4) < 0.006 and abs(out.var() - 0.4 / 20) < 0.0015
    assert not shifts.shot_noise(0 * image, 1 / 20, rng).any()
    out = shifts.impulse_noise(np.full((200, 200, 1), 0.4), 0.2, rng)
    for value, share in ((0.0, 0.1), (1.0, 0.1), (0.4, 0.8)):
        assert abs((out == value).mean() - share) < 0.01


def test_gaussian_blur_spreads_a_point_as_the_bell_curve():
    image = np.zeros((28, 28, 2))
    image[14, 10, 0] = 1
    out = shifts.gaussian_blur(image, 1.5, None)
    bell = np.exp(-0.5 * (np.arange(-6, 7) / 1.5) ** 2)  # scipy cuts at 4 standard deviations
    bell /= bell.sum()
    np.testing.assert_allclose(out[8:21, 4:17, 0], bell[:, None] * bell, atol=1e-12)
    assert not out[..., 1].any()  # channels do not mix


def test_motion_blur_along_an_axis_is_a_moving_average():
    image = photo(channels=2)
    for angle, axis in ((0.0, 1), (np.pi / 2, 0)):
        out = shifts.motion_blur(image, 4, fixed(angle))
        np.testing.assert_allclose(out, ndimage.uniform_filter1d(image, 5, axis=axis, mode="nearest"), atol=1e-12)


def test_motion_blur_at_an_angle_has_the_spread_of_a_straight_path():
    image = np.zeros((41, 41, 1))
    image[20, 20] = 1
    weights = shifts.motion_blur(image, 10 * 28 / 41, fixed(np.pi / 5))[..., 0]
    y, x = np.mgrid[-20:21, -20:21]
    along, across = x * np.cos(np.pi / 5) + y * np.sin(np.pi / 5), y * np.cos(np.pi / 5) - x * np.sin(np.pi / 5)
    assert abs(weights.sum() - 1) < 1e-12 and abs((weights * along).sum()) < 1e-12
    # Ends 10 apart and a point 1 wide: 11 in all, whose variance is 11^2 / 12.
    assert abs((weights * along**2).sum() - 121 / 12) < 0.3 and (weights * across**2).sum() < 0.25


def test_pixelate_by_hand():
    image = np.arange(28.0)[:, None, None] * np.ones((1, 29, 1)) / 28
    image[:, 28] = 1
    out = shifts.pixelate(image, 3, None)
    np.testing.assert_allclose(out[:6, 0, 0] * 28, [1, 1, 1, 4, 4, 4])
    np.testing.assert_allclose(out[26:, 0, 0] * 28, [25, 27])  # 28 = 9 x 3 + 1: the last square has one row
    np.testing.assert_allclose(out[0, 27:, 0], (1 / 28 + 1) / 2)  # and 29 = 9 x 3 + 2, two columns


def test_translate_moves_by_whole_pixels_and_fills_with_black():
    image = photo(channels=3)
    angle = np.arctan2(-2, 3)  # 3 to the right, 2 up
    out = shifts.translate(image, np.hypot(2, 3), fixed(angle))
    expected = np.zeros_like(image)
    expected[:-2, 3:] = image[2:, :-3]
    np.testing.assert_array_equal(out, expected)


def test_rotate_is_scipys_scale_by_half_takes_the_mean_of_four_and_shear_by_hand():
    image = photo(28, 28, 3)
    for sign in (1, -1):
        expected = ndimage.rotate(image, sign * 26, reshape=False, order=1, mode="grid-constant")
        np.testing.assert_allclose(shifts.rotate(image, 26, fixed(sign)), expected, atol=1e-9)
    np.testing.assert_allclose(shifts.rotate(image, 90, fixed(1)), np.rot90(image), atol=1e-9)
    image = photo(8, 8, 2)
    out = shifts.scale(image, 0.5, None)
    np.testing.assert_allclose(out[2:6, 2:6], image.reshape(4, 2, 4, 2, 2).mean(axis=(1, 3)), atol=1e-12)
    out[2:6, 2:6] = 0
    assert not out.any()
    right, left = (shifts.shear(np.arange(1.0, 10.0).reshape(3, 3, 1), 1, fixed(s))[..., 0] for s in (-1, 1))
    np.testing.assert_allclose(right, [[2, 3, 0], [4, 5, 6], [0, 7, 8]], atol=1e-12)
    np.testing.assert_allclose(left, [[0, 1, 2], [4, 5, 6], [8, 9, 0]], atol=1e-12)


def test_elastic_moves_points_by_its_distance():
    """On two ramps, one per axis, the change of the value is the distance moved."""
    image = np.stack(np.mgrid[:112, :112], axis=-1) / 1000
    moved = 1000 * (shifts.elastic(image, 1, np.random.default_rng(0)) - image)[12:-12, 12:-12]
    assert abs(np.sqrt((moved**2).sum(-1).mean()) - 4) < 0.8  # 1 pixel of 28 is 4 of 112
    assert abs(np.diff(moved, axis=0)).max() < 1.5  # neighbours move in the same direction


def test_contrast_brightness_and_fog_by_hand(clean):
    image = np.array([[[0.2], [0.4]], [[0.6], [0.8]]])
    np.testing.assert_allclose(shifts.contrast(image, 0.5, None).ravel(), [0.35, 0.45, 0.55, 0.65])
    bright = corrupt(clean[:5], "brightness", 3).astype(int)
    assert abs(bright - np.minimum(clean[:5] + 63.75, 255)).max() <= 0.5
    cloud = shifts.fog(photo(), 1.0, np.random.default_rng(0))  # nothing but fog
    assert abs(cloud.min() - 0.5) < 1e-9 and abs(cloud.max() - 1) < 1e-9 and abs(np.diff(cloud, axis=0)).max() < 0.2
    mixed = shifts.fog(photo(), 0.3, np.random.default_rng(0))
    np.testing.assert_allclose(mixed, 0.7 * photo() + 0.3 * cloud)


@pytest.mark.parametrize(("draw", "rows"), [(0.5, slice(9, 19)), (0.0, slice(0, 5)), (0.999, slice(22, 28))])
def test_occlusion_covers_a_square_also_over_the_edge(draw, rows):
    image = photo(channels=3)
    expected = image.copy()
    expected[rows, rows] = 0.5
    np.testing.assert_array_equal(shifts.occlusion(image, 10, fixed(draw)), expected)


def test_severity_and_indices_out_of_range(clean):
    with pytest.raises(ValueError, match=r"severity is .*; expected a whole number from 1 to 5"):
        corrupt(clean, "fog", 6)
    for indices in ([0], [0, -1], [0, 1.5]):
        with pytest.raises(ValueError, match="expected 2 integers from 0 on"):
            corrupt(clean[:2], "fog", 1, indices=indices)


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
