"""Makes the committed data files from two public packages.

    apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb debian
    pip download --no-deps animal-mnist==0.4
    python data/make_data.py --fashion debian/usr/share/datasets/fashion-mnist --animal animal_mnist-0.4-*.whl

writes `fashion_mnist.npz`, `animal_mnist.npz` and `checksums.txt` beside this script (or into `--out`). The inputs are
checked by sha256 first. Which pictures are taken, in which split and in which order is decided by the sha256 of their
bytes alone, so the outcome depends on no random generator and no order of the original files. The files are
byte-reproducible with the same zlib; with another zlib the arrays are the same and the bytes may differ.
"""

import argparse
import gzip
import hashlib
import io
import pickle
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from kitlib.data import read_idx

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
ANIMAL_CLASSES = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")
FASHION_SHA256 = {  # of the unzipped files: Debian packed the originals again
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
ANIMAL_SHA256 = "aeebf3d9de4552d6fd2d5701424e1a5b9020f8e5115d68df9db252f2f53ce2ce"


def check(data: bytes, sha256: str, name: str) -> bytes:
    got = hashlib.sha256(data).hexdigest()
    if got != sha256:
        raise ValueError(f"{name} has sha256 {got}, expected {sha256}: get the package version named above.")
    return data


def hashes(images: np.ndarray) -> list[str]:
    """The sha256 of each picture of uint8[n, H, W, C]."""
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def distinct(images: np.ndarray, labels: np.ndarray, avoid=frozenset()) -> list[tuple[str, int]]:
    """(hash, index) of each different picture, sorted by hash; without those in `avoid` or with two labels."""
    label_sets, first = defaultdict(set), {}
    for i, name in enumerate(hashes(images)):
        label_sets[name].add(int(labels[i]))
        first.setdefault(name, i)
    return sorted((name, i) for name, i in first.items() if name not in avoid and len(label_sets[name]) == 1)


def choose(ranked, labels: np.ndarray, start: np.ndarray, stop: np.ndarray) -> list[int]:
    """Indices of the pictures ranked `start[label]` to `stop[label]` within their class, in hash order.

    The order takes one picture of each class in turn, so that the first n are a balanced subset for every n.
    """
    chosen, seen = [], Counter()
    for name, i in ranked:
        label = int(labels[i])
        rank = seen[label]
        seen[label] += 1
        if start[label] <= rank < stop[label]:
            chosen.append((rank - start[label], name, i))
    return [i for _, _, i in sorted(chosen)]


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """As `np.savez_compressed`, but with fixed time stamps, so that the same arrays give the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, buffer.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)


def splits(train_images, train_labels, test_images, test_labels, class_names) -> dict[str, np.ndarray]:
    return {
        "train_images": train_images,
        "train_labels": train_labels.astype(np.uint8),
        "test_images": test_images,
        "test_labels": test_labels.astype(np.uint8),
        "class_names": np.array(class_names),  # plain unicode
    }


def fashion(folder: Path) -> dict[str, np.ndarray]:
    """1,000 pictures a class of the official train part, 500 of the official test part."""
    for name, sha256 in FASHION_SHA256.items():
        check(gzip.decompress((folder / name).read_bytes()), sha256, name)
    parts = {
        part: [read_idx(folder / f"{part}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1")]
        for part in ("train", "t10k")
    }
    (images, labels), (test_images, test_labels) = parts["train"], parts["t10k"]
    images, test_images = images[..., None], test_images[..., None]
    none = np.zeros(10, int)
    train = choose(distinct(images, labels), labels, none, none + 1000)
    # The whole official train part is avoided, so that a model trained on all 60,000 has not seen these test pictures.
    ranked = distinct(test_images, test_labels, avoid=set(hashes(images)))
    test = choose(ranked, test_labels, none, none + 500)
    return splits(images[train], labels[train], test_images[test], test_labels[test], FASHION_CLASSES)


class ArrayUnpickler(pickle.Unpickler):
    """Admits the three names that a pickled numpy array needs, and nothing that could run."""

    ALLOWED = frozenset({("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")})

    def find_class(self, module: str, name: str):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"The pickle asks for {module}.{name}; only a plain numpy array is read here.")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_pickled_array(zipped: bytes) -> np.ndarray:
    return ArrayUnpickler(io.BytesIO(gzip.decompress(zipped))).load()


def animal(wheel: Path) -> dict[str, np.ndarray]:
    """Of the 9,716 different pictures, four fifths of each class for training and one fifth for testing."""
    check(wheel.read_bytes(), ANIMAL_SHA256, wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        images, labels = (
            read_pickled_array(archive.read(f"animal_mnist/data/Animal_MNIST/animal_{part}_version_3.gz"))
            for part in ("data", "label")
        )
    images = images[..., None]
    ranked = distinct(images, labels)
    total = np.bincount(labels[[i for _, i in ranked]])
    train = choose(ranked, labels, 0 * total, total * 4 // 5)
    test = choose(ranked, labels, total * 4 // 5, total)
    return splits(images[train], labels[train], images[test], labels[test], ANIMAL_CLASSES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, required=True, help="folder with the four IDX .gz files")
    parser.add_argument("--animal", type=Path, required=True, help="the animal_mnist 0.4 wheel")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    lines = []
    for name, arrays in (("animal_mnist.npz", animal(args.animal)), ("fashion_mnist.npz", fashion(args.fashion))):
        write_npz(args.out / name, arrays)
        data = (args.out / name).read_bytes()
        lines.append(f"{hashlib.sha256(data).hexdigest()}  {name}\n")
        print(f"{name}: {len(arrays['train_labels'])} + {len(arrays['test_labels'])} pictures, {len(data):,} bytes")
    (args.out / "checksums.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
