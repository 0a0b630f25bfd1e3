"""What an executed notebook shows: its title, its checks with what was measured, its last figure."""

import base64
import re
from typing import NamedTuple

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


def last_figure(nb) -> bytes | None:
    """The last figure before the exercises, as PNG: the message of a lesson in one picture. None if it has none."""
    found = None
    for cell in nb.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## Exercises"):
            break
        for output in cell.get("outputs", []):
            found = output.get("data", {}).get("image/png", found)
    return base64.b64decode(found) if found else None
