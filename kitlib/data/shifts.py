"""Shifted pictures: fifteen corruptions in five severities, and out-of-distribution (OOD) sets for Fashion-MNIST.

    corrupt(images, "motion_blur", 3)             # the same pictures with noise, blur, warps or changed light
    images("animals", 1000)                       # uint8[1000, 28, 28, 1], pictures of other objects
    images("vertical_flip", 1000, seed=1)         # or views that Fashion-MNIST does not have

The corruptions follow the idea of ImageNet-C (1903.12261) and MNIST-C (1906.02337), but they are the kit's own and set
for 28 x 28 pixels: compare their errors only with each other. All draws come from a generator keyed by (seed, name,
index of the picture). So a picture is changed in the same way alone and in any batch, its severities share angle, side
and position, and the first n pictures of an OOD set do not depend on their number.

Built in notebooks/11_shift_ood_few_shot.ipynb.
"""

import hashlib
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from kitlib.configs.arguments import one_of, whole
from kitlib.data.files import keyed_rng, read_idx
from kitlib.data.images import full_folder, load

# ---------------------------------------------------------------------------------------------- corruptions

# Each function takes (picture float64[H, W, C] in [0, 1], strength, rng) and returns a changed picture of the same
# shape, whose values may leave [0, 1].


def gaussian_noise(image, deviation, rng):
    """Adds normal noise of this standard deviation to each value."""
    return image + deviation * rng.standard_normal(image.shape)


def shot_noise(image, light, rng):
    """Photon counts are Poisson: 1 / light photons on average for white, fewer for grey. Black stays black."""
    return light * rng.poisson(image / light)


def impulse_noise(image, share, rng):
    """Turns this share of the values black or white."""
    draw = rng.random(image.shape)
    return np.where(draw < share / 2, 0.0, np.where(draw > 1 - share / 2, 1.0, image))


def gaussian_blur(image, pixels, rng):
    """Blurs by a Gaussian of this standard deviation."""
    sigma = pixels * _scale(image)
    return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest")


def motion_blur(image, pixels, rng):
    """Averages along a straight path of this length, at a random angle."""
    half, angle = pixels * _scale(image) / 2, rng.uniform(0, np.pi)
    reach = int(np.ceil(half))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along = np.clip(y * np.sin(angle) + x * np.cos(angle), -half, half)  # the nearest point of the path
    distance = np.hypot(y - along * np.sin(angle), x - along * np.cos(angle))
    kernel = np.maximum(1 - distance, 0)
    return ndimage.convolve(image, (kernel / kernel.sum())[..., None], mode="nearest")


def pixelate(image, pixels, rng):
    """Replaces every square of this side by its mean."""
    side = max(1, round(pixels * _scale(image)))
    for axis, size in enumerate(image.shape[:2]):
        starts = np.arange(0, size, side)
        sides = np.diff(starts, append=size)  # the last square may be cut
        image = np.repeat(np.add.reduceat(image, starts, axis=axis) / np.expand_dims(sides, (1 - axis, 2)), sides, axis)
    return image


def translate(image, pixels, rng):
    """Shifts by this distance at a random angle; the shift is rounded to whole pixels."""
    angle = rng.uniform(0, 2 * np.pi)
    shift = np.rint(pixels * _scale(image) * np.array([np.sin(angle), np.cos(angle)]))
    return ndimage.shift(image, (*shift, 0), order=0)


