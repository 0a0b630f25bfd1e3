"""Images of rendered words whose text and boxes are known, of small pages with their markup, and of receipts.

    vocabulary = words("train")["fr"]                        # no word is in two splits, in any language
    vocabulary = more_words("train")                         # more than twice as many, of 35 further languages
    rng = data.keyed_rng(seed, i)                            # the i-th example, whatever was drawn before
    picture, box = line("bonjour", rng)                      # uint8[64, 64, 3] and the box of its ink
    picture, texts, boxes = scattered(["un", "DEUX"], rng)   # in reading order: " ".join(texts) is the OCR text
    picture, letters, boxes = spelled(["un", "DEUX"], rng)   # "unDEUX" and the box of each letter
    image, markup = page(vocabulary, rng)                    # "<h>chat</h><ul><li>lune</li>...", see `markup_tree`
    image, texts, questions = receipt(vocabulary, rng)       # (..., ("what is the total?", "118"))

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
from xml.etree import ElementTree

import numpy as np
from matplotlib import get_data_path
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageChops, ImageDraw, ImageFont

from kitlib.configs.arguments import one_of
from kitlib.data import captioned
from kitlib.data.texts import all_names

SPLITS = ("train", "valid", "test")
SMALLEST = 8  # pixels per em
SIZES = (8, 16)  # the usual range of sizes
PAPER, INK = (200, 256), (0, 81)  # ranges of red, green and blue, without the second number
GAP = 3  # pixels: at least between two words, between two blocks of a page, between a frame and its text
LETTERS = dict.fromkeys(("en", "fr", "de", "es", "it", "pt"), "[A-Za-zÀ-ÖØ-öø-ÿŒœ]") | {"el": "[Ά-ώ]", "ru": "[Ѐ-ӿ]"}
LOOKALIKES = frozenset("ΑΒΓΕΖΗΙΚΜΝΟΠΡΤΥΦΧνορυχγόύАВГЕЁКМНОПРСТУФХадеёиопрстухк")  # like letters of other scripts
BOLD = ("DejaVuSans-Bold", "DejaVuSerif-Bold", "DejaVuSansMono-Bold")
INSIDE = {"page": ("h", "ul", "b", "t"), "ul": ("li",), "t": ("r",), "r": ("c",)}  # other tags hold text
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
    text = " ".join(all_names()).lower()
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


# ---------------------------------------------------------------------------------------------- pages and receipts


def page(vocabulary: Sequence[str], rng: np.random.Generator, side: int = 96) -> tuple[np.ndarray, str]:
    """A small page, uint8[side, side, 3], and its markup: a title, a list of two to four items, a button or a table.

    A table has 2 x 2 numbers below 100. The button or table is before or after the list. Raises as `receipt`.
    """
    title, button, *items = _draw(vocabulary, int(rng.integers(4, 7)), rng)
    table = "".join(f"<r><c>{a}</c><c>{b}</c></r>" for a, b in rng.integers(0, 100, (2, 2)))
    last = f"<b>{button}</b>" if rng.random() < 0.5 else f"<t>{table}</t>"
    blocks = ["<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>", last]
    markup = f"<h>{title}</h>" + "".join(blocks[i] for i in rng.permutation(2))
    return render(markup, rng, side), markup


def receipt(vocabulary: Sequence[str], rng: np.random.Generator, side: int = 96) -> tuple[np.ndarray, tuple, tuple]:
    """A receipt: 3 to 5 items, their prices (whole numbers from 1 to 99), and the total in the last row.

    Returns uint8[side, side, 3], the texts in reading order (item, price, item, ..., "total", sum), and pairs of
    question and answer: "what is the price of CHAT?" and "which item costs 37?" for each item, "what is the total?".
    No two items and no two prices are equal, so each question has one answer, spelt as in the picture.
    Raises ValueError for too few words that are no numbers and differ by more than case, a character without glyph, and
    texts that do not fit at size 8; all of `words` fit from side 96 on.
    """
    items = _draw(vocabulary, int(rng.integers(3, 6)), rng)
    prices = (1 + rng.permutation(99)[: len(items)]).tolist()
    rows = [(item, str(price)) for item, price in zip(items, prices, strict=True)]
    questions = [(f"what is the price of {item}?", price) for item, price in rows]
    questions += [(f"which item costs {price}?", item) for item, price in rows]
    rows.append(("total", str(sum(prices))))
    table = "".join(f"<r><c>{a}</c><c>{b}</c></r>" for a, b in rows)
    texts = tuple(itertools.chain(*rows))
    return render(f"<t>{table}</t>", rng, side), texts, (*questions, ("what is the total?", texts[-1]))


def _draw(vocabulary: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """Random words that differ by more than case, without numbers and "total"."""
    found = {}
    for i in rng.permutation(len(vocabulary)):
        if vocabulary[i].casefold() != "total" and not vocabulary[i].isdigit():
            found.setdefault(vocabulary[i].casefold(), vocabulary[i])
        if len(found) == count:
            return list(found.values())
    raise ValueError(f"The vocabulary has {len(found)} words that differ by more than case, but {count} are needed.")


def render(markup: str, rng: np.random.Generator, side: int = 96) -> np.ndarray:
    """Draws a markup as uint8[side, side, 3], in random colours, font and size (10 to 12), at a random position.

    Titles and buttons are bold, buttons have a frame, list items a bullet; columns after the first are right-aligned. A
    page that is too large is drawn at a smaller size. Raises ValueError for malformed markup, a character without
    glyph, and a page that does not fit at size 8.
    """
    rows = []  # (tag, texts), one per line of the page
    for tag, content in markup_tree(markup):
        parts = content if tag in INSIDE else [(tag, content)]
        rows += [(kind, [text for _, text in inner] if kind == "r" else [inner]) for kind, inner in parts]
    bold = rng.choice(fonts_for([text for _, texts in rows for text in texts], BOLD, side))
    paper, ink = colour(rng, PAPER), colour(rng, INK)
    for size in range(rng.integers(10, 13), SMALLEST - 1, -1):
        plain = font_of_size(bold.removesuffix("-Bold"), size)
        fonts = {"h": font_of_size(bold, size + 2), "b": font_of_size(bold, size)}
        cells = [[plain.getlength(text) for text in texts] for kind, texts in rows if kind == "r"]
        ends = np.cumsum([max(column) + 3 * GAP for column in itertools.zip_longest(*cells, fillvalue=0)]) - 3 * GAP
        draft = Image.new("RGB", (3 * side, 3 * side), paper)  # with space on all sides for the final position
        draw, y, above = ImageDraw.Draw(draft), side, rows[0][0]
        for kind, texts in rows:
            font, pad = fonts.get(kind, plain), GAP * (kind == "b")
            y, above, height = y + pad + GAP * (kind != above), kind, sum(font.getmetrics())
            for k, text in enumerate(texts):
                x = side + (ends[k] if k else 2 * GAP * (kind == "li"))
                draw.text((x, y), text, ink, font, anchor="ra" if k else "la")
            if kind == "li":
                draw.rectangle((side, y + height // 2, side + 2, y + height // 2 + 2), ink)
            if kind == "b":
                draw.rectangle((x - GAP, y - GAP, x + font.getlength(text) + GAP, y + height + GAP), outline=ink)
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

    White space between elements is ignored; within a text it counts as one space. A text has no < and no >; nothing is
    escaped: & stands for itself. Tags have no attributes or spaces. Raises ValueError for anything else, with the
    position of the error or the element that holds it.
    """
    if found := re.search(r"<(?!/?\w+>)", text):
        raise ValueError(f"Malformed markup: '<' at character {found.start()} begins no plain tag like <h> or </h>.")
    page = f"<page>{text.replace('&', '&amp;')}</page>"
    try:
        return _content(ElementTree.fromstring(page))
    except ElementTree.ParseError as error:
        raise ValueError(f"Malformed markup: {error} of {page!r}.") from error


def _content(element: ElementTree.Element):
    """The text of an element, or its children as in `markup_tree`."""
    allowed, text = INSIDE.get(element.tag, ()), " ".join((element.text or "").split())
    wrong = [f"<{child.tag}>" for child in element if child.tag not in allowed]
    if allowed:
        wrong += [repr(piece.strip()) for piece in (text, *(child.tail for child in element)) if (piece or "").strip()]
    elif ">" in text:
        wrong.append("'>'")
    if wrong or not (len(element) if allowed else text):
        holds = " or ".join(f"<{tag}>" for tag in allowed) or "text"
        raise ValueError(f"Malformed markup: {(wrong or ['nothing'])[0]} is in <{element.tag}>, which holds {holds}.")
    return tuple((child.tag, _content(child)) for child in element) if allowed else text
