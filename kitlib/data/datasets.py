"""Image sets by name: the small ones that are part of the kit, and the full public ones by the same call.

    load("fashion_mnist", "test")                # 5,000 committed pictures, without a network
    load("fashion_mnist", "train", full=True)    # all 60,000, prepared once by TensorFlow Datasets (TFDS)

TFDS is imported only when a full set is loaded.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kitlib.configs.arguments import flag, one_of
from kitlib.data.images import COMMITTED, Source, load_committed

# TFDS's own names and splits. ImageNet's test split has no labels, so it is not listed.
FULL = {
    "fashion_mnist": ("train", "test"),
    "cifar10": ("train", "test"),
    "cifar100": ("train", "test"),
    "imagenet2012": ("train", "validation"),
}


def load(name: str, split: str = "train", *, full: bool = False, data_dir: str | Path | None = None) -> Source:
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
    if not full:
        return load_committed(name, split, data_dir=data_dir)

    from kitlib.data import tfds_builders  # imports TFDS, which takes about a second

    folder = data_dir or os.environ.get("KIT_DATA_DIR") or "~/.cache/kitlib/tfds"
    records = tfds_builders.open_records(name, split, folder)
    features = records.dataset_info.features
    shape = features["image"].shape
    store = Records(records, stack=None not in shape)
    return Source(name, tuple(features["label"].names), shape, store, range(len(records)))


@dataclass(frozen=True, eq=False)
class Records:
    """Records of a TFDS data source, decoded when they are read; the store of a full set's `Source`."""

    records: Any
    stack: bool  # whether all pictures have one size, so that `take` returns one array
    in_memory = False

    def take(self, indices):
        records = self.records.__getitems__([int(i) for i in indices])
        images = [record["image"] for record in records]
        labels = np.array([record["label"] for record in records], np.int32)
        return (np.stack(images) if self.stack and images else images), labels