def rotate(image, degrees, rng):
    """Rotates about the centre, to the left or to the right."""
    angle = rng.choice((-1, 1)) * np.deg2rad(degrees)
    return _warp(image, [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def scale(image, factor, rng):
    """Scales about the centre by this factor, which is below 1."""
    return _warp(image, np.eye(2) / factor)


def shear(image, slope, rng):
    """Shifts each row sideways by slope x its height above the centre, to the left or to the right."""
    return _warp(image, [[1, 0], [rng.choice((-1, 1)) * slope, 1]])


def elastic(image, pixels, rng):
    """Moves every point by a smooth random field, whose root mean square distance is this many pixels."""
    height, width, channels = image.shape
    field = [ndimage.gaussian_filter(rng.standard_normal((height, width)), 4 * _scale(image)) for _ in range(2)]
    field = np.stack(field) * (pixels * _scale(image) / np.sqrt(np.mean(np.sum(np.square(field), axis=0))))
    positions = np.mgrid[:height, :width, :channels].astype(np.float64)
    positions[:2] += field[..., None]
    return ndimage.map_coordinates(image, positions, order=1, mode="grid-constant")


def contrast(image, factor, rng):
    """Multiplies each value's difference to the picture's mean by this factor."""
    mean = image.mean(axis=(0, 1))
    return mean + factor * (image - mean)


def brightness(image, amount, rng):
    """Adds this amount to each value; white stays white."""
    return image + amount


def fog(image, density, rng):
    """Mixes in this share of clouds: smooth noise between grey and white."""
    return (1 - density) * image + density * (0.5 + 0.5 * smooth_noise(image, 4, rng))


def occlusion(image, pixels, rng):
    """Covers a square of this side with grey, at a random position with its centre inside the picture."""
    side = round(pixels * _scale(image))
    top, left = (rng.random(2) * image.shape[:2]).astype(int) - side // 2
    out = image.copy()
    out[max(top, 0) : top + side, max(left, 0) : left + side] = 0.5
    return out


# Five strengths each, in the unit that the function's argument names. They were set on Fashion-MNIST by eye (most
# pictures can still be named at severity 5) and by a perceptron of 128 hidden units, whose error on the clean pictures
# is 15 %. At severity 5 its error is 24 to 41 %, and 44 to 78 % where the outline moves (elastic, shear, scale,
# translate, rotate). Light and noise hardly change it before severity 3. Training with augment="crop_flip" has seen
# shifts by 2 pixels.
CORRUPTIONS = {
    "gaussian_noise": (gaussian_noise, (0.06, 0.12, 0.2, 0.3, 0.42)),
    "shot_noise": (shot_noise, (1 / 50, 1 / 20, 1 / 8, 1 / 3.5, 1 / 1.5)),
    "impulse_noise": (impulse_noise, (0.03, 0.07, 0.13, 0.22, 0.35)),
    "gaussian_blur": (gaussian_blur, (0.5, 0.8, 1.1, 1.5, 2)),
    "motion_blur": (motion_blur, (1.5, 3, 5, 7, 10)),
    "pixelate": (pixelate, (2, 3, 4, 5, 6)),
    "translate": (translate, (1, 2, 3, 4, 5)),
    "rotate": (rotate, (6, 12, 18, 26, 36)),
    "scale": (scale, (0.93, 0.86, 0.79, 0.71, 0.62)),
    "shear": (shear, (0.1, 0.2, 0.32, 0.46, 0.62)),
    "elastic": (elastic, (0.5, 0.9, 1.4, 2.0, 2.8)),
    "contrast": (contrast, (0.8, 0.6, 0.45, 0.3, 0.2)),
    "brightness": (brightness, (0.08, 0.16, 0.25, 0.36, 0.5)),
    "fog": (fog, (0.1, 0.2, 0.32, 0.46, 0.62)),
    "occlusion": (occlusion, (4, 7, 10, 13, 16)),
}


def corrupt(
    images: np.ndarray, name: str, severity: int, seed: int = 0, *, indices: Sequence[int] | None = None
) -> np.ndarray:
    """Corrupts pictures. uint8[B, H, W, C] -> the same shape and type.

    Args:
        images: of any size. Strengths in pixels are for 28 x 28 and grow with the shorter side; beyond the edge is
            black, the background of Fashion-MNIST.
        name: a key of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: at least 0; another seed gives other noise, angles and positions.
        indices: the index of each picture in its set, by default 0 ... B - 1. With them a part of a set is changed as
            in the whole: `corrupt(images[8:16], name, severity, indices=range(8, 16))`.

    Raises ValueError for an unknown name, or if another argument is not as above.
    """
    key = name_key("corruption", name, CORRUPTIONS, seed)
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape[1:]:
        expected = "uint8[B, H, W, C] with values 0 to 255 (one picture: images[None], one grey channel: [..., None])"
        raise ValueError(f"The images are {images.dtype}{list(images.shape)}; expected {expected}.")
    whole("severity", severity, 1, 5)  # the clean pictures are the images themselves
    indices = list(range(len(images)) if indices is None else indices)
    if len(indices) != len(images) or any(int(index) != index or index < 0 for index in indices):
        raise ValueError(f"indices are {indices[:3]}... ({len(indices)}); expected {len(images)} integers from 0 on.")
    change, strengths = CORRUPTIONS[name]
    out = np.empty_like(images)
    for i, index in enumerate(indices):
        changed = change(images[i] / 255.0, strengths[int(severity) - 1], keyed_rng(seed, key, int(index)))
        out[i] = np.rint(255.0 * np.clip(changed, 0.0, 1.0))
    return out


def name_key(kind: str, name: str, known, seed: int) -> int:
    """Checks name and seed, and returns the name's key for `keyed_rng`, which does not depend on the other names."""
    one_of(kind, str(name), known)
    whole("seed", seed, 0)
    return zlib.crc32(name.encode())


def smooth_noise(image, pixels, rng) -> np.ndarray:
    """Noise of the image's size, blurred by this standard deviation and stretched to [0, 1]: float64[H, W, 1]."""
    noise = ndimage.gaussian_filter(rng.random(image.shape[:2]), pixels * _scale(image))[..., None]
    return (noise - noise.min()) / max(np.ptp(noise), 1e-12)


def _scale(image) -> float:
    """The number of this picture's pixels per pixel of a 28 x 28 picture."""
    return min(image.shape[:2]) / 28


def _warp(image, matrix) -> np.ndarray:
    """Bilinear warp: the value at p = (row, column) comes from matrix @ (p - centre) + centre; outside is black."""
    full, centre = np.eye(3), (np.array(image.shape) - 1) / 2
    full[:2, :2] = matrix
    return ndimage.affine_transform(image, full, centre - full @ centre, order=1, mode="grid-constant")


# ---------------------------------------------------------------------------------------------- OOD sets


def _scrambled(picture, rng):
    grid = picture.reshape(4, 7, 4, 7).swapaxes(1, 2).reshape(16, 7, 7)
    return rng.permutation(grid).reshape(4, 4, 7, 7).swapaxes(1, 2).reshape(28, 28, 1)


# Each function takes (picture uint8[28, 28, 1], rng) and returns a picture of the set. The two numbers are the AUROC
# between the set and the test pictures (0.5 not separable, 1 fully separable): by the pixel distance to the nearest of
# the 10,000 training pictures, and by 1 - largest probability of the perceptron above (mean of 4 seeds). Pictures that
# are flipped, turned or inverted still have a correct class, in a view that the training lacks; the others have none.
# There is no flip left to right: most clothes look the same, and training with flips has seen it.
SETS: dict[str, Callable] = {
    # Upside down, except for NOT_FLIPPED: known objects, unknown view. 0.87, 0.77
    "vertical_flip": lambda picture, rng: picture[::-1],
    # By 90 degrees, left or right: known objects, unknown view; the hardest by confidence. 0.90, 0.56
    "quarter_turn": lambda picture, rng: np.rot90(picture, rng.choice((1, 3))),
    # Dark on white: known outlines, but no training picture has a white background. 1.00, 0.64 (seeds: 0.53 to 0.71)
    "inverted": lambda picture, rng: 255 - picture,
    # The 16 squares of 7 x 7 in another order: for a ViT with patch 7 only the positions are wrong. 0.98, 0.72
    "patches": _scrambled,
    # Every pixel uniform in 0 ... 255: no outline, no background, nothing smooth; the easiest. 1.00, 0.94
    "uniform_noise": lambda picture, rng: rng.integers(0, 256, picture.shape, np.uint8),
    # Noise blurred by 2 pixels, stretched to 0 ... 255: as smooth as clothes, without outline on black. 0.99, 0.87
    "smooth_noise": lambda picture, rng: np.rint(255 * smooth_noise(picture, 2, rng)),
    # Test split of Animal-MNIST: other objects on the same black, white without texture. 0.98, 0.73
    "animals": lambda picture, rng: picture,
    # Test split of MNIST, not in the kit: thin digits on the same black. 0.97, 0.80 (on 1,000 other digits of MNIST)
    "mnist": lambda picture, rng: picture,
}
# Chosen by eye: many bags (without a handle) and dresses (straight, without sleeves) look normal upside down.
NOT_FLIPPED = ("Dress", "Bag")
MNIST_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/t10k-images-idx3-ubyte.gz"
MNIST_SHA256 = "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"  # of the file, as TFDS has it


def images(name: str, count: int, seed: int = 0, *, data_dir: str | Path | None = None) -> np.ndarray:
    """Out-of-distribution pictures for Fashion-MNIST: uint8[count, 28, 28, 1]. The first n do not depend on count.

    Args:
        name: a key of `SETS`, where a comment describes each set and its difficulty.
        count: at most 4,000 for "vertical_flip", 1,947 for "animals", 10,000 for "mnist", else 5,000. All are made from
            test pictures, none of which is used twice.
        seed: at least 0; decides which pictures are used and how they are changed.
        data_dir: for "mnist", by default as for `images.load(full=True)`: a folder in whose downloads/manual/mnist is
            the original file of test pictures.

    Raises ValueError if one of these is not as above or the file is not MNIST's, FileNotFoundError if it is missing.
    """
    key = name_key("OOD set", name, SETS, seed)
    pool = _pool(name, data_dir)
    if not 0 <= count <= len(pool):
        raise ValueError(f"{count} pictures of {name!r} were asked for; expected 0 to {len(pool)}, all there are.")
    out = np.empty((count, *pool.shape[1:]), np.uint8)
    for i, chosen in enumerate(keyed_rng(seed, key).permutation(len(pool))[:count]):
        out[i] = SETS[name](pool[chosen], keyed_rng(seed, key, i))
    return out


def _pool(name: str, data_dir: str | Path | None) -> np.ndarray:
    """The pictures that an OOD set is made from: uint8[n, 28, 28, 1]."""
    if name == "mnist":
        # A folder of its own: the files of Fashion-MNIST have the same names.
        path = full_folder(data_dir) / "downloads" / "manual" / "mnist" / MNIST_URL.rsplit("/", 1)[-1]
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: fetch {MNIST_URL} to there once, or use 'animals' instead.")
        if (got := hashlib.sha256(path.read_bytes()).hexdigest()) != MNIST_SHA256:
            digests = f"its sha256 is {got[:12]}..., expected {MNIST_SHA256[:12]}..."
            raise ValueError(f"{path} is not MNIST's own file: {digests}; fetch {MNIST_URL} again.")
        return read_idx(path)[..., None]
    source = load("animal_mnist" if name == "animals" else "fashion_mnist", "test")
    images, labels = source.arrays()
    if name == "vertical_flip":
        images = images[~np.isin(labels, [source.class_names.index(c) for c in NOT_FLIPPED])]
    return images
