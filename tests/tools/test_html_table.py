"""Every text is in its cell, whatever its characters; the images in the table look like the originals."""

import base64
import io
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from kitlib.data import captioned
from kitlib.tools import html_table

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)


def test_a_check_is_a_row_of_fixed_columns(capsys):
    cells = ("ok", "a < b", "measured 1", "expected 1 ±0.1")
    row = html_table.row(cells)
    assert "<b>ok</b>" in row and "a &lt; b" in row and row.count("<td") == 4 == row.count("<col ")
    assert "table-layout:fixed" in row and all(width in row for width in html_table.WIDTHS) and "\n" not in row
    assert html_table.cells_of(row) == list(cells)
    html_table.display_row("[ok] a < b: 1", cells)  # without a notebook
    assert capsys.readouterr().out == "[ok] a < b: 1, measured 1\n"


def test_a_notebook_is_a_shell_with_a_kernel(monkeypatch):
    for shell, expected in ((None, False), (SimpleNamespace(), False), (SimpleNamespace(kernel=1), True)):
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert html_table._in_notebook() is expected
    monkeypatch.delitem(sys.modules, "IPython")
    assert html_table._in_notebook() is False


def test_one_row_per_language_and_one_column_per_image():
    right = {"en": [False, True], "ar": [False, False]}
    shown = html_table.table(IMAGES, {"en": ["a <b", "c & d"], "ar": ["تفاحة", "قط"]}, right=right)
    text = shown._repr_html_()
    rows = re.findall("<tr>(.*?)</tr>", text)
    assert [len(re.findall("<td", row)) for row in rows] == [2, 2, 2]
    assert "a &lt;b" in rows[1] and re.findall("<b>(.*?)</b>", text) == ["c &amp; d"]  # a model's text is not markup
    assert "<th>Arabic</th>" in rows[2] and 'lang="ar" dir="auto">تفاحة<' in rows[2]
    assert repr(shown) == "Html(...)"
    shown = html_table.table(IMAGES, {"en": ["cat", "dog"]}, more={"how < many": ["1", "2 & 3"]}, side=100).text
    rows = re.findall("<tr>(.*?)</tr>", shown)
    assert len(rows) == 3 and rows[2].startswith("<th>how &lt; many</th>") and "2 &amp; 3" in rows[2]
    assert shown.count('width="100"') == 2
    flat = np.stack([np.full((8, 8, 3), colour, np.uint8) for colour in ((250, 10, 30), (20, 90, 200))])
    found = re.findall('base64,(.*?)"', html_table.table(flat, {}).text)
    back = [np.array(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]
    np.testing.assert_allclose(back, flat, atol=4)  # JPEG rounds


@pytest.mark.parametrize(
    ("texts", "more", "message"),
    [
        ({"en": ["cat"]}, {}, "en has 1 texts"), ({"xx": ["cat", "dog"]}, {}, "no language 'xx'"),
        ({}, {"how many": ["1"]}, "how many has 1 texts"),
    ],
)  # fmt: skip
def test_impossible_tables_are_refused(texts, more, message):
    with pytest.raises(ValueError, match=message):
        html_table.table(IMAGES, texts, more=more)


def test_only_characters_without_a_glyph_are_replaced():
    """All characters of every name in eleven languages; in the other five, of hardly any name."""
    assert html_table.drawable("Äpfel, μήλο, яблоко, تفاحة, quả táo") == "Äpfel, μήλο, яблоко, تفاحة, quả táo"
    assert html_table.drawable("a蘋b 사") == "a□b □"  # one square per character
    assert html_table.drawable("\ufffd") == "\ufffd"  # a broken character: the font has a glyph for it
    for language, names in captioned.emoji("test").names.items():
        whole = np.mean([html_table.drawable(name) == name for name in names])
        assert whole == 1.0 if language not in ("hi", "th", "ja", "ko", "zh") else whole < 0.05
