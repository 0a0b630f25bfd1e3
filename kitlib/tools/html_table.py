"""Tables in HTML: a check as a row, and images with a model's texts about them, in any script.

    html_table.table(images, {"en": ["red apple", ...], "th": [...]}, right={"en": [True, ...], "th": [...]})

matplotlib has letters for Latin, Greek, Cyrillic and Arabic script, but not for Hindi, Thai, Japanese, Korean and
Chinese. So figures are for the scripts that it has (with `drawable` for a model's texts), and this table is for all.
"""

import base64
import functools
import html
import io
import re
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from kitlib.data.captioned import LANGUAGES

# Columns of fixed width: rows that follow each other look like one table. Colours are those of the page's theme.
WIDTHS = ("7em", "26em", "17em", "26em")
CELL = "text-align:left;vertical-align:top;padding:1px 6px;overflow-wrap:anywhere"
MISSING = "\u25a1"
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>kitlib: what the small PaLI-X sees</title>
<style>body {{ font-family: sans-serif; }} td, th {{ padding: 0.3em 0.8em; text-align: start; }}</style></head>
<body><h1>What the small PaLI-X sees</h1>
<p>Frames: where it sees what it calls the thing in English. It was trained on drawings of 417 things.</p>
{table}</body></html>
"""


def display_row(line: str, cells: tuple[str, ...]) -> None:
    """In a notebook, displays the cells, with `line` stored beside them; elsewhere prints `line` and what was measured.

    cells: mark, what is claimed, what was measured, what was expected.
    """
    if not _in_notebook():
        print(f"{line}, {cells[2]}")
        return
    from IPython.display import display

    display({"text/plain": line, "text/html": row(cells)}, raw=True)


def row(cells: tuple[str, ...]) -> str:
    """A table of one row, with the mark in bold."""
    mark, *rest = (html.escape(cell) for cell in cells)
    columns = "".join(f'<col style="width:{width}">' for width in WIDTHS)
    body = "".join(f'<td style="{CELL}">{cell}</td>' for cell in (f"<b>{mark}</b>", *rest))
    return f'<table style="table-layout:fixed;margin:0">{columns}<tr style="background:none">{body}</tr></table>'


def cells_of(text: str) -> list[str]:
    """The cells of a `row`."""
    return [html.unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall("<td[^>]*>(.*?)</td>", text)]


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process. (IPython in a terminal cannot show HTML.)"""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return hasattr(shell, "kernel")


class Html:
    """A piece of HTML that a notebook displays."""

    def __init__(self, text: str):
        self.text = text

    def _repr_html_(self) -> str:
        return self.text

    def __repr__(self) -> str:  # stored with the HTML in the notebook, and compared: it must not depend on the text
        return "Html(...)"


def table(
    images,
    texts: Mapping[str, Sequence[str]],
    *,
    right: Mapping[str, Sequence[bool]] | None = None,
    more: Mapping[str, Sequence[str]] | None = None,
    side: int = 64,
) -> Html:
    """One column per image uint8[n, H, W, 3] and one row per language, with a text for each image.

    right: which texts are right, in the same form; these are bold. more: further rows, by their headings. side: the
    width of an image on the page, in pixels. Raises ValueError for a row with more or fewer texts than images, or an
    unknown language.
    """
    shown = [f'<img width="{side}" alt="picture {i}" src="{_address(image)}">' for i, image in enumerate(images)]
    rows = [f"<tr><th></th>{''.join(f'<td>{image}</td>' for image in shown)}</tr>"]
    for heading, row in [*texts.items(), *(more or {}).items()]:
        of_language = heading in texts
        marks = right[heading] if of_language and right is not None else [False] * len(row)
        if not len(row) == len(marks) == len(images):
            raise ValueError(f"{heading} has {len(row)} texts and {len(marks)} marks for {len(images)} pictures.")
        if of_language and heading not in LANGUAGES:
            raise ValueError(f"There is no language {heading!r}; there are: {', '.join(LANGUAGES)}.")
        # lang selects the right form of Chinese characters, dir="auto" the direction of the text.
        start = f'<td lang="{heading}" dir="auto">' if of_language else '<td dir="auto">'
        shown = [html.escape(text) for text in row]
        shown = [f"<b>{text}</b>" if mark else text for text, mark in zip(shown, marks, strict=True)]
        title = LANGUAGES[heading] if of_language else html.escape(heading)
        rows.append(f"<tr><th>{title}</th>{''.join(f'{start}{text}</td>' for text in shown)}</tr>")
    return Html(f"<table>{''.join(rows)}</table>")


def of_seen(seen: Sequence) -> Html:
    """All that the kit's PaLI-X said of pictures (`multimodal.showcase.Seen`), a column for each of them."""
    from kitlib.multimodal import showcase

    captions = {language: [one.captions[language] for one in seen] for language in seen[0].captions}
    more = {"how many?": [one.count for one in seen]}
    if seen[0].question:
        more[f"your question: {seen[0].question}"] = [one.answer for one in seen]
    return table([showcase.with_boxes(one) for one in seen], captions, more=more, side=160)


def drawable(text: str) -> str:
    """The text, with a white square for each character that matplotlib's own font, DejaVu Sans, cannot draw."""
    return "".join(c if c in _characters() else MISSING for c in text)


@functools.cache
def _characters() -> frozenset[str]:
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    return frozenset(map(chr, FT2Font(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf").get_charmap()))


def _address(image) -> str:
    """An image as a data: address, in base64: a JPEG, since a PNG keeps the noise and takes twice the size."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(file, "JPEG", quality=90, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
