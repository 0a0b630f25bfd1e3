"""Few-shot binding: pictures with made-up words, and one more picture whose word follows from them.

    cutouts, names = scenes.objects("train")
    rng = data.keyed_rng(seed, i)                         # the i-th episode
    e = episode(cutouts, 3, 5, rng)                       # 3 ways: 5 exemplars show 3 kinds, each at least once
    list(zip(e.images, e.words))                          # (a dog, "zug"), (a lemon, "dax"), (a dog, "zug"), ...
    e.query, e.answer                                     # another dog, "zug"

The words are drawn for each episode, independently of the kinds: a model that has memorised all kinds still needs the
exemplars. A model that picks one of the exemplars' words at random is right in 1 of `ways` cases. So is a model that
picks the most frequent word, because the query's kind is drawn independently of the number of its exemplars.

Side, position and background of each picture are random, and whether it is mirrored.
"""

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kitlib import data
from kitlib.data import captioned, tokenizer
from kitlib.synthetic import scenes

WAYS = (2, 4)  # fewest and most kinds in an episode
MOST = 8  # exemplars in an episode
ONSETS = ("b", "d", "g", "k", "l", "m", "p", "r", "t", "v", "w", "z", "bl", "dr", "gl", "kl", "sn")
VOWELS = ("a", "e", "i", "u")
CODAS = ("b", "ck", "g", "lk", "x", "zz")
ENGLISH = (  # words of English, or close to one, that are not in the kit's dictionary
    "beck", "bub", "dag", "deb", "dex", "dux", "gab", "geck", "gib", "keck", "lex", "lug", "lux", "mack", "max", "meg",
    "mib", "mick", "mug", "mux", "pax", "pix", "rax", "reb", "reck", "reg", "ruck", "rug", "teg", "tex", "tig", "tizz",
    "tux", "vag", "vex", "vug", "wack", "wig", "zag", "zax", "zig", "blab", "bleb", "blub", "dreck", "dreg", "drub",
    "klick", "snag", "sneck", "snib", "snick", "snub", "snuck",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Episode:
    """Exemplars and a query. The i-th entry of images, words and kinds belongs to the i-th exemplar.

    Attributes:
        images: uint8[k, 64, 64, 3].
        words: k words.
        query: uint8[64, 64, 3].
        answer: the word of the query's kind.
        kinds: int64[k], the indices of the cut-outs; for checks only, not for a model.
        query_kind: the index of the query's cut-out; for checks only.
    """

    images: np.ndarray
    words: tuple[str, ...]
    query: np.ndarray
    answer: str
    kinds: np.ndarray
    query_kind: int


def episode(
    cutouts,
    ways: int,
    shots: int,
    rng: np.random.Generator,
    *,
    sides: tuple[int, int] = (14, 28),
    words: Sequence[str] | None = None,
) -> Episode:
    """Draws kinds, words and renderings.

    Args:
        cutouts: K cut-outs, as in `scenes`.
        ways: number of kinds, 2 to 4.
        shots: number of exemplars, k, from `ways` to 8. Each kind has at least one; the other exemplars are of random
            kinds. The order is random.
        rng: all draws come from it.
        sides: (smallest, largest) longer side in pixels, within 8 ... 28.
        words: to draw from, by default `nonsense`.

    Raises ValueError for other ways, shots or sides, and for fewer than `ways` cut-outs.
    """
    if not WAYS[0] <= ways <= WAYS[1]:
        raise ValueError(f"ways is {ways}; expected {WAYS[0]} to {WAYS[1]} kinds.")
    if not ways <= shots <= MOST:
        raise ValueError(f"shots is {shots}; expected {ways}, so that each kind has an exemplar, to {MOST}.")
    if len(cutouts) < ways:
        raise ValueError(f"An episode of {ways} ways needs {ways} kinds, got {len(cutouts)}.")
    kinds = rng.choice(len(cutouts), ways, replace=False)
    vocabulary = nonsense() if words is None else words
    named = [vocabulary[i] for i in rng.choice(len(vocabulary), ways, replace=False)]
    order = rng.permutation([*range(ways), *rng.integers(ways, size=shots - ways)])
    query = int(rng.integers(ways))
    images = np.stack([_render(cutouts[kinds[way]], sides, rng) for way in [*order, query]])
    shown = tuple(named[way] for way in order)
    return Episode(images[:-1], shown, images[-1], named[query], kinds[order], int(kinds[query]))


@functools.cache
def nonsense(syllables: int = 1) -> tuple[str, ...]:
    """Pronounceable words without meaning, always in the same order: "dax", "zug", or of two syllables, "tabux".

    They combine `ONSETS`, `VOWELS` and `CODAS` (the last syllable has a coda), without words that occur in an English
    name or keyword of the emoji, in the kit's dictionary (`data.glosses`) or in `ENGLISH`, and without those of more
    than two pieces in `tokenizer.multilingual`, three for two syllables: a small model has to bind words, not to spell
    them. There are 52 of one syllable and thousands of two, of the same pieces. The 52 are few
    enough to be memorised: what they mean has to be drawn again for every prompt.
    """
    encode = tokenizer.multilingual().encode
    texts = [*ENGLISH, *data.glosses("train"), *data.glosses("test")]
    for split in ("train", "valid", "test"):
        source = captioned.emoji(split)
        texts += [*source.names["en"], *(word for words in source.keywords["en"] for word in words)]
    known = set(re.findall("[a-z]+", " ".join(texts).lower()))
    open_syllables = [onset + vowel for onset in ONSETS for vowel in VOWELS]
    beginnings = map("".join, itertools.product(open_syllables, repeat=syllables))
    made = (beginning + coda for beginning in beginnings for coda in CODAS)
    return tuple(word for word in made if word not in known and len(encode(f" {word}")) <= 1 + syllables)


def _render(cutout, sides, rng) -> np.ndarray:
    mirrored = cutout[:, ::-1] if rng.integers(2) else cutout
    return scenes.compose([mirrored], [0], sides, rng).image
