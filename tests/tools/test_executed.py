"""kitlib.tools.notebook_files: checks, titles and figures of notebooks that have been executed."""

import base64

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from kitlib.tools import notebook_files, rich
from kitlib.tools.notebook_files import Check


def shown(line, *cells):
    data = {"text/plain": line, "text/html": rich.row(cells)}
    return new_code_cell("...", outputs=[new_output("display_data", data)])


def printed(text, name="stdout"):
    return new_code_cell("...", outputs=[new_output("stream", name=name, text=text)])


def test_check_lines_are_the_checks_that_a_notebook_showed():
    checks = [("ok", "a", "measured 1.2", "expected 1.25 ±0.1"), ("no difference above 0.1", "d", "gain +0", "...")]
    cells = [shown(f"[{check[0]}] {check[1]}: stable", *check) for check in checks]
    others = [printed("[ok] printed\n"), new_markdown_cell("[ok] prose"), shown("a table", "ok", "x", "y", "z")]
    others += [printed("kit: 7 checks passed\n")]
    nb = new_notebook(cells=cells + others)
    assert notebook_files.check_lines(nb) == [Check(*check) for check in checks]
    assert notebook_files.number_of_checks(nb) == 7
    assert notebook_files.number_of_checks(new_notebook(cells=cells)) == 2


def test_the_summary_is_the_first_heading_and_the_first_paragraph_of_prose():
    cells = [
        new_markdown_cell("# 07 Title\n\n[![badge](x)](y)\n\n| a | table |"),
        new_code_cell("x"),
        new_markdown_cell("## Section\n\n- a list\n\nThe first\nparagraph.\n\nThe second."),
    ]
    assert notebook_files.title_and_paragraph(new_notebook(cells=cells)) == ("07 Title", "The first\nparagraph.")
    assert notebook_files.title_and_paragraph(new_notebook(cells=[new_code_cell("x")])) == ("", "")


def test_the_last_figure_before_the_exercises():
    def figure(content):
        png = {"image/png": base64.b64encode(content).decode()}
        return new_code_cell("x", outputs=[new_output("display_data", png)])

    cells = [
        figure(b"first"), figure(b"last"), printed("no figure"), new_markdown_cell("## Exercises"), figure(b"a task"),
    ]  # fmt: skip
    assert notebook_files.last_figure(new_notebook(cells=cells)) == b"last"
    assert notebook_files.last_figure(new_notebook(cells=cells[2:])) is None
