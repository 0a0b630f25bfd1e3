"""Pictures of words, to be sorted by meaning: which of WordNet's categories does the word in the picture belong to?

    taught = vocabulary("taught")                     # 29,620 words of 33 categories
    for batch in batches(taught, 256, seed=0): ...    # {"image": float32[B, 12, 144, 1], "label": int32[B]}

A category cannot be seen in a word's letters (beyond its ending), so a model has to read the word and to remember what
it is. There are as many facts as words, and every picture is new: another font, slant and place, other ink and paper,
noise. Words that are never taught say what can be guessed from letters; words of six other categories are near what is
known, but new.

A letter has a cell of 12 x 12 pixels, the size of a patch.
"""

import collections
import functools
import hashlib
import itertools
from dataclasses import dataclass

import grain
import numpy as np
from PIL import Image, ImageDraw

from kitlib.configs.nearest_name import one_of
from kitlib.data import shuffled, texts
from kitlib.data.files import keyed_rng
from kitlib.data.image_batches import to_float
from kitlib.synthetic.rendered_text import font_of_size

CELL, LETTERS, BASELINE = 12, 12, 9  # pixels per letter, letters per picture, pixels above the line
FONTS = ("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique")
SIZES = (9, 10)  # pixels per em
NOVEL = ("noun.body", "noun.event", "noun.food", "noun.object", "verb.motion", "verb.social")
FEWEST = 100  # words of a category that is used
INK, PAPER, NOISE = (0.0, 0.3), (0.7, 1.0), 0.15  # of a range of 1; noise is uniform, in both directions
UNSEEN = 0.05  # of the words of the taught categories
SPLITS = ("taught", "unseen", "novel")


@dataclass(frozen=True, eq=False)
class Words:
    """n words. Attributes:

    letters: uint8[n, 12], 1 to 26 for a to z, then 0.
    labels: int32[n], numbers of their categories in `categories`.
    categories: names, such as "noun.animal".
    """

    letters: np.ndarray
    labels: np.ndarray
    categories: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows) -> "Words":
        return Words(self.letters[rows], self.labels[rows], self.categories)

    def word(self, row: int) -> str:
        """The letters of one word."""
        return "".join(chr(96 + int(letter)) for letter in self.letters[row] if letter)


def vocabulary(split: str = "taught") -> Words:
    """The words of a split: "taught", "unseen" (5 % of the words of the same categories) or "novel" (other categories).

    A word is that of an entry of `texts.entries`, if it has 2 to 12 letters from a to z; of several entries the first
    decides. The order is random but fixed. Raises ValueError for an unknown split.
    """
    one_of("split of the words", split, SPLITS)
    category_of = _category_of()
    sizes = collections.Counter(category_of.values())
    used = sorted(name for name, size in sizes.items() if size >= FEWEST)
    names = tuple(name for name in used if (name in NOVEL) == (split == "novel"))
    ranked = sorted(
        (hashlib.sha256(word.encode()).digest(), word) for word, name in category_of.items() if name in names
    )
    border = round(UNSEEN * len(ranked))
    chosen = {"taught": ranked[border:], "unseen": ranked[:border], "novel": ranked}[split]
    letters = np.zeros((len(chosen), LETTERS), np.uint8)
    for row, (_, word) in zip(letters, chosen, strict=True):
        row[: len(word)] = np.frombuffer(word.encode(), np.uint8) - 96
    return Words(letters, np.array([names.index(category_of[word]) for _, word in chosen], np.int32), names)


@functools.cache
def _category_of() -> dict[str, str]:
    found: dict[str, str] = {}
    for category, entry in texts.entries():
        word = entry.partition(":")[0]
        if 2 <= len(word) <= LETTERS and word.isascii() and word.isalpha() and word.islower():
            found.setdefault(word, category)
    return found


def pictures(letters: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """letters uint8[n, 12] -> uint8[n, 12, 144, 1]: each word in a random font, size and place, with dark ink on
    light paper and noise."""
    n, glyphs = len(letters), _glyphs()
    cells = glyphs[rng.integers(len(glyphs), size=n)[:, None], letters]  # float32[n, 12, CELL, CELL]
    image = cells.transpose(0, 2, 1, 3).reshape(n, CELL, LETTERS * CELL)  # 1 where there is ink
    ink, paper = (rng.uniform(*limits, (n, 1, 1)).astype(np.float32) for limits in (INK, PAPER))
    image = image * (ink - paper) + paper + NOISE * (2 * rng.random(image.shape, np.float32) - 1)
    return (255 * np.clip(image, 0, 1) + 0.5).astype(np.uint8)[..., None]


@functools.cache
def _glyphs() -> np.ndarray:
    """float32[kinds, 27, CELL, CELL]: ink of every letter, for every font, size and place; letter 0 is empty."""
    out = []
    for font_name, size, down, right in itertools.product(FONTS, SIZES, (-1, 0), (-1, 0, 1)):
        out.append(np.zeros((27, CELL, CELL), np.float32))
        for letter in range(1, 27):
            cell = Image.new("L", (CELL, CELL))
            place, font = (CELL / 2 + right, BASELINE + down), font_of_size(font_name, size)
            ImageDraw.Draw(cell).text(place, chr(96 + letter), fill=255, font=font, anchor="ms")
            out[-1][letter] = np.asarray(cell) / 255.0
    return np.stack(out)


def batches(words: Words, batch_size: int, *, seed: int = 0) -> grain.DatasetIterator:
    """An endless iterator over {"image": float32[B, 12, 144, 1], "label": int32[B]}. Every epoch has a new order, and
    every picture is new. `get_state` and `set_state` continue with the very next batch.

    Raises ValueError if there are fewer words than batch_size, or it is not positive.
    """

    def batch(rows: np.ndarray, position: int) -> dict[str, np.ndarray]:
        images = to_float(pictures(words.letters[rows], keyed_rng(seed, 1, position)))
        return {"image": images, "label": words.labels[rows]}

    return shuffled.batches(len(words), batch_size, batch, seed=seed)
