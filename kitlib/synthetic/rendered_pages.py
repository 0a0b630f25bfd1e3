"""Images of small pages whose markup is known, and of receipts with questions and answers.

    image, markup = page(vocabulary, rng)                  # "<h>chat</h><ul><li>lune</li>...", see `markup_tree`
    image, texts, questions = receipt(vocabulary, rng)     # (..., ("what is the total?", "118"))

Fonts, colours and sizes are those of `rendered_text`, which also has the vocabularies.
"""

import itertools
import re
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from kitlib.synthetic.rendered_text import BOLD, GAP, INK, PAPER, SMALLEST, colour, font_of_size, fonts_for

INSIDE = {"page": ("h", "ul", "b", "t"), "ul": ("li",), "t": ("r",), "r": ("c",)}  # other tags hold text


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
