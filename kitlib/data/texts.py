"""The kit's text: entries of WordNet's dictionary, messages of Django in 96 languages, and names to know by heart.

    glosses("train")                                  # strings
    facts("taught")                                   # a dog in German -> h u n d </s>
    for batch in batches(facts("taught"), 256, seed=0): ...

`denoise` makes training batches from strings. Built in notebooks/08_t5_and_upcycling.ipynb.
"""

import functools
import gzip
import hashlib
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kitlib.configs.arguments import one_of
from kitlib.data.files import data_folder, decoded

if TYPE_CHECKING:
    import grain

# ---------------------------------------------------------------------------------------------- texts

CATEGORISED = {"train": 6_000, "test": 2_000}  # the last of the file
TEST_MESSAGES = 3_000  # the last of the file


def glosses(split: str = "train", *, data_dir: str | Path | None = None) -> list[str]:
    """Entries of WordNet 3.0, one string each, without line breaks: 18,000 ("train"), 2,000 ("test"), 67,938 ("more").

    An entry is a word or phrase, its definition and often an example: 'ice cube: a small cube of artificial ice; ...'.
    No definition and no example occurs twice, so none is in two splits. The order is random but fixed: the first n are
    a fair subset. data_dir: as for `datasets.load`.

    Raises the errors of `files.read_checked`, and ValueError for an unknown split or a file with other content.
    """
    one_of("split of the glosses", split, ("train", "test", "more"))
    if split == "more":
        return [text for _, text in _lines(_folder(data_dir), "more_glosses.txt.xz")[: -sum(CATEGORISED.values())]]

    def halves(packed: bytes) -> list[str]:
        train, test = gzip.decompress(packed).decode().split("\n\n")
        return (train if split == "train" else test).splitlines()

    return decoded(_folder(data_dir), "glosses.txt.gz", "make_data", halves)


def categorised_glosses(split: str = "train", *, data_dir: str | Path | None = None) -> list[tuple[str, str]]:
    """(entry, category): 6,000 ("train") or 2,000 ("test") entries that are in no split of `glosses`.

    The categories are those of WordNet's 45 files: "noun.animal", "verb.motion", ... data_dir and errors: as `glosses`.
    """
    one_of("split of the categorised glosses", split, tuple(CATEGORISED))
    last = _lines(_folder(data_dir), "more_glosses.txt.xz")[-sum(CATEGORISED.values()) :]
    chosen = last[: CATEGORISED["train"]] if split == "train" else last[CATEGORISED["train"] :]
    return [(text, category) for category, text in chosen]


def entries(*, data_dir: str | Path | None = None) -> list[tuple[str, str]]:
    """(category, entry): all 75,938 of `glosses("more")` and `categorised_glosses`, for tasks about words instead of
    glosses. data_dir and errors: as `glosses`."""
    return _lines(_folder(data_dir), "more_glosses.txt.xz")


def messages(split: str = "train", *, data_dir: str | Path | None = None) -> list[tuple[str, str]]:
    """(language, message): what the web framework Django says to its users: 51,512 ("train") or 3,000 ("test").

    There are 96 languages and variants, by codes such as "de" or "zh_Hans". No message occurs twice. data_dir and
    errors: as `glosses`.
    """
    one_of("split of the messages", split, ("train", "test"))
    lines = _lines(_folder(data_dir), "messages.txt.xz")
    return lines[:-TEST_MESSAGES] if split == "train" else lines[-TEST_MESSAGES:]


def _folder(data_dir: str | Path | None) -> Path:
    return Path(data_dir) if data_dir else data_folder()


@functools.lru_cache(maxsize=4)
def _lines(folder: Path, file: str) -> list[tuple[str, str]]:
    """(kind, text) of every line of a compressed file; see data/make_texts.py."""

    def pairs(packed: bytes) -> list[tuple[str, str]]:
        lines = [line.split("\t") for line in lzma.decompress(packed).decode().splitlines()]
        if not lines or any(len(line) != 2 or not all(line) for line in lines):
            raise ValueError("a line is not a kind, a tab and a text")
        return [(kind, text) for kind, text in lines]

    return decoded(folder, file, "make_texts", pairs)


# ---------------------------------------------------------------------------------------------- names to know by heart

# Closed-book recall: what is this object called in that language? 31,747 facts that a model can only know by heart.
#
#     facts = recall.facts("taught")                    # a dog in German -> h u n d </s>
#     for batch in recall.batches(facts, 256, seed=0): ...
#
# An example has three input tokens, the language and the number of the object in two digits, and the letters of the
# name as targets. There is nothing to compute, so the task measures how much a model *stores*. 5 % of the pairs of
# object and language are held out: they say what a model can guess from the other languages' names.
#
# The names are CLDR's; data/make_names.py made the file.
FILE = "names.txt.gz"
PAD, EOS = 0, 1
BASE = 42  # an object's number, below 42 * 42 = 1,764, is written in two digits of this base
HELD_OUT = 0.05  # of all facts
SPLITS = ("taught", "held_out")


