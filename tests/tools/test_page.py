from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from kitlib.tools import page


def printed(text, name="stdout"):
    return new_code_cell("...", outputs=[new_output("stream", name=name, text=text)])


def test_check_lines_are_the_verdicts_that_a_notebook_printed():
    nb = new_notebook(
        cells=[
            printed("[ok] a: 1.25 (±0.1)\nnot a check: [ok] b\n[seen] c\n"),
            printed("[ok] a warning\n", name="stderr"),
            new_markdown_cell("[ok] prose"),
            printed("[reversed] d\n[not seen at this scale] e\n[OK] f\n"),
        ]
    )
    assert page.check_lines(nb) == [
        ("ok", "a: 1.25 (±0.1)"),
        ("seen", "c"),
        ("reversed", "d"),
        ("not seen at this scale", "e"),
    ]


def test_the_summary_is_the_first_heading_and_the_first_paragraph_of_prose():
    cells = [
        new_markdown_cell("# 07 Title\n\n[![badge](x)](y)\n\n| a | table |"),
        new_code_cell("x"),
        new_markdown_cell("## Section\n\n- a list\n\nThe first\nparagraph.\n\nThe second."),
    ]
    assert page.title_and_paragraph(new_notebook(cells=cells)) == ("07 Title", "The first\nparagraph.")
    assert page.title_and_paragraph(new_notebook(cells=[new_code_cell("x")])) == ("", "")


def test_the_page_shows_every_notebook_check_and_error_as_text():
    entries = [
        {"name": "01_a", "title": "A <b>", "text": "x < y", "checks": [("ok", "p < q")], "seconds": 12.4, "error": ""},
        {"name": "02_c", "title": "C", "text": "", "checks": [], "seconds": 0.6, "error": "x > 0 failed"},
    ]
    text = page.page(entries)
    assert "<p>2 notebooks, 1 checks.</p>" in text
    assert '<a href="01_a.html">A &lt;b&gt;</a><p>x &lt; y</p></td><td class="n">12 s</td><td class="n">1</td>' in text
    assert "<td>ok</td><td>p &lt; q</td>" in text
    assert '<pre class="failed">x &gt; 0 failed</pre></td><td class="n">1 s</td>' in text
