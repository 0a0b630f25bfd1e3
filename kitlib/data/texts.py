"""The kit's text: entries of WordNet's dictionary, and messages of Django in 96 languages, as strings.

    glosses("train")                             # 18,000 entries
    glosses("more")                              # 67,938 others
    categorised_glosses("train")                 # 6,000 others with their category, such as "noun.animal"
    entries()                                    # (category, entry) of all 75,938 that have a category
    messages("train")                            # (language, message), 51,512 of them

`text_batches` makes training batches from them.
"""

import functools
import gzip
import lzma
from pathlib import Path

from kitlib.configs.nearest_name import one_of
from kitlib.data.committed import decoded
from kitlib.data.files import data_folder

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