@dataclass(frozen=True, eq=False)
class Facts:
    """n facts. Attributes:

    inputs: int32[n, 3], tokens of the language, of the first and of the second digit of the object's number.
    targets: int32[n, 13], the letters of its name and `EOS`; then padding.
    names: what was encoded: (language, object, name) per fact, such as ("de", "🐕", "hund").
    """

    inputs: np.ndarray
    targets: np.ndarray
    names: tuple[tuple[str, str, str], ...]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: slice) -> "Facts":
        return Facts(self.inputs[rows], self.targets[rows], self.names[rows])

    def __repr__(self) -> str:
        return f"Facts({len(self)} names)"


@dataclass(frozen=True)
class Vocabulary:
    """Tokens: padding, end, languages, first digits, second digits, letters."""

    languages: tuple[str, ...]
    letters: tuple[str, ...]

    @property
    def size(self) -> int:
        """V."""
        return 2 + len(self.languages) + 2 * BASE + len(self.letters)

    def inputs(self, language: str, number: int) -> list[int]:
        """The three tokens that ask for the name of object `number` in `language`."""
        first = 2 + len(self.languages)
        return [2 + self.languages.index(language), first + number // BASE, first + BASE + number % BASE]

    def targets(self, name: str) -> list[int]:
        """The tokens of a name's letters, and the end."""
        first = 2 + len(self.languages) + 2 * BASE
        return [first + self.letters.index(letter) for letter in name] + [EOS]

    def name(self, tokens) -> str:
        """The letters that a model wrote, up to the end; a token that is no letter becomes "?"."""
        first, written = 2 + len(self.languages) + 2 * BASE, []
        for token in map(int, tokens):
            if token == EOS:
                break
            written.append(self.letters[token - first] if first <= token < self.size else "?")
        return "".join(written)


def vocabulary(*, data_dir: str | Path | None = None) -> Vocabulary:
    """The vocabulary of all facts. Raises the errors of `facts`."""
    languages, rows = _table(Path(data_dir) if data_dir else data_folder())
    return Vocabulary(languages, tuple(sorted({letter for _, row in rows for name in row for letter in name})))


def facts(split: str = "taught", *, data_dir: str | Path | None = None) -> Facts:
    """The facts of a split, "taught" (30,160) or "held_out" (1,587).

    The order is random but fixed: the first n are a fair sample. Whether a fact is held out, and its place, is decided
    by the sha256 of language and object. data_dir: as for `datasets.load`.

    Raises ValueError for an unknown split or a file with other content, and the errors of `files.read_checked`.
    """
    one_of("split of the facts", split, SPLITS)
    folder = Path(data_dir) if data_dir else data_folder()
    words, (languages, rows) = vocabulary(data_dir=folder), _table(folder)
    ranked = sorted(
        (hashlib.sha256(f"{language} {thing}".encode()).digest(), number, language, thing, name)
        for number, (thing, row) in enumerate(rows)
        for language, name in zip(languages, row, strict=True)
        if name
    )
    border = int(HELD_OUT * len(ranked))
    chosen = ranked[:border] if split == "held_out" else ranked[border:]
    targets = [words.targets(name) for *_, name in chosen]
    padded = np.full((len(chosen), 1 + max(len(name) for *_, name in ranked)), PAD, np.int32)
    for row, tokens in zip(padded, targets, strict=True):
        row[: len(tokens)] = tokens
    inputs = np.array([words.inputs(language, number) for _, number, language, *_ in chosen], np.int32)
    return Facts(inputs, padded, tuple((language, thing, name) for *_, language, thing, name in chosen))


def all_names(*, data_dir: str | Path | None = None) -> tuple[str, ...]:
    """Every name in every language, also those that are left out of the facts. Errors as for `facts`."""
    _, rows = _table(Path(data_dir) if data_dir else data_folder())
    return tuple(name for _, names in rows for name in names if name)


@functools.lru_cache(maxsize=2)
def _table(folder: Path) -> tuple[tuple[str, ...], tuple[tuple[str, tuple[str, ...]], ...]]:
    """(languages, ((object, its names by language), ...)); "" where there is no name."""

    def table(packed: bytes):
        head, *lines = gzip.decompress(packed).decode().splitlines()
        languages = tuple(head.split("\t")[1:])
        rows = tuple((thing, tuple(row)) for thing, *row in (line.split("\t") for line in lines))
        if not languages or not rows or len(rows) > BASE**2 or any(len(row) != len(languages) for _, row in rows):
            raise ValueError(f"{len(languages)} languages, {len(rows)} lines, not equally long")
        return languages, rows

    return decoded(folder, FILE, "make_names", table)


def batches(facts: Facts, batch_size: int, *, seed: int = 0) -> "grain.DatasetIterator":
    """An endless iterator over {"inputs": int32[B, 3], "targets": int32[B, 13]}; every epoch has a new order.

    `get_state` and `set_state` continue with the very next batch. The last incomplete batch of an epoch is dropped.
    Raises ValueError if there are fewer facts than batch_size, or it is not positive.
    """

    def batch(rows: np.ndarray, position: int) -> dict[str, np.ndarray]:
        return {"inputs": facts.inputs[rows], "targets": facts.targets[rows]}

    from kitlib.data.image_batches import shuffled_batches  # Grain, which texts alone do not need

    return shuffled_batches(len(facts), batch_size, batch, seed=seed)
