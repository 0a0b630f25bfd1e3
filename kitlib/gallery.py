"""Pictures and what a model writes about them, as a table in HTML: in any script, since a browser has all the fonts.

    gallery.table(images, {"en": ["red apple", ...], "th": [...]}, right={"en": [True, ...], "th": [...]})

matplotlib brings Latin, Greek, Cyrillic and Arabic letters, but none of Hindi, Thai, Japanese, Korean and Chinese. So
figures are for scripts that it has (`drawable` for what a model may write in between), and this table is for all.
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

from kitlib.pictures import LANGUAGES

SIDE = 64  # pixels of a picture on the page
MISSING = "\u25a1"


class Html:
    """A piece of HTML that a notebook shows."""

    def __init__(self, text: str):
        self.text = text

    def _repr_html_(self) -> str:
        return self.text

    def __repr__(self) -> str:  # stored beside it in the notebook, and compared: it must not depend on the text
        return "Html(...)"


def table(images, texts: Mapping[str, Sequence[str]], *, right: Mapping[str, Sequence[bool]] | None = None) -> Html:
    """A column for each picture uint8[n, H, W, 3], a row for each language, with a text for each picture.

    right: of the same form; these texts are bold. Raises ValueError for a language with more or fewer texts, or an
    unknown one.
    """
    cells = [
        f'<td><img width="{SIDE}" alt="picture {i}" src="{_address(image)}"></td>' for i, image in enumerate(images)
    ]
    rows = [f"<tr><th></th>{''.join(cells)}</tr>"]
    for language, row in texts.items():
        marks = [False] * len(row) if right is None else right[language]
        if not len(row) == len(marks) == len(images):
            raise ValueError(f"{language} has {len(row)} texts and {len(marks)} marks for {len(images)} pictures.")
        if language not in LANGUAGES:
            raise ValueError(f"There is no language {language!r}; there are: {', '.join(LANGUAGES)}.")
        # The language picks the right form of a Chinese character, and the direction of the text.
        shown = [
            f"<b>{html.escape(text)}</b>" if mark else html.escape(text) for text, mark in zip(row, marks, strict=True)
        ]
        cells = [f'<td lang="{language}" dir="auto">{text}</td>' for text in shown]
        rows.append(f"<tr><th>{LANGUAGES[language]}</th>{''.join(cells)}</tr>")
    return Html(f"<table>{''.join(rows)}</table>")


def drawable(text: str) -> str:
    """The text, with a white square for each character that matplotlib's own font, DejaVu Sans, cannot draw."""
    return "".join(c if c in _characters() else MISSING for c in text)


@functools.cache
def _characters() -> frozenset[str]:
    return frozenset(map(chr, FT2Font(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf").get_charmap()))


def _address(image) -> str:
    """A picture as an address that holds all of it, in base64: a JPEG, since PNG keeps noise, at twice the size."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(file, "JPEG", quality=90, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
