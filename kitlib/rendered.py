"""Pictures of text whose truth is known: words to read, pages with markup, receipts with questions and answers.

    vocabulary = words("train")["fr"]                        # no word is in two splits, in whatever language
    rng = data.keyed_rng(seed, i)                            # the i-th example, whatever was drawn before
    picture, box = line("bonjour", rng)                      # uint8[64, 64, 3] and the place of its ink
    picture, texts, boxes = scattered(["un", "DEUX"], rng)   # in reading order: " ".join(texts) is the OCR text
    picture, letters, boxes = spelled(["un", "DEUX"], rng)   # "unDEUX" and where each letter is
    labels(texts, vocabulary)                                # bool[V]: which of these words are in the picture
    picture, markup = page(vocabulary, rng)                  # "<h>chat</h><ul><li>lune</li>...", see `markup_tree`
    picture, texts, questions = receipt(vocabulary, rng)     # (..., ("what is the total?", "118"))

The fonts are DejaVu and STIX, out of matplotlib's wheel; a character that no font has is refused, not drawn as a box.
Ink is dark and paper light, with a contrast of at least 4.5, what WCAG 2 asks of small print; light ink and slanted
fonts besides would only take a small model longer to learn. A size is in pixels per em, an x is half as high: from 10
on, text is easy to read, 8 is the least. Boxes are float64[n, 4] as in `kitlib.boxes`, around the pixels that a text
changed.
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

from kitlib import pictures

SMALLEST, LARGEST = 8, 16  # pixels per em
PAPER, INK = (200, 256), (0, 81)  # red, green and blue, each from this on and below that
GAP = 3  # pixels between two words at least, between two blocks of a page, between a frame and its text
LETTERS = dict.fromkeys(("en", "fr", "de", "es", "it", "pt"), "[A-Za-zÀ-ÖØ-öø-ÿŒœ]") | {"el": "[Ά-ώ]", "ru": "[Ѐ-ӿ]"}
LOOKALIKES = frozenset("ΑΒΓΕΖΗΙΚΜΝΟΠΡΤΥΦΧνορυχγόύАВГЕЁКМНОПРСТУФХадеёиопрстухк")  # like letters of other scripts
BOLD = ("DejaVuSans-Bold", "DejaVuSerif-Bold", "DejaVuSansMono-Bold")
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral")
INSIDE = {"page": ("h", "ul", "b", "t"), "ul": ("li",), "t": ("r",), "r": ("c",)}  # other tags hold text


def words(split: str = "train") -> dict[str, tuple[str, ...]]:
    """Words to read by language ("en", "fr", "de", "es", "it", "pt", "el", "ru"), and whole numbers as "digits".

    The words of 2 to 9 letters in all names of the emoji, in lower and in upper case; the numbers 0 to 999. A word's
    split follows from its letters alone, without case and accents: eight tenths are in "train", one in "valid", one in
    "test". So no word of the test was ever read in training, in any language. A Greek or Russian word is left out where
    in some font each of its letters looks like one of another script. Raises ValueError for an unknown split.
    """
    if split not in ("train", "valid", "test"):
        raise ValueError(f"There is no split {split!r} of the words: use 'train', 'valid' or 'test'.")
    names = [pictures.emoji(part).names for part in ("train", "valid", "test")]
    out = {"digits": tuple(str(i) for i in range(1000) if _split(str(i)) == split)}
    for language, letter in LETTERS.items():
        text = " ".join(name for part in names for name in part[language])
        upper = text.upper()
        if language == "el":  # has no accents in capitals
            upper = unicodedata.normalize("NFC", unicodedata.normalize("NFD", upper).replace("\u0301", ""))
        found = re.findall(r"\w+", f"{text.lower()} {upper}")
        known = {word for word in found if re.fullmatch(f"{letter}{{2,9}}", word) and not set(word) <= LOOKALIKES}
        out[language] = tuple(sorted(word for word in known if _split(word) == split))
    return out


def _split(word: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFD", word.casefold()) if not unicodedata.combining(c))
    return ("test", "valid", *["train"] * 8)[int(hashlib.sha256(plain.encode()).hexdigest(), 16) % 10]


def bigrams(texts: Sequence[str]) -> tuple[str, ...]:
    """All pairs of neighbouring characters in the words of these texts, sorted: "un DEUX" has DE, EU, UX, un."""
    return tuple(sorted({word[i : i + 2] for word in " ".join(texts).split() for i in range(len(word) - 1)}))


def labels(texts: Sequence[str], vocabulary: Sequence[str]) -> np.ndarray:
    """bool[V], targets of OCR classification: is entry v of the vocabulary one of the words of these texts?

    White space separates words, case counts. With bigrams as the vocabulary: labels(bigrams(texts), vocabulary).
    """
    found = set(" ".join(texts).split())
    return np.array([word in found for word in vocabulary], bool)


def line(text: str, rng: np.random.Generator, side: int = 64, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """One word or short line as in `scattered`: uint8[side, side, 3] and the box of its ink, float64[4]."""
    image, _, boxes = scattered([text], rng, side, size)
    return image, boxes[0]


def scattered(texts: Sequence[str], rng: np.random.Generator, side: int = 64, size: int | None = None) -> tuple:
    """Words or short lines on one paper, each at a random place in a font, size and ink of its own, without overlap.

    Returns uint8[side, side, 3], the n texts in `reading_order` and their boxes, float64[n, 4]. Sizes are `size`, or
    8 to 16 each; where not all texts fit (four long ones of `words` do at side 64, six at 96), they go down to 8.
    Raises ValueError for a blank text, a character without glyph, what does not fit at size 8, a size below 8.
    """
    image, boxes, _ = _scatter(texts, rng, side, size)
    order = reading_order(boxes)
    return image, tuple(texts[i] for i in order), boxes[order] / side


def spelled(texts: Sequence[str], rng: np.random.Generator, side: int = 64) -> tuple[np.ndarray, str, np.ndarray]:
    """The picture of `scattered`, all its letters, text by text, and the box of each, float64[n, 4].

    A letter's box is as high as the ink of its text and as wide as the letter's advance: side by side they make a line.
    """
    image, boxes, drawn = _scatter(texts, rng, side, None)
    out = []
    for text, (top, _, bottom, _), (font, start) in zip(texts, boxes, drawn, strict=True):
        ends = [start + font.getlength(text[:k]) for k in range(len(text) + 1)]
        out += [(top, a, bottom, b) for a, b in itertools.pairwise(ends)]
    return image, "".join(texts), np.array(out, np.float64).reshape(-1, 4) / side


def _scatter(texts, rng, side: int, size: int | None) -> tuple[np.ndarray, np.ndarray, list]:
    """(uint8[side, side, 3], the boxes of the texts in pixels, for each its font and where its first letter starts)"""
    if size is not None and size < SMALLEST:
        raise ValueError(f"The size is {size}; expected at least {SMALLEST} pixels, below which letters run together.")
    known, paper = [_fonts_for([text], FONTS, side) for text in texts], _colour(rng, PAPER)
    for largest in np.repeat(np.arange(size or LARGEST, SMALLEST - 1, -1), 4).tolist():  # four tries with each
        image, boxes, drawn = Image.new("RGB", (side, side), paper), np.zeros((0, 4), int), []
        for text, names in zip(texts, known, strict=True):
            font = _font(names[rng.integers(len(names))], largest if size else rng.integers(SMALLEST, largest + 1))
            left, top, right, bottom = font.getbbox(text)
            extent = np.array([bottom - top, right - left])
            corners = rng.integers(1, np.maximum(side - extent, 2), (64, 1, 2))
            free = ((corners >= boxes[:, 2:] + GAP) | (corners + extent <= boxes[:, :2] - GAP)).any(-1).all(-1)
            if not free.any() or (extent > side - 2).any():
                break
            y, x = corners[free][0, 0].tolist()
            before = image.copy()
            ImageDraw.Draw(image).text((x - left, y - top), text, _colour(rng, INK), font)
            x0, y0, x1, y1 = ImageChops.difference(image, before).getbbox()
            boxes, drawn = np.vstack([boxes, [y0, x0, y1, x1]]), [*drawn, (font, x - left)]
        if len(boxes) == len(texts):
            return np.array(image), boxes, drawn
    raise ValueError(f"{len(texts)} texts do not fit into {side} pixels, even at size {SMALLEST}.")


def reading_order(boxes) -> np.ndarray:
    """int64[n], the order in which boxes float[n, 4] are read: line by line from the top, each from the left.

    The topmost box that is left (of equals the leftmost) begins a line. With it go all others left that share with it
    at least half of the rows of the less high of the two.
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


