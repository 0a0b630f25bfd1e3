"""The web page of the executed series, build/index.html: every notebook, and every check that it printed."""

import html
import re

from kitlib import __version__

CHECK_LINE = re.compile(r"^\[(ok|seen|reversed|not seen at this scale)\] (.*)$", re.MULTILINE)


def check_lines(nb) -> list[tuple[str, str]]:
    """The checks that a notebook printed: (verdict, text)."""
    outputs = [output for cell in nb.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    return CHECK_LINE.findall(text)


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


def page(entries: list[dict]) -> str:
    """The series as one HTML page: every notebook with its summary, time and number of checks, then every check."""
    rows, checks = [], []
    for entry in entries:
        link = f'<a href="{html.escape(entry["name"])}.html">{html.escape(entry["title"])}</a>'
        error = f'<pre class="failed">{html.escape(entry["error"])}</pre>' if entry["error"] else ""
        rows.append(
            f"<tr><td>{link}<p>{html.escape(entry['text'])}</p>{error}</td>"
            f'<td class="n">{entry["seconds"]:.0f} s</td><td class="n">{len(entry["checks"])}</td></tr>'
        )
        for verdict, text in entry["checks"]:
            checks.append(f"<tr><td>{link}</td><td>{html.escape(verdict)}</td><td>{html.escape(text)}</td></tr>")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>kitlib</title><style>{STYLE}</style>'
        f"<h1>kitlib {__version__}: the notebooks</h1><p>{len(entries)} notebooks, {len(checks)} checks.</p>"
        f"<table><tr><th>Notebook<th>Time<th>Checks</tr>{''.join(rows)}</table>"
        f"<h2>Every check</h2><table><tr><th>Notebook<th>Verdict<th>Check</tr>{''.join(checks)}</table></html>"
    )
