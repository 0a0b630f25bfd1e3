"""The kit's text: WordNet's entries, Django's messages in 96 languages, names of objects in 35 to know by heart.

    glosses("train")                             # 18,000 entries
    glosses("more")                              # 67,938 others
    categorised_glosses("train")                 # 6,000 others with their category, such as "noun.animal"
    entries()                                    # (category, entry) of all 75,938 that have a category
    messages("train")                            # (language, message), 51,512 of them
    facts("taught")                              # a dog in German -> h u n d </s>; `batches` makes training batches

Closed-book recall: what is this object called in that language? An example has three input tokens, the language and the
number of the object in two digits, and the letters of its name as targets. There is nothing to compute, so the task
measures how much a model *stores*. 5 % of the 31,747 pairs of object and language are held out: they say what a model
can guess from the other languages' names. The names are CLDR's. Recall is built in notebooks/08_t5_and_upcycling.ipynb.

`denoise` makes training batches of glosses and messages. data/make_data.py, make_texts.py and make_names.py made the
files.
"""

import functools
import gzip
import hashlib
import lzma
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kitlib.configs.arguments import one_of
from kitlib.data.files import decoded

CATEGORISED = {"train": 6_000, "test": 2_000}  # the last of the file
TEST_MESSAGES = 3_000  # the last of the file


def glosses(split: str = "train", *, data_dir: str | Path | None = None) -> list[str]:
    """Entries of WordNet 3.0, one string each, without line breaks: 18,000 ("train"), 2,000 ("test"), 67,938 ("more").

    An entry is a word or phrase, its definition and often an example: 'ice cube: a small cube of artificial ice; ...'.
    No definition and no example occurs twice, so none is in two splits. The order is random but fixed: the first n are
    a fair subset. data_dir: as for `images.load`.

    Raises the errors of `files.read_checked`, and ValueError for an unknown split or a file with other content.
    """
    one_of("split of the glosses", split, ("train", "test", "more"))
    if split == "more":
        return [text for _, text in entries(data_dir=data_dir)[: -sum(CATEGORISED.values())]]

    def halves(packed: bytes) -> list[str]:
        train, test = gzip.decompress(packed).decode().split("\n\n")
        return (train if split == "train" else test).splitlines()

    return decoded(data_dir, "glosses.txt.gz", "make_data", halves)


def categorised_glosses(split: str = "train", *, data_dir: str | Path | None = None) -> list[tuple[str, str]]:
    """(entry, category): 6,000 ("train") or 2,000 ("test") entries that are in no split of `glosses`.

    The categories are those of WordNet's 45 files: "noun.animal", "verb.motion", ... data_dir and errors: as `glosses`.
    """
    one_of("split of the categorised glosses", split, tuple(CATEGORISED))
    last = entries(data_dir=data_dir)[-sum(CATEGORISED.values()) :]
    chosen = last[: CATEGORISED["train"]] if split == "train" else last[CATEGORISED["train"] :]
    return [(text, category) for category, text in chosen]


def entries(*, data_dir: str | Path | None = None) -> list[tuple[str, str]]:
    """(category, entry): all 75,938 of `glosses("more")` and `categorised_glosses`, for tasks about words instead of
    glosses. data_dir and errors: as `glosses`."""
    return _lines(data_dir, "more_glosses.txt.xz")


def messages(split: str = "train", *, data_dir: str | Path | None = None) -> list[tuple[str, str]]:
    """(language, message): what the web framework Django says to its users: 51,512 ("train") or 3,000 ("test").

    There are 96 languages and variants, by codes such as "de" or "zh_Hans". No message occurs twice. data_dir and
    errors: as `glosses`.
    """
    one_of("split of the messages", split, ("train", "test"))
    lines = _lines(data_dir, "messages.txt.xz")
    return lines[:-TEST_MESSAGES] if split == "train" else lines[-TEST_MESSAGES:]


