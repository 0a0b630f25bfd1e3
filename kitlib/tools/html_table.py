"""Images and a model's texts about them, as a table in HTML: in any script, since browsers have fonts for all.

    html_table.table(images, {"en": ["red apple", ...], "th": [...]}, right={"en": [True, ...], "th": [...]})

matplotlib has letters for Latin, Greek, Cyrillic and Arabic script, but not for Hindi, Thai, Japanese, Korean and
Chinese. So figures are for the scripts that it has (with `drawable` for a model's texts), and this table is for all.
"""

import base64
import functools
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import get_data_path
from matplotlib.ft2font import FT2Font
from PIL import Image

from kitlib.data.captioned import LANGUAGES

SIDE = 64  # width of an image on the page, in pixels
MISSING = "\u25a1"


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
    side: int = SIDE,
) -> Html:
    """One column per image uint8[n, H, W, 3] and one row per language, with a text for each image.

    right: which texts are right, in the same form; these are bold. more: further rows, by their headings. side: the
    width of an image on the page, in pixels. Raises ValueError for a row with more or fewer texts than images, or an
    unknown language.
    """
    cells = [
        f'<td><img width="{side}" alt="picture {i}" src="{_address(image)}"></td>' for i, image in enumerate(images)
    ]
    rows = [f"<tr><th></th>{''.join(cells)}</tr>"]
    for language, row in texts.items():
        marks = [False] * len(row) if right is None else right[language]
        if not len(row) == len(marks) == len(images):
            raise ValueError(f"{language} has {len(row)} texts and {len(marks)} marks for {len(images)} pictures.")
        if language not in LANGUAGES:
            raise ValueError(f"There is no language {language!r}; there are: {', '.join(LANGUAGES)}.")
        # lang selects the right form of Chinese characters, dir="auto" the direction of the text.
        shown = [
            f"<b>{html.escape(text)}</b>" if mark else html.escape(text) for text, mark in zip(row, marks, strict=True)
        ]
        cells = [f'<td lang="{language}" dir="auto">{text}</td>' for text in shown]
        rows.append(f"<tr><th>{LANGUAGES[language]}</th>{''.join(cells)}</tr>")
    for heading, row in (more or {}).items():
        if len(row) != len(images):
            raise ValueError(f"{heading} has {len(row)} texts for {len(images)} pictures.")
        cells = [f'<td dir="auto">{html.escape(text)}</td>' for text in row]
        rows.append(f"<tr><th>{html.escape(heading)}</th>{''.join(cells)}</tr>")
    return Html(f"<table>{''.join(rows)}</table>")


def drawable(text: str) -> str:
    """The text, with a white square for each character that matplotlib's own font, DejaVu Sans, cannot draw."""
    return "".join(c if c in _characters() else MISSING for c in text)


@functools.cache
def _characters() -> frozenset[str]:
    return frozenset(map(chr, FT2Font(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf").get_charmap()))


def _address(image) -> str:
    """An image as a data: address, in base64: a JPEG, since a PNG keeps the noise and takes twice the size."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(file, "JPEG", quality=90, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
