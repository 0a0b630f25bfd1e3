"""Image sets with random access: the small ones that travel with the kit, and the full public ones by the same call.

    load("fashion_mnist", "test")                # 5,000 committed pictures, at once, no network
    load("fashion_mnist", "train", full=True)    # all 60,000, prepared once by TensorFlow Datasets (TFDS)
    glosses("train")                             # the kit's text: 18,000 dictionary entries as strings

An image set is a `Source`: `len(s)`, `s[i]`, `s[a:b]`, `s.take(indices)`, `s.arrays()`, and
`kitlib.pipeline.batches` makes shuffled, augmented, resumable batches of it (`kitlib.text.batches` those of the text).
Only numpy is imported here; TFDS when a full set is asked for.
"""

import difflib
import gzip
import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

# What can be loaded: data set -> splits. The committed files are described in data/LICENSES.
COMMITTED = {"fashion_mnist": ("train", "test"), "animal_mnist": ("train", "test")}
# TFDS's own names and splits. ImageNet's test split has no labels, so it is left out.
FULL = {
    "fashion_mnist": ("train", "test"),
    "cifar10": ("train", "test"),
    "cifar100": ("train", "test"),
    "imagenet2012": ("train", "validation"),
}


@dataclass(frozen=True, eq=False)
class Source:
    """An image set with random access. Make one by `load` or `from_arrays`.

    Attributes:
        name: the data set's name.
        class_names: one name a class; `num_classes` is their number.
        image_shape: (H, W, C), with None for a size that differs from picture to picture.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int | None, int | None, int]
    store: Any  # has take(indices) -> (images, labels) and in_memory
    rows: range  # the store's records that this view shows

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

    def take(self, indices: Sequence[int]) -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
        """Returns many records at once: (images, labels).

        images is uint8[n, H, W, C], or a list of n pictures uint8[H, W, C] where `image_shape` has a None; labels is
        int32[n]. Raises IndexError for an index outside 0 ... len - 1.
        """
        indices = np.asarray(indices, np.int64).reshape(-1)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(
                f"Indices {indices.min()} to {indices.max()} were asked of {self.name}, which has {len(self)} records: "
                f"use 0 to {len(self) - 1}."
            )
        return self.store.take(self.rows.start + self.rows.step * indices)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns all records: images uint8[n, H, W, C], labels int32[n]; for sets that fit into memory.

        Raises ValueError if the pictures differ in size.
        """
        if None in self.image_shape:
            raise ValueError(
                f"The pictures of {self.name} differ in size and cannot be stacked: use kitlib.pipeline.batches."
            )
        return self.take(range(len(self)))


@dataclass(frozen=True, eq=False)
class _Arrays:
    """Records in memory."""

    images: np.ndarray
    labels: np.ndarray
    in_memory = True

    def take(self, indices):
        return self.images[indices], self.labels[indices]


@dataclass(frozen=True, eq=False)
class _Records:
    """Records of a TFDS data source, decoded when they are read."""

    records: Any
    stack: bool
    in_memory = False

    def take(self, indices):
        records = self.records.__getitems__([int(i) for i in indices])
        images = [record["image"] for record in records]
        labels = np.array([record["label"] for record in records], np.int32)
        return (np.stack(images) if self.stack and images else images), labels