@functools.lru_cache(maxsize=4)
def _lines(folder: str | Path | None, file: str) -> list[tuple[str, str]]:
    """(kind, text) of every line of a compressed file; see data/make_texts.py."""

    def pairs(packed: bytes) -> list[tuple[str, str]]:
        lines = [line.split("\t") for line in lzma.decompress(packed).decode().splitlines()]
        if not lines or any(len(line) != 2 or not all(line) for line in lines):
            raise ValueError("a line is not a kind, a tab and a text")
        return [(kind, text) for kind, text in lines]

    return decoded(folder, file, "make_texts", pairs)


# ---------------------------------------------------------------------------------------------- recall of names

FILE = "names.txt.gz"
PAD, EOS = 0, 1
BASE = 42  # an object's number, below 42 * 42 = 1,764, is written in two digits of this base
HELD_OUT = 0.05  # of all facts
SPLITS = ("taught", "held_out")


@dataclass(frozen=True, eq=False)
class Facts:
    """n facts."""

    inputs: (
        np.ndarray
    )  # int32[n, 3], tokens of the language, of the first and of the second digit of the object's number
    targets: np.ndarray  # int32[n, 13], the letters of its name and `EOS`; then padding
    names: tuple[tuple[str, str, str], ...]  # (language, object, name) per fact, such as ("de", "🐕", "hund")

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
    languages, rows = _table(data_dir)
    return Vocabulary(languages, tuple(sorted({letter for _, row in rows for name in row for letter in name})))


def facts(split: str = "taught", *, data_dir: str | Path | None = None) -> Facts:
    """The facts of a split, "taught" (30,160) or "held_out" (1,587).

    The order is random but fixed: the first n are a fair sample. Whether a fact is held out, and its place, is decided
    by the sha256 of language and object. data_dir and errors: as for `glosses`.
    """
    one_of("split of the facts", split, SPLITS)
    words, (languages, rows) = vocabulary(data_dir=data_dir), _table(data_dir)
    ranked = sorted(
        (hashlib.sha256(f"{language} {emoji}".encode()).digest(), number, language, emoji, name)
        for number, (emoji, row) in enumerate(rows)
        for language, name in zip(languages, row, strict=True)
        if name
    )
    border = int(HELD_OUT * len(ranked))
    chosen = ranked[:border] if split == "held_out" else ranked[border:]
    width = 1 + max(len(name) for *_, name in ranked)
    targets = [words.targets(name) + [PAD] * (width - 1 - len(name)) for *_, name in chosen]
    inputs = np.array([words.inputs(language, number) for _, number, language, *_ in chosen], np.int32)
    return Facts(inputs, np.array(targets, np.int32), tuple(fact[2:] for fact in chosen))


def all_names(*, data_dir: str | Path | None = None) -> tuple[str, ...]:
    """Every name in every language, also those that are left out of the facts. Errors as for `facts`."""
    _, rows = _table(data_dir)
    return tuple(name for _, names in rows for name in names if name)


@functools.lru_cache(maxsize=2)
def _table(folder: str | Path | None) -> tuple[tuple[str, ...], tuple[tuple[str, tuple[str, ...]], ...]]:
    """(languages, ((object, its names by language), ...)); "" where there is no name."""

    def table(packed: bytes):
        head, *lines = gzip.decompress(packed).decode().splitlines()
        languages = tuple(head.split("\t")[1:])
        rows = tuple((emoji, tuple(row)) for emoji, *row in (line.split("\t") for line in lines))
        if not languages or not rows or len(rows) > BASE**2 or any(len(row) != len(languages) for _, row in rows):
            raise ValueError(f"{len(languages)} languages, {len(rows)} lines, not equally long")
        return languages, rows

    return decoded(folder, FILE, "make_names", table)


def batches(facts: Facts, batch_size: int, *, seed: int = 0):
    """`image_batches.shuffled_batches` of facts: {"inputs": int32[B, 3], "targets": int32[B, 13]}, without end."""
    from kitlib.data import image_batches  # here, because Grain takes longer to import than JAX

    def batch(rows: np.ndarray, position: int) -> dict[str, np.ndarray]:
        return {"inputs": facts.inputs[rows], "targets": facts.targets[rows]}

    return image_batches.shuffled_batches(len(facts), batch_size, batch, seed=seed)
