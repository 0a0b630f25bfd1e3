"""Out-of-distribution (OOD) sets: pictures of other objects than Fashion-MNIST's, or views that it does not have.

    ood.images("animals", 1000)                   # uint8[1000, 28, 28, 1]
    ood.images("vertical_flip", 1000, seed=1)

All draws come from a generator keyed by (seed, name) and, for each picture, its index in the set. So the first n
pictures do not depend on count.

Built in notebooks/11_shift_ood_few_shot.ipynb.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kitlib.data.corruptions import name_key, smooth_noise
from kitlib.data.datasets import load
from kitlib.data.files import keyed_rng
from kitlib.data.images import read_idx


def _scrambled(picture, rng):
    grid = picture.reshape(4, 7, 4, 7).swapaxes(1, 2).reshape(16, 7, 7)
    return rng.permutation(grid).reshape(4, 4, 7, 7).swapaxes(1, 2).reshape(28, 28, 1)


# Each function takes (picture uint8[28, 28, 1], rng) and returns a picture of the set. The two numbers are the AUROC
# between the set and the test pictures (0.5 not separable, 1 fully separable): by the pixel distance to the nearest of
# the 10,000 training pictures, and by 1 - largest probability of the perceptron of `corruptions` (mean of 4 seeds).
# Flipped, turned and inverted pictures still have a correct class, in a view that the training lacks; the others have
# none. There is no flip left to right: most clothes look the same, and training with flips has seen it.
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
        data_dir: for "mnist": the data folder, by default as for `datasets.load(full=True)`. Put the original file of
            test pictures into its subfolder downloads/manual/mnist; the error says where to get it.

    Raises:
        ValueError: the name, seed or count is not as above; the file is not MNIST's.
        FileNotFoundError: the file of MNIST is missing.
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
        folder = Path(data_dir or os.environ.get("KIT_DATA_DIR") or "~/.cache/kitlib/tfds").expanduser()
        # A folder of its own: the files of Fashion-MNIST have the same names.
        path = folder / "downloads" / "manual" / "mnist" / MNIST_URL.rsplit("/", 1)[-1]
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: fetch {MNIST_URL} to there once, or use 'animals' instead.")
        if (got := hashlib.sha256(path.read_bytes()).hexdigest()) != MNIST_SHA256:
            raise ValueError(
                f"{path} is not MNIST's own file: its sha256 is {got[:12]}..., expected {MNIST_SHA256[:12]}...; fetch "
                f"{MNIST_URL} again."
            )
        return read_idx(path)[..., None]
    source = load("animal_mnist" if name == "animals" else "fashion_mnist", "test")
    images, labels = source.arrays()
    if name == "vertical_flip":
        images = images[~np.isin(labels, [source.class_names.index(c) for c in NOT_FLIPPED])]
    return images
