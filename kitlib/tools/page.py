"""The web page of the executed series, build/index.html: every notebook, every check with what was measured, and what
became of every claim of the papers."""

import html
import re
from typing import NamedTuple

import pandas as pd

from kitlib import __version__
from kitlib.tools import rich

CHECK_LINE = re.compile(r"\[(ok|seen|reversed|undecided|floor|no difference above [^\]]+)\] .*")


class Check(NamedTuple):
    """A check that a notebook showed."""

    mark: str
    claim: str
    measured: str
    expected: str


def check_lines(nb) -> list[Check]:
    """The checks that a notebook showed (`tools.rich`), in their order."""
    outputs = [output for cell in nb.cells if cell.cell_type == "code" for output in cell.outputs]
    bundles = [output.data for output in outputs if output.output_type == "display_data"]
    checks = [data for data in bundles if CHECK_LINE.fullmatch(data.get("text/plain", ""))]
    return [Check(*rich.cells_of(data["text/html"])) for data in checks]


def number_of_checks(nb) -> int:
    """What `checks.summary` says at the end of a notebook; without it, the number of checks that it showed."""
    outputs = [output for cell in nb.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    said = re.search(r"^kit: (\d+) checks passed$", text, re.MULTILINE)
    return int(said[1]) if said else len(check_lines(nb))


def title_and_paragraph(nb) -> tuple[str, str]:
    """The first heading, and the first paragraph of prose (no heading, badge, table, list or HTML)."""
    text = "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    title = re.search(r"^#+ *(.*)$", text, re.MULTILINE)
    paragraphs = re.split(r"\n\s*\n", re.sub(r"^#.*$", "", text, flags=re.MULTILINE).strip())
    return title[1] if title else "", next((p for p in paragraphs if not p.startswith(("[", "!", "|", "-", "<"))), "")


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top; padding: .3rem .6rem }
tr { border-bottom: 1px solid #ddd } .n { text-align: right; white-space: nowrap } p { margin: .2rem 0; color: #555 }
.failed { color: #a00; font-weight: bold } pre { white-space: pre-wrap; font-size: 13px }
"""


def page(entries: list[dict], claims: pd.DataFrame) -> str:
    """The series as one HTML page: every notebook with its summary, time and number of checks; every claim of the
    papers (`studies.registry.table`) with a link to its notebook; every check."""
    rows, checks = [], []
    names = {entry["name"][:2]: entry["name"] for entry in entries}
    for entry in entries:
        link = f'<a href="{html.escape(entry["name"])}.html">{html.escape(entry["title"])}</a>'
        error = f'<pre class="failed">{html.escape(entry["error"])}</pre>' if entry["error"] else ""
        rows.append(
            f"<tr><td>{link}<p>{html.escape(entry['text'])}</p>{error}</td>"
            f'<td class="n">{entry["seconds"]:.0f} s</td><td class="n">{entry["number"]}</td></tr>'
        )
        for check in entry["checks"]:
            cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in check)
            checks.append(f"<tr><td>{link}</td>{cells}</tr>")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>kitlib</title><style>{STYLE}</style>'
        f"<h1>kitlib {__version__}: the notebooks</h1><p>{len(entries)} notebooks, "
        f"{sum(entry['number'] for entry in entries)} checks.</p>"
        f"<table><tr><th>Notebook<th>Time<th>Checks</tr>{''.join(rows)}</table>"
        f"<h2>Every claim</h2>{claims_table(claims, names)}"
        f"<h2>Every check</h2><table><tr><th>Notebook<th>Mark<th>Claim<th>Measured<th>Expected</tr>{''.join(checks)}"
        "</table></html>"
    )


def claims_table(claims: pd.DataFrame, names: dict[str, str]) -> str:
    """The rows of the registry; `where` is a link if that notebook is on the page. names: of notebooks, by number."""
    rows = []
    for claim in claims.to_dict("records"):
        notebook = names.get(claim["where"][:2])
        where = html.escape(claim["where"])
        link = f'<a href="{html.escape(notebook)}.html">{where}</a>' if notebook else where
        cells = [html.escape(claim[column]) for column in ("paper", "item", "claim", "published")]
        cells += [link, html.escape(claim["command"]), html.escape(claim["result"]).replace("\n", "<br>")]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "<tr><th>Paper<th>Item<th>Claim<th>Published<th>Where<th>Command<th>Result</tr>"
    return f"<table>{head}{''.join(rows)}</table>"
