"""The registry: one row for every figure, table and headline sentence of the three papers, and what became of it here.

    table()               # a row per claim of all papers
    table("upcycling")    # of one; `kit claims upcycling --list` prints it

WORDS has what can become of one. Results are read from the stored tables and notebooks each time; nothing is written
down twice. The rows are in `registry_upcycling`, `registry_ensembles` and `registry_palix`.
"""

import functools
import importlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kitlib.configs.nearest_name import one_of
from kitlib.data.files import ROOT
from kitlib.studies import questions

COLUMNS = ("paper", "item", "claim", "published", "where", "command", "seeds", "result")


@dataclass(frozen=True)
class Claim:
    """A row of the registry.

    Attributes:
        item: of the paper: "abstract", "figure 2", "table 1", "section B.7".
        claim: in our words.
        published: the paper's own figure; "" if it gives none that we know of.
        where: the notebook and section, as "07.8"; or the test, as "moe/test_e3.py".
        asked: measured: a table, and the beginnings of the claims of its questions ("": all of them).
        check: checked: the beginning of the claim of a check of that notebook, or the name of that test.
        why_not: no counterpart: the reason.
    """

    item: str
    claim: str
    published: str
    where: str = ""
    asked: tuple[str, ...] = ()
    check: str = ""
    why_not: str = ""


def claims_of(paper: str) -> tuple[Claim, ...]:
    """The rows of a paper. Raises ValueError for an unknown one."""
    one_of("paper with claims", paper, questions.PAPERS)
    return importlib.import_module(f"kitlib.studies.registry_{paper}").CLAIMS


def answers_to(paper: str, claim: Claim) -> pd.DataFrame:
    """The judged questions (`questions.answers`) of a measured claim; empty for others. Raises ValueError if a
    beginning fits no question."""
    if not claim.asked:
        return pd.DataFrame()
    name, *beginnings = claim.asked
    rows = questions.answers(paper, name)
    for beginning in beginnings:
        if not rows["claim"].str.startswith(beginning).any():
            raise ValueError(f"{claim.item}: no question of {name} begins with {beginning!r}.")
    return rows[rows["claim"].str.startswith(tuple(beginnings) or "")]


def shown(claim: Claim) -> str:
    """The line that its notebook shows for the check of a claim, as it is stored: mark, claim and what was wanted."""
    folder = ROOT / "notebooks" if (ROOT / "notebooks").is_dir() else ROOT / "kitlib" / "_notebooks"  # as in a wheel
    for path in folder.glob(f"{claim.where[:2]}_*.ipynb"):
        for line in stored_lines(path):
            if line.partition("] ")[2].startswith(claim.check):
                return line
    return f"{claim.check} (the notebook that is here shows no output of it)"


@functools.cache
def stored_lines(path: Path) -> list[str]:
    """The lines of all checks of a notebook, as `tools.rich` stores them."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    bundles = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
    return ["".join(bundle["text/plain"]) for bundle in bundles if "text/plain" in bundle]


def table(paper: str | None = None) -> pd.DataFrame:
    """The registry with its results, as strings; columns: COLUMNS. paper: only this one."""
    rows = []
    for name in (paper,) if paper else questions.PAPERS:
        for claim in claims_of(name):
            answers = answers_to(name, claim)
            if claim.asked:
                command, seeds = f"kit claims {name} {claim.asked[0]}", str(answers["seeds"].iloc[0])
                result = "\n".join(
                    f"{row.claim}: {row.gain:+.4f} [{row.low:+.4f}, {row.high:+.4f}], {row.verdict}"
                    + (f" (paper: {row.published})" if row.published != "-" else "")
                    for row in answers.itertuples()
                )
            elif claim.check:
                test = claim.where.endswith(".py")
                command, seeds = f"kit test {claim.where}" if test else f"kit run {claim.where[:2]}", "-"
                result = f"checked: {claim.check if test else shown(claim)}"
            else:
                command, seeds, result = "-", "-", f"no counterpart: {claim.why_not}"
            rows.append((name, claim.item, claim.claim, claim.published, claim.where, command, seeds, result))
    return pd.DataFrame(rows, columns=COLUMNS)


# All words for what became of a claim or a question: `kit claims --list` and docs/claims.md print and count them.
WORDS = {
    "measured": "by questions asked of stored runs, over seeds; kit claims PAPER STUDY trains them anew, in hours",
    "checked": "by a lesson, [ok] if within what stands in brackets after it, or by a test, whose name is shown",
    "no counterpart": "not here, for the reason that is told",
    "seen": "the first is better (its gain is above 0), also after a correction for all questions of the study",
    "reversed": "the first is worse (its gain is below 0), in the same way: the contrary of the question",
    "no difference": "above a margin: shown to be smaller than that",
    "undecided": "neither a difference nor its absence is shown; so many seeds would do",
    "floor": "neither is above chance, so there is nothing to compare",
    "precondition not met": "the task, or what became of another question, gives the claim no chance",
}
LEGEND = """Gains are differences over paired seeds with 95 % intervals (before the correction), losses in nats, all
else as a share. "paper:" is what the paper says, where it says something. The words:
"""


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Of some rows of `table`: how many claims are measured, checked, without counterpart, and how often a question of
    the measured ones got each verdict. A row per word of WORDS, a column per paper, and "all"."""
    counts = {}
    for paper, part in rows.groupby("paper", sort=False):
        kinds = part["result"].str.extract("^(checked|no counterpart): ")[0].fillna("measured")
        # A question that stands under two claims is counted once.
        lines = {(row.command, line) for row in part.itertuples() for line in row.result.split("\n")}
        verdicts = [found[1] for _, line in lines if (found := re.search(rf"\], ({'|'.join(WORDS)})", line))]
        counts[paper] = Counter([*kinds, *verdicts])
    return pd.DataFrame(counts, index=list(WORDS)).fillna(0).astype(int).assign(all=lambda table: table.sum(axis=1))


def main(paper: str | None = None, studies: Sequence[str] = ()) -> int:
    """`kit claims [PAPER [STUDY ...]] --list`: prints the registry, a block per claim, then how many of each kind there
    are. studies: only the claims that were measured by these."""
    if paper:
        one_of("paper with claims", paper, questions.PAPERS, SystemExit)
    rows = table(paper)
    if studies:
        measured = {claim.asked[0] for claim in claims_of(paper) if claim.asked}
        for name in studies:
            one_of(f"measured study of {paper}", name, measured, SystemExit)
        rows = rows[rows["command"].isin([f"kit claims {paper} {name}" for name in studies])]
    print(LEGEND + "".join(f"    {word}: {meaning}\n" for word, meaning in WORDS.items()))
    for row in rows.itertuples():
        published = f" (published: {row.published})" if row.published else ""
        print(f"{row.paper}, {row.item}: {row.claim}{published}")
        if row.where:
            print(f"    where: {row.where}; again: {row.command}; seeds: {row.seeds}")
        for line in row.result.split("\n"):
            print(f"    {line}")
    print(f"\n{summary(rows).to_string()}\n\n{len(rows)} claims")
    return 0
