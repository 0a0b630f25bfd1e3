import pandas as pd
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from kitlib.studies import registry
from kitlib.tools import page, rich
from kitlib.tools.page import Check


def shown(line, *cells):
    data = {"text/plain": line, "text/html": rich.row(cells)}
    return new_code_cell("...", outputs=[new_output("display_data", data)])


def printed(text, name="stdout"):
    return new_code_cell("...", outputs=[new_output("stream", name=name, text=text)])


def test_check_lines_are_the_checks_that_a_notebook_showed():
    checks = [
        ("ok", "a", "measured 1.2", "expected 1.25 ±0.1"),
        ("seen", "b < c", "gain +1", "seen; 5 paired seeds"),
        ("no difference above 0.1", "d", "gain +0", "..."),
    ]
    cells = [shown(f"[{check[0]}] {check[1]}: stable", *check) for check in checks]
    others = [
        printed("[ok] printed\n"),
        new_markdown_cell("[ok] prose"),
        shown("a table", "ok", "x", "y", "z"),
        printed("kit: 7 checks passed\n"),
    ]
    nb = new_notebook(cells=cells + others)
    assert page.check_lines(nb) == [Check(*check) for check in checks]
    assert page.number_of_checks(nb) == 7
    assert page.number_of_checks(new_notebook(cells=cells)) == 3


def test_the_summary_is_the_first_heading_and_the_first_paragraph_of_prose():
    cells = [
        new_markdown_cell("# 07 Title\n\n[![badge](x)](y)\n\n| a | table |"),
        new_code_cell("x"),
        new_markdown_cell("## Section\n\n- a list\n\nThe first\nparagraph.\n\nThe second."),
    ]
    assert page.title_and_paragraph(new_notebook(cells=cells)) == ("07 Title", "The first\nparagraph.")
    assert page.title_and_paragraph(new_notebook(cells=[new_code_cell("x")])) == ("", "")


def test_the_page_shows_every_notebook_claim_check_and_error_as_text():
    check = Check("ok", "p < q", "measured 3", "expected 3 exact")
    common = {"checks": [], "number": 0, "error": ""}
    entries = [
        common | {"name": "01_a", "title": "A <b>", "text": "x < y", "checks": [check], "number": 1, "seconds": 12.4},
        common | {"name": "02_c", "title": "C", "text": "", "seconds": 0.6, "error": "x > 0 failed"},
    ]
    claims = pd.DataFrame(
        [("palix", "abstract", "a < b", "55B", "01.3", "kit run 01", "-", "checked: a\nand b"),
         ("palix", "figure 9", "c", "", "", "-", "-", "no counterpart: d")],
        columns=registry.COLUMNS,
    )  # fmt: skip
    text = page.page(entries, claims)
    assert "<p>2 notebooks, 1 checks.</p>" in text
    assert '<a href="01_a.html">A &lt;b&gt;</a><p>x &lt; y</p></td><td class="n">12 s</td><td class="n">1</td>' in text
    assert "<td>ok</td><td>p &lt; q</td><td>measured 3</td><td>expected 3 exact</td>" in text
    assert '<pre class="failed">x &gt; 0 failed</pre></td><td class="n">1 s</td>' in text
    assert '<td>a &lt; b</td><td>55B</td><td><a href="01_a.html">01.3</a></td>' in text
    assert "checked: a<br>and b" in text and "<td>no counterpart: d</td>" in text