def page(vocabulary: Sequence[str], rng: np.random.Generator, side: int = 96) -> tuple[np.ndarray, str]:
    """A small page, uint8[side, side, 3], and its markup: a title, a list of two to four, a button or a table.

    A table is 2 x 2 numbers below 100. Button or table are before or behind the list. Raises as `receipt`.
    """
    title, button, *items = _draw(vocabulary, int(rng.integers(4, 7)), rng)
    table = "".join(f"<r><c>{a}</c><c>{b}</c></r>" for a, b in rng.integers(0, 100, (2, 2)))
    last = f"<b>{button}</b>" if rng.random() < 0.5 else f"<t>{table}</t>"
    blocks = ["<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>", last]
    markup = f"<h>{title}</h>" + "".join(blocks[i] for i in rng.permutation(2))
    return render(markup, rng, side), markup


def receipt(vocabulary: Sequence[str], rng: np.random.Generator, side: int = 96) -> tuple[np.ndarray, tuple, tuple]:
    """A receipt: 3 to 5 items, their prices, whole numbers from 1 to 99, and the total in the last row.

    Returns uint8[side, side, 3], the texts in reading order (item, price, item, ..., "total", sum), and pairs of
    question and answer: "what is the price of CHAT?" and "which item costs 37?" for each item, "what is the total?".
    No two items and no two prices are equal, so each question has one answer, in the letters of the picture.
    Raises ValueError for too few words that are no numbers and differ by more than case, a character without glyph, and
    what does not fit at size 8; all of `words` do from side 96 on.
    """
    items = _draw(vocabulary, int(rng.integers(3, 6)), rng)
    prices = (1 + rng.permutation(99)[: len(items)]).tolist()
    rows = [(item, str(price)) for item, price in zip(items, prices, strict=True)]
    asked = [(f"what is the price of {item}?", price) for item, price in rows]
    asked += [(f"which item costs {price}?", item) for item, price in rows]
    rows.append(("total", str(sum(prices))))
    table = "".join(f"<r><c>{a}</c><c>{b}</c></r>" for a, b in rows)
    texts = tuple(itertools.chain(*rows))
    return render(f"<t>{table}</t>", rng, side), texts, (*asked, ("what is the total?", texts[-1]))


