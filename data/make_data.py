"""Makes the committed data files from three public packages.

    apt-get download dataset-fashion-mnist wordnet-base
    for package in *.deb; do dpkg-deb -x $package debian; done
    pip download --no-deps animal-mnist==0.4
    python data/make_data.py --fashion debian/usr/share/datasets/fashion-mnist --animal animal_mnist-0.4-*.whl \\
        --wordnet debian/usr/share/wordnet

writes `fashion_mnist.npz`, `animal_mnist.npz`, `glosses.txt.gz` and `tokenizer.model` beside this script (or into
`--out`), or those of them whose package is given, and then `checksums.txt`. The inputs are checked by sha256 first.
Which pictures and glosses are taken, in which split and in which order is decided by the sha256 of their bytes alone,
so the outcome depends on no random generator and no order of the original files. The files are byte-reproducible with
the same zlib and sentencepiece; with another zlib the contents are the same and the bytes may differ.
"""

import argparse
import gzip
import hashlib
import io
import pickle
import re
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from kitlib.data import glosses, tokenizer
from kitlib.data.files import read_idx

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
WORDNET_SHA256 = {
    "data.adj": "c89120dfc1f046ddff4a631bf9b7e9fa1a36b5e86565a23bf82dbe14f30b88a7",
    "data.adv": "444a63bf3955080ab7524f5079cfc07ff9bc682cb98bdb1db73b0fb9829f1139",
    "data.noun": "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2",
    "data.verb": "adcf43e35b581e8036d8b5a52d63d9cd3d3b4870b2720d3c03c799df44777bc2",
}
ANIMAL_SHA256 = "aeebf3d9de4552d6fd2d5701424e1a5b9020f8e5115d68df9db252f2f53ce2ce"

# What WordNet marks as offensive, and what a text that is read in class can do without.
UNWANTED = re.compile(
    r"slur\b|offensive|obscen|vulgar|disparag|derogat|contemptuous|sexual|prostitut|masturb|dildo|\brap(e|ist)\b|"
    r"fuck|whore|bitch|n(egr|igge)|mongol(oid|ism)"
)


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


def entry(line: str) -> str | None:
    """One line of a WordNet data file -> "lemma: gloss", the gloss with its examples; None for a line to leave out.

    Left out are the licence at the top, names (a lemma with a capital letter or a digit: people, places, Latin names of
    species, mostly words that would occur once), what `UNWANTED` finds, and lines with an unpaired quotation mark.
    """
    head, bar, gloss = line.partition("|")
    if not bar or line.startswith("  "):
        return None
    lemma = re.sub(r"\((a|p|ip)\)$", "", head.split()[4]).replace("_", " ")  # "(p)" and the like say where it can stand
    gloss = " ".join(gloss.split())
    if not re.fullmatch(r"[a-z][a-z' -]*", lemma) or gloss.count('"') % 2 or not gloss.isascii():
        return None
    return None if UNWANTED.search(f"{lemma} {gloss}") else f"{lemma}: {gloss}"


def parts(line: str) -> set[str]:
    """The definition and the examples of "lemma: definition; "example"; "example"", to find repetitions."""
    definition, *quoted = line.partition(": ")[2].split('"')
    return {part.strip(" ;").lower() for part in (definition, *quoted)} - {""}


def choose_lines(lines, train: int, test: int) -> tuple[list[str], list[str]]:
    """The first `train` and the next `test` different lines in the order of their sha256.

    A line is passed over if its definition or one of its examples is in a line already taken: entries share them.
    """
    taken, seen = [], set()
    for line in sorted(set(lines), key=lambda line: hashlib.sha256(line.encode()).hexdigest()):
        if seen.isdisjoint(parts(line)):
            taken.append(line)
            seen |= parts(line)
        if len(taken) == train + test:
            return taken[:train], taken[train:]
    raise ValueError(f"There are only {len(taken)} different lines, {train} + {test} were asked for.")


def wordnet(folder: Path) -> bytes:
    """18,000 + 2,000 glosses of WordNet 3.0, gzipped: a line each, an empty line between the splits."""
    files = [check((folder / name).read_bytes(), sha256, name) for name, sha256 in WORDNET_SHA256.items()]
    lines = [entry(line) for data in files for line in data.decode().splitlines()]
    train, test = choose_lines([line for line in lines if line], 18_000, 2_000)
    return gzip.compress("\n".join([*train, "", *test, ""]).encode(), mtime=0)


def write_checksums(folder: Path) -> None:
    """Writes checksums.txt over all data files of the folder."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".npz", ".gz", ".xz", ".model"))
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "checksums.txt").write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, help="folder with the four IDX .gz files")
    parser.add_argument("--animal", type=Path, help="the animal_mnist 0.4 wheel")
    parser.add_argument("--wordnet", type=Path, help="folder with WordNet's data.noun, data.verb, data.adj, data.adv")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    if not (args.fashion or args.animal or args.wordnet):
        parser.error("name at least one package: --fashion, --animal or --wordnet")
    if args.fashion:
        write_npz(args.out / "fashion_mnist.npz", fashion(args.fashion))
    if args.animal:
        write_npz(args.out / "animal_mnist.npz", animal(args.animal))
    if args.wordnet:
        (args.out / "glosses.txt.gz").write_bytes(wordnet(args.wordnet))
        write_checksums(args.out)  # reading the glosses back needs it
        model = tokenizer.train(glosses("train", data_dir=args.out))
        (args.out / "tokenizer.model").write_bytes(model)
    write_checksums(args.out)
    print((args.out / "checksums.txt").read_text(), end="")


if __name__ == "__main__":
    main()
