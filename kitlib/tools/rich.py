"""One line of text, and the same as a row of a table: a notebook displays the row, and its tests compare the text."""

import html
import re
import sys

# Columns of fixed width: rows that follow each other look like one table. Colours are those of the page's theme.
WIDTHS = ("7em", "26em", "17em", "26em")
CELL = "text-align:left;vertical-align:top;padding:1px 6px;overflow-wrap:anywhere"


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
    return shell is not None and hasattr(shell, "kernel")