def _draw(vocabulary: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    found = {}
    for i in rng.permutation(len(vocabulary)):
        if vocabulary[i].casefold() != "total" and not vocabulary[i].isdigit():
            found.setdefault(vocabulary[i].casefold(), vocabulary[i])
        if len(found) == count:
            return list(found.values())
    raise ValueError(f"The vocabulary has {len(found)} words that differ by more than case, but {count} are needed.")


def render(markup: str, rng: np.random.Generator, side: int = 96) -> np.ndarray:
    """uint8[side, side, 3]: the page of a markup, in random colours, font and size (10 to 12), at a random place.

    Titles and buttons are bold, buttons framed, list items have a bullet, columns behind the first end flush. Pages too
    large get smaller. Raises ValueError for malformed markup, a character without glyph, what does not fit at size 8.
    """
    rows = []  # (tag, texts), one a line of the page
    for tag, content in markup_tree(markup):
        parts = content if tag in INSIDE else [(tag, content)]
        rows += [(kind, [text for _, text in inner] if kind == "r" else [inner]) for kind, inner in parts]
    bold = rng.choice(_fonts_for([text for _, texts in rows for text in texts], BOLD, side))
    paper, colour = _colour(rng, PAPER), _colour(rng, INK)
    for size in range(rng.integers(10, 13), SMALLEST - 1, -1):
        plain = _font(bold.removesuffix("-Bold"), size)
        fonts = {"h": _font(bold, size + 2), "b": _font(bold, size)}
        cells = [[plain.getlength(text) for text in texts] for kind, texts in rows if kind == "r"]
        ends = np.cumsum([max(column) + 3 * GAP for column in itertools.zip_longest(*cells, fillvalue=0)]) - 3 * GAP
        draft = Image.new("RGB", (3 * side, 3 * side), paper)  # with space on all sides for the final place
        draw, y, above = ImageDraw.Draw(draft), side, rows[0][0]
        for kind, texts in rows:
            font, pad = fonts.get(kind, plain), GAP * (kind == "b")
            y, above, height = y + pad + GAP * (kind != above), kind, sum(font.getmetrics())
            for k, text in enumerate(texts):
                x = side + (ends[k] if k else 2 * GAP * (kind == "li"))
                draw.text((x, y), text, colour, font, anchor="ra" if k else "la")
            if kind == "li":
                draw.rectangle((side, y + height // 2, side + 2, y + height // 2 + 2), colour)
            if kind == "b":
                draw.rectangle((x - GAP, y - GAP, x + font.getlength(text) + GAP, y + height + GAP), outline=colour)
            y += height + pad
        left, top, right, bottom = ImageChops.difference(draft, Image.new("RGB", draft.size, paper)).getbbox()
        if max(right - left, bottom - top) <= side - 2:
            x, y = (rng.integers(1, [side - (right - left), side - (bottom - top)]) - [left, top]).tolist()
            return np.array(draft.crop((-x, -y, side - x, side - y)))
    raise ValueError(f"The page does not fit into {side} pixels, even at size {SMALLEST}.")


def markup_tree(text: str) -> tuple:
    """The elements of a page, each (tag, text) or (tag, elements): (("h", "chat"), ("ul", (("li", "lune"), ...)), ...).

    A page is any number of these in any order; nothing may be empty:

        <h>title</h>    <ul><li>item</li>...</ul>    <b>button</b>    <t><r><c>cell</c>...</r>...</t>

    White space between elements means nothing, in a text one space. A text has no < and no >; nothing is escaped.
    Raises ValueError for anything else, with the place of the first error.
    """
    stack = [("", []), ("page", [])]
    for found in re.finditer(r"<(\w+)>|</(\w+)>|[^<>]+|.", f"{text}</page>", re.DOTALL):
        (tag, content), piece = stack[-1], found[0].strip()
        if found[1] in INSIDE.get(tag, ()):
            stack.append((found[1], []))
        elif found[2] == tag and content and (tag != "page" or found.start() == len(text)):
            stack.pop()
            stack[-1][1].append((tag, tuple(content) if tag in INSIDE else content[0]))
        elif tag not in INSIDE and piece and piece[0] not in "<>":
            content.append(" ".join(piece.split()))
        elif piece:
            place = "the end" if found.start() == len(text) else f"{piece!r} at character {found.start()}"
            holds = " or ".join(f"<{inner}>" for inner in INSIDE.get(tag, ())) or "text"
            raise ValueError(f"Malformed markup: {place} is in <{tag}>, which holds {holds} and ends with </{tag}>.")
    return stack[0][1][0][1]


def markup_score(prediction: str, truth: str) -> float:
    """The share of the truth's titles, items, buttons and cells that a prediction has, in their order: 0 to 1.

    That is the longest common subsequence of pairs (tag, text), over their number in the truth. Any prediction is good:
    what is broken costs only itself, what is too much nothing, and lists, tables and rows do not count; for those,
    compare the trees. Raises ValueError if the truth is malformed.
    """
    markup_tree(truth)
    leaves = [re.findall(r"<(h|li|b|c)>([^<>]*)</\1>", text) for text in (prediction, truth)]
    a, b = ([(tag, text.split()) for tag, text in found] for found in leaves)
    longest = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, j in np.ndindex(len(a), len(b)):
        longest[i + 1, j + 1] = max(longest[i, j] + (a[i] == b[j]), longest[i, j + 1], longest[i + 1, j])
    return float(longest[-1, -1] / len(b))


def _colour(rng: np.random.Generator, limits: tuple[int, int]) -> tuple[int, int, int]:
    return tuple(rng.integers(*limits, 3).tolist())


@functools.cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    # The other layout depends on a library that is not on every machine.
    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/{name}.ttf", size, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def _glyphs(name: str) -> frozenset[str]:
    # The layout knows no right to left, no loose accents; dingbats and mathematics, from 2700 on, may be bold only.
    known = map(chr, FT2Font(_font(name, SMALLEST).path).get_charmap())
    return frozenset(c for c in known if c < "\u2700" and unicodedata.bidirectional(c) not in ("R", "AL", "NSM", "BN"))


@functools.cache
def _width(text: str, font: str) -> int:
    """Pixels at the smallest size: asked for each word in each font, again and again."""
    return int(np.ptp(_font(font, SMALLEST).getbbox(text)[::2]))


def _fonts_for(texts: Sequence[str], fonts: Sequence[str], side: int) -> list[str]:
    if not all(text.strip() for text in texts):
        raise ValueError("There is nothing to draw in a blank text: it needs at least one visible character.")
    known = [name for name in fonts if set("".join(texts)) <= _glyphs(name)]
    if not known:
        raise ValueError(f"No font has glyphs for all of {' '.join(texts)!r}: texts can be Latin, Greek or Cyrillic.")
    fitting = [f for f in known if all(_width(t, f) <= side - 2 for t in texts)]
    if not fitting:
        raise ValueError(f"{max(texts, key=len)!r} is too long for {side} pixels, even at size {SMALLEST}.")
    return fitting
