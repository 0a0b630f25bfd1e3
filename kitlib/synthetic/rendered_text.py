"""Images of rendered words whose text and boxes are known. Pages and receipts: `rendered_pages`.

    vocabulary = words("train")["fr"]                        # no word is in two splits, in any language
    vocabulary = more_words("train")                         # more than twice as many, of 35 further languages
    rng = data.keyed_rng(seed, i)                            # the i-th example, whatever was drawn before
    picture, box = line("bonjour", rng)                      # uint8[64, 64, 3] and the box of its ink
    picture, texts, boxes = scattered(["un", "DEUX"], rng)   # in reading order: " ".join(texts) is the OCR text
    picture, letters, boxes = spelled(["un", "DEUX"], rng)   # "unDEUX" and the box of each letter

The fonts are DejaVu and STIX from matplotlib's wheel; a character that no font has is refused, not drawn as a box. Ink
is dark and paper light, with a contrast of at least 4.5, which WCAG 2 requires for small print. Light ink and slanted
fonts would only take a small model longer to learn. A size is in pixels per em, and an x is half as high: from 10 on,
text is easy to read; 8 is the minimum; of a word at 20 five letters fit into 64 pixels. Boxes are float64[n, 4] as in
`multimodal.boxes`, around the pixels that a text changed.
"""

import functools
import hashlib
import itertools
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from matplotlib import get_data_path
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageChops, ImageDraw, ImageFont

from kitlib.configs.nearest_name import one_of
from kitlib.data import captioned, recall

SPLITS = ("train", "valid", "test")
SMALLEST = 8  # pixels per em
SIZES = (8, 16)  # the usual range of sizes
PAPER, INK = (200, 256), (0, 81)  # ranges of red, green and blue, without the second number
GAP = 3  # pixels: at least between two words, between two blocks of a page, between a frame and its text
LETTERS = dict.fromkeys(("en", "fr", "de", "es", "it", "pt"), "[A-Za-zÀ-ÖØ-öø-ÿŒœ]") | {"el": "[Ά-ώ]", "ru": "[Ѐ-ӿ]"}
LOOKALIKES = frozenset("ΑΒΓΕΖΗΙΚΜΝΟΠΡΤΥΦΧνορυχγόύАВГЕЁКМНОПРСТУФХадеёиопрстухк")  # like letters of other scripts
BOLD = ("DejaVuSans-Bold", "DejaVuSerif-Bold", "DejaVuSansMono-Bold")
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral")


def words(split: str = "train") -> dict[str, tuple[str, ...]]:
    """Words to read by language ("en", "fr", "de", "es", "it", "pt", "el", "ru"), and whole numbers as "digits".

    These are the words of 2 to 9 letters in all names of the emoji, in lower and in upper case, and the numbers 0 to
    999. A word's split depends on its letters alone, without case and accents: eight tenths are in "train", one tenth
    in "valid", one in "test". So no test word occurs in training, in any language. A Greek or Russian word is left out
    if, in some font, each of its letters looks like a letter of another script. Raises ValueError for an unknown split.
    """
    one_of("split of the words", split, SPLITS)
    return {language: tuple(word for word, part in found if part == split) for language, found in _all_words().items()}


@functools.cache
def _all_words() -> dict[str, tuple[tuple[str, str], ...]]:
    """Language -> all its words, sorted (numbers by value), each with its split."""
    names = [captioned.emoji(part).names for part in SPLITS]
    out = {"digits": tuple((str(i), _split(str(i))) for i in range(1000))}
    for language, letter in LETTERS.items():
        text = " ".join(name for part in names for name in part[language])
        upper = text.upper()
        if language == "el":  # Greek capitals have no accents
            upper = unicodedata.normalize("NFC", unicodedata.normalize("NFD", upper).replace("\u0301", ""))
        found = re.findall(r"\w+", f"{text.lower()} {upper}")
        known = {word for word in found if re.fullmatch(f"{letter}{{2,9}}", word) and not set(word) <= LOOKALIKES}
        out[language] = tuple((word, _split(word)) for word in sorted(known))
    return out


