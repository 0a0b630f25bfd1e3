"""Few-shot binding: pictures with made-up words, and one more picture whose word they tell.

    cutouts, names = scenes.objects("train")
    rng = data.keyed_rng(seed, i)                         # the i-th episode
    e = episode(cutouts, 3, 5, rng)                       # 3 ways: 5 exemplars show 3 kinds, each at least once
    list(zip(e.images, e.words))                          # (a dog, "zug"), (a lemon, "dax"), (a dog, "zug"), ...
    e.query, e.answer                                     # another dog, "zug"

The words are drawn anew for each episode, whatever the kinds: a model that knows all kinds by heart still has to look
into the exemplars. Who picks at random one of the words that it has read is right in 1 of `ways` cases, and so is who
takes the most frequent word: the query's kind is drawn without regard to the number of its exemplars.

Each picture is rendered anew: side, place, background, and whether it is mirrored.
"""

import functools
import re
from dataclasses import dataclass

import numpy as np

from kitlib import data, pictures, scenes, tokenizer

WAYS = (2, 4)  # fewest and most kinds in an episode
MOST = 8  # exemplars
ONSETS = ("b", "d", "g", "k", "l", "m", "p", "r", "t", "v", "w", "z", "bl", "dr", "gl", "kl", "sn")
VOWELS = ("a", "e", "i", "u")
CODAS = ("b", "ck", "g", "lk", "x", "zz")
ENGLISH = (  # or near it, and not in the kit's dictionary
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
        kinds: int64[k], the indices of the cut-outs; for checks, a model must not see them.
        query_kind: that of the query.
    """

    images: np.ndarray
    words: tuple[str, ...]
    query: np.ndarray
    answer: str
    kinds: np.ndarray
    query_kind: int


def episode(cutouts, ways: int, shots: int, rng: np.random.Generator, *, sides: tuple[int, int] = (14, 28)) -> Episode:
    """Draws kinds, words and renderings.

    Args:
        cutouts: K cut-outs, as in `kitlib.scenes`.
        ways: number of kinds, 2 to 4.
        shots: number of exemplars, k, from `ways` to 8. Each kind has one; the others are of random kinds. The order is
            random.
        rng: decides everything.
        sides: (smallest, largest) longer side in pixels, within 8 ... 28.

    Raises ValueError for other ways, shots or sides, and for less than `ways` cut-outs.
    """
    if not WAYS[0] <= ways <= WAYS[1]:
        raise ValueError(f"ways is {ways}; expected {WAYS[0]} to {WAYS[1]} kinds.")
    if not ways <= shots <= MOST:
        raise ValueError(f"shots is {shots}; expected {ways}, so that each kind has an exemplar, to {MOST}.")
    if len(cutouts) < ways:
        raise ValueError(f"An episode of {ways} ways needs {ways} kinds, got {len(cutouts)}.")
    kinds = rng.choice(len(cutouts), ways, replace=False)
    words = rng.choice(nonsense(), ways, replace=False).tolist()
    order = rng.permutation([*range(ways), *rng.integers(ways, size=shots - ways)])
    asked = int(rng.integers(ways))
    images = np.stack([_render(cutouts[kinds[way]], sides, rng) for way in [*order, asked]])
    shown = tuple(words[way] for way in order)
    return Episode(images[:-1], shown, images[-1], words[asked], kinds[order], int(kinds[asked]))


@functools.cache
def nonsense() -> tuple[str, ...]:
    """Pronounceable words without meaning ("dax", "zug", "wizz"), always in the same order.

    They are all of consonants, vowel, consonants, by the lists above, without those that occur in an English name or
    keyword of the emoji, in the kit's dictionary (`data.glosses`), or in the list `ENGLISH`, and without those that are
    more than two pieces to `tokenizer.multilingual`: a small model shall bind words, not spell them.
    """
    encode = tokenizer.multilingual().encode
    texts = [*ENGLISH, *data.glosses("train"), *data.glosses("test")]
    for split in ("train", "valid", "test"):
        source = pictures.emoji(split)
        texts += [*source.names["en"], *(word for words in source.keywords["en"] for word in words)]
    known = set(re.findall("[a-z]+", " ".join(texts).lower()))
    made = (onset + vowel + coda for onset in ONSETS for vowel in VOWELS for coda in CODAS)
    return tuple(word for word in made if word not in known and len(encode(f" {word}")) <= 2)


def _render(cutout, sides, rng) -> np.ndarray:
    mirrored = cutout[:, ::-1] if rng.integers(2) else cutout
    return scenes.compose([mirrored], [0], sides, rng).image
