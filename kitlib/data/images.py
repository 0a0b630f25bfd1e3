"""Image sets by name, with random access: the kit's own small ones, and the full public ones by the same call.

    source = load("fashion_mnist", "test")       # 5,000 committed pictures, without a network
    load("fashion_mnist", "train", full=True)    # all 60,000, prepared once by TensorFlow Datasets (TFDS)
    len(source), source[0], source[:100], source.take([3, 1]), source.arrays()

`image_batches.batches` makes shuffled, augmented, resumable batches of a source. TFDS takes about a second to import,
so it is imported only when a full set is loaded (`datasets`).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kitlib.configs.arguments import flag, one_of
from kitlib.data.files import decoded_arrays

# Data set -> splits. The committed files are described in data/LICENSES; the names and splits of the full sets are
# TFDS's. ImageNet's test split has no labels, so it is not listed.
COMMITTED = {"fashion_mnist": ("train", "test"), "animal_mnist": ("train", "test")}
FULL = dict.fromkeys(("fashion_mnist", "cifar10", "cifar100"), ("train", "test"))
FULL |= {"imagenet2012": ("train", "validation")}


def load(name: str, split: str = "train", *, full: bool = False, data_dir: str | Path | None = None) -> "Source":
    """Loads one split of an image set.

    Args:
        name: full=False: "fashion_mnist" (10,000 + 5,000 of the 70,000) or "animal_mnist" (7,769 + 1,947 silhouettes).
            full=True: the complete "fashion_mnist", "cifar10", "cifar100" or "imagenet2012", as in TFDS.
        split: "train" or "test"; for imagenet2012 "train" or "validation".
        full: False reads the committed file and never uses the network. True reads TFDS's prepared files; if there are
            none yet, it downloads and prepares them once (without TensorFlow, in array_record format).
        data_dir: full=False: the folder with the npz files and checksums.txt (default: the kit's own). full=True:
            TFDS's data folder (default: the environment variable KIT_DATA_DIR, else ~/.cache/kitlib/tfds).

    Raises:
        ValueError: the name or split is unknown; a data file is damaged or not the kit's.
        FileNotFoundError: a data file is missing; for imagenet2012, the archives that must be fetched by hand.
        ConnectionError: the download cannot be reached.
        PermissionError: the data folder cannot be written.
    """
    choices = FULL if flag("full", full) else COMMITTED
    if str(name) not in choices and str(name) in (COMMITTED if full else FULL):
        raise ValueError(f"{name!r} is available only with full={not full}; with full={full}: {', '.join(choices)}.")
    one_of(f"data set with full={full}", name, choices)
    one_of(f"split of {name}", split, choices[name])
    if full:
        from kitlib.data import datasets

        return _of_records(name, datasets.open_records(name, split, full_folder(data_dir)))

    def source(arrays) -> Source:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        return from_arrays(images, labels, name=name, class_names=[str(c) for c in arrays["class_names"]])

    return decoded_arrays(data_dir, f"{name}.npz", "make_data", source)


def full_folder(data_dir: str | Path | None) -> Path:
    """The folder of the full sets: data_dir, else $KIT_DATA_DIR, else ~/.cache/kitlib/tfds."""
    return Path(data_dir or os.environ.get("KIT_DATA_DIR") or "~/.cache/kitlib/tfds").expanduser()


@dataclass(frozen=True, eq=False)
class Source:
    """An image set with random access. Make one by `load` or `from_arrays`."""

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int | None, int | None, int]  # H, W, C, with None for a size that differs between pictures
    store: Any  # `Arrays` or `Records`
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
        """(images, labels) of several records: uint8[n, H, W, C], or a list of n pictures uint8[H, W, C] where
        `image_shape` has a None; int32[n]. Raises IndexError for an index outside 0 ... len - 1."""
        indices = np.asarray(indices, np.int64).reshape(-1)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            got = f"indices {indices.min()} to {indices.max()} for {self.name}, which has {len(self)} records"
            raise IndexError(f"Got {got}: use 0 to {len(self) - 1}.")
        return self.store.take(self.rows.start + self.rows.step * indices)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All records, for sets that fit into memory: images uint8[n, H, W, C], labels int32[n].

        Raises ValueError if the pictures differ in size.
        """
        if None in self.image_shape:
            raise ValueError(f"The pictures of {self.name} differ in size: use image_batches.batches.")
        images, labels = self.take(range(len(self)))
        return np.asarray(images), labels


@dataclass(frozen=True, eq=False)
class Arrays:
    """Records in memory."""

    images: np.ndarray
    labels: np.ndarray
    in_memory = True

    def take(self, indices):
        return self.images[indices], self.labels[indices]


@dataclass(frozen=True, eq=False)
class Records:
    """Records of a TFDS data source, decoded when they are read."""

    records: Any
    stack: bool  # whether all pictures have one size, so that `take` returns one array
    in_memory = False

    def take(self, indices):
        records = self.records.__getitems__([int(i) for i in indices])
        images = [record["image"] for record in records]
        labels = np.array([record["label"] for record in records], np.int32)
        return (np.stack(images) if self.stack and images else images), labels


def _of_records(name: str, records) -> Source:
    features = records.dataset_info.features
    shape = features["image"].shape
    return Source(name, tuple(features["label"].names), shape, Records(records, None not in shape), range(len(records)))


def from_arrays(images: np.ndarray, labels: np.ndarray, *, name: str, class_names: Sequence[str]) -> Source:
    """A Source over arrays in memory, for your own pictures or for changed ones (corruptions, unseen classes).

    Args:
        images: uint8[n, H, W, C].
        labels: integers[n], each in 0 ... len(class_names) - 1.
        name: shown in error messages.
        class_names: one name per class, none equal or empty.

    Raises ValueError if there is no picture, or one of these is not as above; also for channels first.
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
        got = f"{labels.dtype}{list(labels.shape)}"
        raise ValueError(f"The labels of {name} are {got}; expected integers[{len(images)}].")
    if not 0 <= labels.min() <= labels.max() < len(class_names):
        raise ValueError(
            f"The labels of {name} go from {labels.min()} to {labels.max()}; expected 0 to {len(class_names) - 1}, "
            f"one for each of the {len(class_names)} class names."
        )
    if not all(isinstance(c, str) and c.strip() for c in class_names) or len(set(class_names)) < len(class_names):
        raise ValueError(f"The class names of {name} are {list(class_names)}; expected different texts, none empty.")
    return Source(name, class_names, images.shape[1:], Arrays(images, labels.astype(np.int32)), range(len(images)))