def more_words(split: str = "train") -> tuple[str, ...]:
    """Words of 2 to 9 letters in the emoji's names in 35 further languages, from Afrikaans to Vietnamese, if each of
    their letters is also one of `words`; lower and upper case, without those of `words`. Splits and errors: as there.
    """
    one_of("split of the words", split, SPLITS)
    known = {word for found in _all_words().values() for word, _ in found}
    text = " ".join(recall.all_names()).lower()
    found, letters = set(re.findall(r"\w+", f"{text} {text.upper()}")), {letter for word in known for letter in word}
    return tuple(
        sorted(word for word in found - known if 2 <= len(word) <= 9 and set(word) <= letters and _split(word) == split)
    )


def _split(word: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFD", word.casefold()) if not unicodedata.combining(c))
    return ("test", "valid", *["train"] * 8)[int(hashlib.sha256(plain.encode()).hexdigest(), 16) % 10]


def line(
    text: str, rng: np.random.Generator, side: int = 64, sizes: tuple[int, int] = SIZES
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one word or short line as `scattered` does: uint8[side, side, 3] and the box of its ink, float64[4]."""
    image, _, boxes = scattered([text], rng, side, sizes)
    return image, boxes[0]


def scattered(texts: Sequence[str], rng: np.random.Generator, side: int = 64, sizes: tuple[int, int] = SIZES) -> tuple:
    """Draws words or short lines on one paper without overlap, each with a random position, font, size and ink.

    Returns uint8[side, side, 3], the n texts in `reading_order` and their boxes, float64[n, 4]. Each size is random
    within `sizes`, smallest and largest. If not all texts fit, smaller sizes are tried, down to the smallest; at size 8
    four long ones of `words` fit at side 64, six at 96. Raises ValueError for a blank text, a character without glyph,
    texts that do not fit at the smallest size, and sizes that are not in order or below 8.
    """
    image, boxes, _ = _scatter(texts, rng, side, sizes)
    order = reading_order(boxes)
    return image, tuple(texts[i] for i in order), boxes[order] / side


def spelled(
    texts: Sequence[str], rng: np.random.Generator, side: int = 64, sizes: tuple[int, int] = SIZES
) -> tuple[np.ndarray, str, np.ndarray]:
    """The picture of `scattered`, all its letters, text by text, and the box of each, float64[n, 4].

    A letter's box is as high as the ink of its text and as wide as the letter's advance: side by side the boxes form a
    line.
    """
    image, boxes, drawn = _scatter(texts, rng, side, sizes)
    out = []
    for text, (top, _, bottom, _), (font, start) in zip(texts, boxes, drawn, strict=True):
        ends = [start + font.getlength(text[:k]) for k in range(len(text) + 1)]
        out += [(top, a, bottom, b) for a, b in itertools.pairwise(ends)]
    return image, "".join(texts), np.array(out, np.float64).reshape(-1, 4) / side


def _scatter(texts, rng, side: int, sizes: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, list]:
    """(uint8[side, side, 3], the texts' boxes in pixels int[n, 4], each text's (font, column of its first letter))."""
    low, high = sizes
    if not SMALLEST <= low <= high:
        raise ValueError(
            f"sizes are {sizes}; expected (smallest, largest), at least {SMALLEST} pixels, below which letters run "
            "together."
        )
    known, paper = [fonts_for([text], FONTS, side) for text in texts], colour(rng, PAPER)
    for largest in np.repeat(np.arange(high, low - 1, -1), 4).tolist():  # four tries per size
        image, boxes, drawn = Image.new("RGB", (side, side), paper), np.zeros((0, 4), int), []
        for text, names in zip(texts, known, strict=True):
            font = font_of_size(names[rng.integers(len(names))], rng.integers(low, largest + 1))
            left, top, right, bottom = font.getbbox(text)
            extent = np.array([bottom - top, right - left])
            corners = rng.integers(1, np.maximum(side - extent, 2), (64, 1, 2))
            free = ((corners >= boxes[:, 2:] + GAP) | (corners + extent <= boxes[:, :2] - GAP)).any(-1).all(-1)
            if not free.any() or (extent > side - 2).any():
                break
            y, x = corners[free][0, 0].tolist()
            before = image.copy()
            ImageDraw.Draw(image).text((x - left, y - top), text, colour(rng, INK), font)
            x0, y0, x1, y1 = ImageChops.difference(image, before).getbbox()
            boxes, drawn = np.vstack([boxes, [y0, x0, y1, x1]]), [*drawn, (font, x - left)]
        if len(boxes) == len(texts):
            return np.array(image), boxes, drawn
    raise ValueError(f"{len(texts)} texts do not fit into {side} pixels, even at size {low}.")


def reading_order(boxes) -> np.ndarray:
    """int64[n], the order in which boxes float[n, 4] are read: line by line from the top, each from the left.

    The topmost of the remaining boxes (the leftmost of equal ones) begins a line. All remaining boxes join the line
    that share with this box at least half of the rows of the less tall of the two.
    """
    boxes, order = np.asarray(boxes, np.float64).reshape(-1, 4), []
    left = np.lexsort((boxes[:, 1], boxes[:, 0]))
    while len(left):
        y0, _, y1, _ = boxes[left[0]]
        shared = np.minimum(boxes[left, 2], y1) - np.maximum(boxes[left, 0], y0)
        inside = shared >= 0.5 * np.minimum(boxes[left, 2] - boxes[left, 0], y1 - y0)
        order += sorted(left[inside], key=lambda i: boxes[i, 1])
        left = left[~inside]
    return np.array(order, np.int64)


def colour(rng: np.random.Generator, limits: tuple[int, int]) -> tuple[int, int, int]:
    """A random colour whose red, green and blue are each in the range of these limits, without the second."""
    return tuple(rng.integers(*limits, 3).tolist())


@functools.cache
def font_of_size(name: str, size: int) -> ImageFont.FreeTypeFont:
    """One of matplotlib's fonts, such as "DejaVuSans", with this many pixels per em."""
    # PIL's other layout engine depends on a library that not every machine has.
    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/{name}.ttf", size, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def _glyphs(name: str) -> frozenset[str]:
    # This layout supports neither right-to-left text nor loose accents. Dingbats and mathematical symbols, from U+2700
    # on, may be in a bold font only.
    known = map(chr, FT2Font(font_of_size(name, SMALLEST).path).get_charmap())
    return frozenset(c for c in known if c < "\u2700" and unicodedata.bidirectional(c) not in ("R", "AL", "NSM", "BN"))


@functools.cache
def _width(text: str, font: str) -> int:
    """The width in pixels at the smallest size; cached, because it is needed often for each word and font."""
    return int(np.ptp(font_of_size(font, SMALLEST).getbbox(text)[::2]))


def fonts_for(texts: Sequence[str], fonts: Sequence[str], side: int) -> list[str]:
    """The fonts that have glyphs for all texts and in which each text fits into side pixels at the smallest size.

    Raises ValueError for a blank text, and if no font has all glyphs or none is narrow enough.
    """
    if not all(text.strip() for text in texts):
        raise ValueError("There is nothing to draw in a blank text: it needs at least one visible character.")
    known = [name for name in fonts if set("".join(texts)) <= _glyphs(name)]
    if not known:
        raise ValueError(f"No font has glyphs for all of {' '.join(texts)!r}: texts can be Latin, Greek or Cyrillic.")
    fitting = [f for f in known if all(_width(t, f) <= side - 2 for t in texts)]
    if not fitting:
        raise ValueError(f"{max(texts, key=len)!r} is too long for {side} pixels, even at size {SMALLEST}.")
    return fitting
