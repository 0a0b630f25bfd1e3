"""Image sets with random access: `Source`, made from arrays or from a file that is part of the kit.

    source = load_committed("fashion_mnist", "test")           # 5,000 images
    len(source), source[0], source[:100], source.take([3, 1]), source.arrays()

Users call `datasets.load`; `image_batches.batches` makes shuffled, augmented, resumable batches of a source.
"""

import gzip
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kitlib.data.files import data_folder, decoded_arrays

# Data set -> splits. The committed files are described in data/LICENSES.
COMMITTED = {"fashion_mnist": ("train", "test"), "animal_mnist": ("train", "test")}


@dataclass(frozen=True, eq=False)
class Source:
    """An image set with random access. Make one by `load` or `from_arrays`.

    Attributes:
        name: the data set's name.
        class_names: one name per class; `num_classes` is their number.
        image_shape: (H, W, C), with None for a size that differs from picture to picture.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int | None, int | None, int]
    store: Any  # has take(indices) -> (images, labels) and in_memory
    rows: range  # the store's records that this view shows

    def __repr__(self) -> str:
        names = ", ".join(self.class_names[:3]) + (", ..." if self.num_classes > 3 else "")
        return f"Source({self.name}: {len(self):,} pictures {self.image_shape}, {self.num_classes} classes: {names})"

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key):
        """An int gives {"image": uint8[H, W, C], "label": int}; a slice gives a Source, without copying."""
        if isinstance(key, slice):
            return replace(self, rows=self.rows[key])
        images, labels = self.store.take([self.rows[key]])  # the range raises IndexError
        return {"image": images[0], "label": int(labels[0])}

    def take(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
        """Returns several records: (images, labels).

        images is uint8[n, H, W, C], or a list of n pictures uint8[H, W, C] where `image_shape` has a None; labels is
        int32[n]. Raises IndexError for an index outside 0 ... len - 1.
        """
        indices = np.asarray(indices, np.int64).reshape(-1)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(
                f"Got indices {indices.min()} to {indices.max()} for {self.name}, which has {len(self)} records: use 0 "
                f"to {len(self) - 1}."
            )
        return self.store.take(self.rows.start + self.rows.step * indices)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns all records: images uint8[n, H, W, C], labels int32[n]; for sets that fit into memory.

        Raises ValueError if the pictures differ in size.
        """
        if None in self.image_shape:
            raise ValueError(
                f"The pictures of {self.name} differ in size and cannot be stacked: use image_batches.batches."
            )
        images, labels = self.take(range(len(self)))
        return np.asarray(images), labels


@dataclass(frozen=True, eq=False)
class _Arrays:
    """Records in memory."""

    images: np.ndarray
    labels: np.ndarray
    in_memory = True

    def take(self, indices):
        return self.images[indices], self.labels[indices]


def from_arrays(images: np.ndarray, labels: np.ndarray, *, name: str, class_names: Sequence[str]) -> Source:
    """A Source over arrays in memory, for your own pictures or for changed ones (corruptions, unseen classes).

    Args:
        images: uint8[n, H, W, C].
        labels: integers[n], each in 0 ... len(class_names) - 1.
        name: shown in error messages.
        class_names: one name per class.

    Raises:
        ValueError: the rank, order of axes, type, length or labels are not as above, there is no picture, or class
            names are equal or empty.
    """
    images, labels, class_names = np.asarray(images), np.asarray(labels), tuple(class_names)
    height, channels = (images.shape[1], images.shape[-1]) if images.ndim == 4 else (0, 0)
    first = 1 <= height <= 4 < channels or (height in (1, 3) and channels not in (1, 3))
    if images.dtype != np.uint8 or not images.size or not 1 <= channels <= 4 or first:
        grey = ": one grey channel is images[..., None]" if images.ndim == 3 else ""
        hint = ": with channels first, it seems, use images.transpose(0, 2, 3, 1)" if first else grey
        raise ValueError(
            f"The images of {name} are {images.dtype}{list(images.shape)}; expected uint8[n, H, W, C] with values 0 to "
            f"255, at least one picture and 1 to 4 channels{hint}."
        )
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"The labels of {name} are {labels.dtype}{list(labels.shape)}; expected integers[{len(images)}]."
        )
    if not 0 <= labels.min() <= labels.max() < len(class_names):
        raise ValueError(
            f"The labels of {name} go from {labels.min()} to {labels.max()}; expected 0 to {len(class_names) - 1}, "
            f"one for each of the {len(class_names)} class names."
        )
    if not all(isinstance(c, str) and c.strip() for c in class_names) or len(set(class_names)) < len(class_names):
        raise ValueError(f"The class names of {name} are {list(class_names)}; expected different texts, none empty.")
    store = _Arrays(images, labels.astype(np.int32))
    return Source(name, class_names, images.shape[1:], store, range(len(images)))


def load_committed(name: str, split: str, *, data_dir: str | Path | None = None) -> Source:
    """One split of a committed image set, a key of `COMMITTED`. data_dir and errors: as for `datasets.load`."""

    def source(arrays) -> Source:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        return from_arrays(images, labels, name=name, class_names=[str(c) for c in arrays["class_names"]])

    return decoded_arrays(Path(data_dir) if data_dir else data_folder(), f"{name}.npz", "make_data", source)


def read_idx(path: str | Path) -> np.ndarray:
    """Reads a gzipped IDX file of bytes, the format of MNIST and similar sets: uint8[n, ...].

    Raises ValueError, with the file's name, if the file is truncated or is no such file; FileNotFoundError if it is
    missing.
    Format: http://yann.lecun.com/exdb/mnist/ (two zero bytes, type 8 = uint8, rank, sizes as big-endian int32, data).
    """
    try:
        data = gzip.decompress(Path(path).read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(f"{path} is missing: put the original file there.") from error
        raise ValueError(f"{path} is not a whole gzip file ({error}): get it again.") from error
    rank = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    shape = tuple(np.frombuffer(data, ">u4", rank, offset=4).tolist()) if len(data) >= 4 + 4 * rank else ()
    if not shape or 0 in shape or len(data) != 4 + 4 * rank + math.prod(shape):
        raise ValueError(f"{path} is not a whole IDX file of bytes ({len(data):,} bytes, sizes {shape}): get it again.")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
