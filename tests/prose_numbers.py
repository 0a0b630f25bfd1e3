"""Finds numbers in a notebook's prose that no output, no code and no stored table contains.

A number in a sentence about a result is a claim: it has to come from a run. Looked at are decimals, percentages and
"n times"; a number of the prose is found if some number there rounds to it. Not looked at: formulas, code, addresses,
numbers of papers, sections, tables and figures, exercises and references.
"""

import functools
import re
from collections.abc import Iterator

import numpy as np
import pandas as pd
from nbformat import NotebookNode

from kitlib.data import files
from kitlib.studies import claims

NUMBER = r"\d[\d,]*(?:\.\d+)?"
SKIPPED = (
    r"```.*?```",  # code
    r"`[^`]*`",
    r"\$\$.*?\$\$",  # formulas
    r"\$[^$]*\$",
    r"\[[^\]]*\]\([^)]*\)",  # links
    r"<details>.*?</details>",
    r"(?:arXiv )?\b\d{4}\.\d{4,5}\b",  # papers
    r"\b(?:[Ss]ections?|[Tt]ables?|[Ff]igures?|[Nn]otebooks?|[Ee]quations?|appendix|[Pp]ython|jax|JAX) [A-Z]?[\d.]+"
    r"(?:(?:, | and | to )[A-Z]?[\d.]+)*",
    r"\bT5 1\.1\b",
    r"\b95 % (?:t-)?(?:interval|band)s?",  # a level is chosen, not measured
)
RESULT = re.compile(rf"(?<![\w.,])({NUMBER})(?: to ({NUMBER}))?( %| per cent| times| percentage points?)?(?![\w]|\.\d)")


def sections(nb) -> list[list]:
    """The cells between headings of the second level; from the exercises on, nothing is a result."""
    parts: list[list] = [[]]
    for cell in nb.cells:
        if cell.cell_type == "markdown" and re.match(r"## (Exercises|References)", cell.source):
            return parts
        before, heading, after = (
            cell.source.partition("\n## ") if cell.cell_type == "markdown" else (cell.source, "", "")
        )
        if heading:  # the cell ends one section and begins the next
            parts[-1].append(NotebookNode(cell | {"source": before}))
            parts.append([NotebookNode(cell | {"source": f"## {after}"})])
        elif cell.source.startswith("## "):
            parts.append([cell])
        else:
            parts[-1].append(cell)
    return parts


def said(cells) -> Iterator[tuple[str, float, str]]:
    """(the number as written, its value, what is around it) of every result number in the prose."""
    for cell in cells:
        if cell.cell_type != "markdown":
            continue
        text = cell.source
        for pattern in SKIPPED:
            text = re.sub(pattern, " ", text, flags=re.DOTALL)
        for found in RESULT.finditer(text):
            for written in filter(None, found.groups()[:2]):
                if "." in written or (found[3] or "").strip():
                    around = text[max(0, found.start() - 60) : found.end() + 30].replace("\n", " ")
                    yield written, float(written.replace(",", "")), around


def numbers_of(text: str) -> list[float]:
    """All numbers of a text; 12,345 is one number and two."""
    plain = [float(x) for x in re.findall(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", text)]
    return plain + [float(x.replace(",", "")) for x in re.findall(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", text)]


def shown(cells) -> list[float]:
    """Numbers of the code and the outputs of these cells, and of the stored tables that the code names."""
    known: list[float] = []
    for cell in cells:
        if cell.cell_type != "code":
            continue
        texts = [cell.source]
        for output in cell.outputs:
            texts.append(output.get("text", ""))
            texts += [x for kind, x in output.get("data", {}).items() if kind.startswith("text/")]
        known += [x for text in texts for x in numbers_of(re.sub(r"<[^>]*>", " ", text))]
        for file, numbers in stored().items():
            paper, _, table = file.partition("_")
            short = table.partition("_")[2] or table  # f"vision_{name}" for name in ("experts", ...)
            if paper in cell.source and re.search(rf'"({table}|{short})"', cell.source):
                known += numbers
    return known


@functools.cache
def stored() -> dict[str, list[float]]:
    """By table: the means of every arm at the end, the differences of two arms, and the answers to its questions."""
    found = {}
    for path in sorted((files.data_folder() / "results").glob("*.csv")):
        table = pd.read_csv(path, comment="#")
        if "arm" not in table:
            continue
        ends = table.groupby(["arm", "seed"], sort=False).last().groupby("arm", sort=False).mean()
        values = ends.to_numpy(float)
        numbers = [*values.ravel(), *np.abs(values[:, None] - values[None]).ravel()]
        found[path.stem] = [float(x) for x in numbers if np.isfinite(x)]
    return found


@functools.cache
def published() -> list[float]:
    """Numbers of the papers that the claims quote."""
    return [x for paper in claims.PAPERS for claim in claims.claims_of(paper) for x in numbers_of(claim.published)]


def unfounded(nb) -> Iterator[tuple[str, str]]:
    """The result numbers of the prose that stand nowhere in their section, with what is around them; in the parts
    without a number (opening, figure, takeaways), those that stand nowhere in the notebook."""
    parts = sections(nb)
    by_section = [shown(cells) for cells in parts]
    everywhere = [x for numbers in by_section for x in numbers]
    for cells, here in zip(parts, by_section, strict=True):
        own = bool(cells) and re.match(r"## \d", cells[0].source)
        known = np.array([*(here if own else everywhere), *published()])
        for written, value, around in said(cells):
            half = 0.51 * 10.0 ** -len(written.partition(".")[2])  # half a unit of the last digit, and a little more
            if not any((np.abs(known * scale - value) <= half).any() for scale in (1.0, 100.0)):  # 100: in per cent
                yield written, around