def from_arrays(images: np.ndarray, labels: np.ndarray, *, name: str, class_names: Sequence[str]) -> Source:
    """A Source over arrays in memory, for pictures of your own or changed ones (corruptions, unseen classes).

    Args:
        images: uint8[n, H, W, C].
        labels: integers[n], each in 0 ... len(class_names) - 1.
        name: shown in error messages.
        class_names: one name a class.

    Raises:
        ValueError: for another rank, type, length or label.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            f"The images of {name} are {images.dtype}{list(images.shape)}; expected uint8[n, H, W, C] with values 0 to "
            f"255 (one grey channel: images[..., None])."
        )
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"The labels of {name} are {labels.dtype}{list(labels.shape)}; expected integers[{len(images)}]."
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < len(class_names):
        raise ValueError(
            f"The labels of {name} go from {labels.min()} to {labels.max()}; expected 0 to {len(class_names) - 1}, "
            f"one for each of the {len(class_names)} class names."
        )
    store = _Arrays(images, labels.astype(np.int32))
    return Source(name, tuple(class_names), images.shape[1:], store, range(len(images)))


def load(name: str, split: str = "train", *, full: bool = False, data_dir: str | Path | None = None) -> Source:
    """Loads one split of an image set.

    Args:
        name: full=False: "fashion_mnist" (10,000 + 5,000 of the 70,000) or "animal_mnist" (7,769 + 1,947 silhouettes).
            full=True: "fashion_mnist", "cifar10", "cifar100" or "imagenet2012", complete, TFDS's own name and class.
        split: "train" or "test"; for imagenet2012 "train" or "validation".
        full: False reads the committed file and never touches the network. True reads TFDS's prepared files and, if
            they are not there yet, downloads and prepares them once (without TensorFlow, in array_record format).
        data_dir: full=False: the folder with the npz files and checksums.txt (default: the kit's own). full=True:
            TFDS's data folder (default: the environment variable KIT_DATA_DIR, else ~/.cache/kitlib/tfds).

    Raises:
        ValueError: unknown name or split; a data file that is damaged or not the kit's.
        FileNotFoundError: a missing data file; for imagenet2012 the archives that must be fetched by hand.
        ConnectionError: the download cannot be reached.
        PermissionError: the data folder cannot be written.
    """
    choices = FULL if full else COMMITTED
    if name not in choices:
        raise ValueError(_unknown_name(name, full))
    if split not in choices[name]:
        raise ValueError(f"{name} has no split {split!r}: use one of {', '.join(map(repr, choices[name]))}.")
    if not full:
        arrays = read_npz(Path(data_dir) if data_dir else data_folder(), f"{name}.npz", split)
        return from_arrays(*arrays[:2], name=name, class_names=[str(c) for c in arrays[2]])

    from kitlib import builders  # imports TFDS, which takes about a second

    records = builders.open_records(name, split, data_dir or os.environ.get("KIT_DATA_DIR") or "~/.cache/kitlib/tfds")
    features = records.dataset_info.features
    shape = features["image"].shape
    return Source(
        name, tuple(features["label"].names), shape, _Records(records, None not in shape), range(len(records))
    )


def _unknown_name(name: str, full: bool) -> str:
    choices, other = (FULL, COMMITTED) if full else (COMMITTED, FULL)
    if name in other:
        return f"{name!r} is there only with full={not full}; with full={full} there are: {', '.join(choices)}."
    near = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"There is no data set {name!r}: {hint}With full={full} there are: {', '.join(choices)}."


def data_folder() -> Path:
    """The folder of the committed files: inside an installed wheel `kitlib/_data`, in a checkout `data/`."""
    package = Path(__file__).parent
    for folder in (package / "_data", package.parent / "data"):
        if (folder / "checksums.txt").is_file():
            return folder
    raise FileNotFoundError(
        f"The kit's data are neither in {package / '_data'} nor in {package.parent / 'data'}: install the kit again, "
        f"or pass data_dir."
    )


def read_checked(folder: Path, file: str) -> bytes:
    """Reads a committed file, which must have the sha256 that checksums.txt beside it says.

    Raises:
        FileNotFoundError: the file or checksums.txt is missing.
        ValueError: the file is truncated, changed or not listed.
    """
    for path in (folder / file, folder / "checksums.txt"):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: restore it from the repository or install the kit again.")
    data = (folder / file).read_bytes()
    lines = [line.split() for line in (folder / "checksums.txt").read_text().splitlines()]
    expected = {line[1]: line[0] for line in lines if len(line) == 2}.get(file)
    got = hashlib.sha256(data).hexdigest()
    if got != expected:
        raise ValueError(
            f"{folder / file} is damaged or was changed: its sha256 is {got[:12]}..., expected "
            f"{f'{expected[:12]}...' if expected else 'a line in checksums.txt'}; restore it from the repository."
        )
    return data


def read_npz(folder: Path, file: str, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads one split of a committed file: images uint8[n, H, W, C], labels uint8[n], class names str[V].

    Nothing in it is ever unpickled. Raises what `read_checked` raises, and ValueError if it holds other things than
    these arrays.
    """
    data = read_checked(folder, file)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return arrays[f"{split}_images"], arrays[f"{split}_labels"], arrays["class_names"]
    except (ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{folder / file} is not a data file of the kit ({str(error).splitlines()[0]}): expected plain arrays "
            f"{split}_images, {split}_labels and class_names; make it with data/make_data.py."
        ) from error


def glosses(split: str = "train", *, data_dir: str | Path | None = None) -> list[str]:
    """The kit's text: 18,000 ("train") or 2,000 ("test") entries of WordNet 3.0, one string each, without line breaks.

    An entry is a word or phrase, its definition and often an example: 'ice cube: a small cube of artificial ice; ...'.
    No definition and no example occurs twice, so none is in both splits. The order is random but fixed: the first n are
    a fair subset. data_dir: as for `load`.

    Raises what `read_checked` raises, and ValueError for another split or a file that holds something else.
    """
    if split not in ("train", "test"):
        raise ValueError(f"The glosses have no split {split!r}: use one of 'train', 'test'.")
    folder, file = Path(data_dir) if data_dir else data_folder(), "glosses.txt.gz"
    data = read_checked(folder, file)
    try:
        train, test = gzip.decompress(data).decode().split("\n\n")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(
            f"{folder / file} is not a data file of the kit ({error}): expected gzipped lines, an empty one between "
            f"the splits; make it with data/make_data.py."
        ) from error
    return (train if split == "train" else test).splitlines()


def read_idx(path: str | Path) -> np.ndarray:
    """Reads a gzipped IDX file of bytes, the format of MNIST and its kin: uint8[n, ...].

    Raises ValueError, with the file's name, if it is truncated or something else.
    Format: http://yann.lecun.com/exdb/mnist/ (two zero bytes, type 8 = uint8, rank, sizes as big-endian int32, data).
    """
    try:
        data = gzip.decompress(Path(path).read_bytes())
    except (OSError, EOFError) as error:
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(f"{path} is missing: put the original file there.") from error
        raise ValueError(f"{path} is not a whole gzip file ({error}): get it again.") from error
    rank = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    shape = (
        tuple(int(n) for n in np.frombuffer(data, ">i4", rank, offset=4)) if rank and len(data) >= 4 + 4 * rank else ()
    )
    if not shape or len(data) != 4 + 4 * rank + int(np.prod(shape)):
        raise ValueError(f"{path} is not a whole IDX file of bytes ({len(data):,} bytes, sizes {shape}): get it again.")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def keyed_rng(seed: int, *key: int) -> np.random.Generator:
    """A generator for (seed, key): other keys, other and independent numbers, whatever was drawn before."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
