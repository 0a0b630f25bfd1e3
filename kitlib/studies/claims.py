"""The claims of the three papers as data, one table per paper in data/claims, and what became of each.

    answers("upcycling", "pictures_curves")    # a row per question of this stored table, judged as one family
    table("upcycling")                         # a row per claim, with its result, as `kit claims --list` prints it

A row of data/claims/PAPER.csv is one of three kinds. *Measured*: a question asked of a study's stored table, that is
data/results/PAPER_STUDY.csv, with the two arms that are compared; a claim is all rows of the same item and claim.
*Checked*: by a check of a lesson, or by a test. *No counterpart*: the reason. Results are read from tables and
notebooks each time.
"""

import functools
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kitlib.configs.nearest_name import one_of
from kitlib.data import files
from kitlib.studies import gates, statistics, tables

PAPERS = ("upcycling", "ensembles", "palix")
COLUMNS = ("paper", "item", "claim", "published", "where", "command", "seeds", "result")
# The beginnings of the names of metrics, by what is better.
HIGHER = ("accuracy", "held_out_accuracy", "novel_accuracy", "shift_accuracy", "ood_", "shots_", "calibration_auc",
          "disagreement", "kl", "patches", "AP")  # fmt: skip
LOWER = ("loss", "held_out_loss", "novel_loss", "gloss_loss", "message_loss", "member_loss", "ece", "shift_loss",
         "shift_ece", "ood_fpr95", "brier")  # fmt: skip


@dataclass(frozen=True)
class Question:
    """Is one arm of a study better than another?

    Attributes:
        claim: in words, such as "upcycled beats dense, +50 % steps"; unique among the questions of a table.
        table: the study, as in data/results/<paper>_<table>.csv. All questions of one table are one family.
        arm: the arm that is claimed to be better; a pair (x, y) stands for the gain of x over y.
        baseline: what it is compared with, of the same kind.
        margin: a difference that would not matter, in units of the metric.
        metric: a column of the table.
        column: compare where this column is `position`; "": at the end of each run.
        position: see `column`.
        published: the paper's own answer, in a word; "-" if it has none.
        floor: chance; arms that are not above it cannot be compared.
        gate: the task whose gate (`studies.gates`) has to be open; else the verdict is "precondition not met".
        needs: claims of other questions of the table, for which the same holds unless all of them are seen.
        where: the notebook and section that shows the verdict, such as "07.8".
    """

    claim: str
    table: str
    arm: str | tuple[str, str]
    baseline: str | tuple[str, str]
    margin: float
    metric: str = "loss"
    column: str = ""
    position: float = 0.0
    published: str = "-"
    floor: float | None = None
    gate: str = ""
    needs: tuple[str, ...] = ()
    where: str = ""


@dataclass(frozen=True)
class Claim:
    """What a paper says, and how it is looked at here.

    Attributes:
        item: of the paper: "abstract", "figure 2", "table 1", "section B.7".
        claim: in our words.
        published: the paper's own figure; "" if it gives none that we know of.
        where: the notebook and section, as "07.8"; or the test, as "moe/test_e3.py".
        table: measured: the study.
        asked: measured: the claims of its questions.
        check: checked: the beginning of the claim of a check of that notebook, or the name of that test.
        reason: why there is no counterpart.
    """

    item: str
    claim: str
    published: str
    where: str = ""
    table: str = ""
    asked: tuple[str, ...] = ()
    check: str = ""
    reason: str = ""


# ---------------------------------------------------------------------------------------------- reading


@functools.cache
def _rows(paper: str) -> pd.DataFrame:
    one_of("paper with claims", paper, PAPERS)
    return pd.read_csv(files.data_folder() / "claims" / f"{paper}.csv", comment="#", dtype=str, keep_default_na=False)


@functools.cache
def claims_of(paper: str) -> tuple[Claim, ...]:
    """All claims of a paper, by its items in the order in which they are first named. Raises ValueError for an unknown
    paper."""
    rows = _rows(paper)
    items = {item: i for i, item in enumerate(dict.fromkeys(rows["item"]))}
    found = [
        Claim(item, claim, group["published"].iloc[0], group["where"].iloc[0], group["study"].iloc[0],
              tuple(filter(None, group["question"])), group["check"].iloc[0], group["reason"].iloc[0])
        for (item, claim), group in rows.groupby(["item", "claim"], sort=False)
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda claim: items[claim.item]))


@functools.cache
def questions_of(paper: str) -> tuple[Question, ...]:
    """All questions that are asked of the tables of a paper. A row without arms only names a question of another claim.
    Raises ValueError for an unknown paper."""

    def side(text: str) -> str | tuple[str, ...]:
        return tuple(text.split(" over ")) if " over " in text else text

    return tuple(
        Question(
            row.question, row.study, side(row.better), side(row.than), float(row.margin), row.metric,
            *((row.at.split()[0], float(row.at.split()[1])) if row.at else ("", 0.0)), row.paper,
            float(row.chance) if row.chance else None, row.gate, tuple(filter(None, row.needs.split(" & "))), row.where,
        )
        for row in _rows(paper).itertuples() if row.better
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- judging


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric is better. Raises ValueError for a metric that is not known."""
    name = metric.split(":")[0]
    if name.startswith(LOWER):
        return False
    if name.startswith(HIGHER):
        return True
    raise ValueError(f"Is more or less of {metric!r} better? Add it to HIGHER or LOWER.")


def gain_of(question: Question, table: pd.DataFrame) -> statistics.Comparison:
    """The gain that a question asks for, over the seeds of its table."""
    if question.column:
        if question.column == "total_cost":  # of all that was trained, while extra_cost leaves out the dense parent
            table = table.assign(total_cost=table["extra_cost"] + ~table["arm"].isin(("parent", "scratch")))
        values = tables.values_at(table, question.metric, question.column, question.position)
    else:
        values = tables.final(table, question.metric)
    higher = higher_is_better(question.metric)

    def of(arm: str | tuple[str, str]) -> np.ndarray:
        if isinstance(arm, str):
            one_of(f"arm of {question.table}", arm, values.columns)
            return values[arm].to_numpy()
        return (of(arm[0]) - of(arm[1])) * (1.0 if higher else -1.0)

    options = {"higher": higher or isinstance(question.arm, tuple), "margin": question.margin, "floor": question.floor}
    try:
        return statistics.compare(of(question.arm), of(question.baseline), **options)
    except ValueError as error:
        raise ValueError(f"{question.table}: {question.claim}: {error}") from None


def judged_rows(questions: Sequence[Question], table: pd.DataFrame) -> pd.DataFrame:
    """A row per question of one table: claim, published, gain, low, high (95 % t-interval), seeds, detectable (a gain
    found in 80 % of such studies), margin, p (corrected for the number of questions), verdict, metric, table, where."""
    verdicts = statistics.judge([gain_of(question, table) for question in questions])
    open_ = [not question.gate or gates.read(question.gate).open for question in questions]
    seen = {q.claim for q, v, is_open in zip(questions, verdicts, open_, strict=True) if v.seen and is_open}
    met = [is_open and seen.issuperset(question.needs) for question, is_open in zip(questions, open_, strict=True)]
    rows = [
        {
            "claim": q.claim, "published": q.published, "gain": v.gain.mean, "low": v.gain.low, "high": v.gain.high,
            "seeds": v.gain.n, "detectable": v.gain.detectable, "margin": q.margin, "p": v.p,
            "verdict": v.word if holds else gates.NOT_MET,
            "metric": q.metric, "table": q.table, "where": q.where,
        }
        for q, v, holds in zip(questions, verdicts, met, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def answers(paper: str, table: str | None = None) -> pd.DataFrame:
    """`judged_rows` of a stored table, or of all tables of a paper, each of which is a family of its own."""
    names = list(dict.fromkeys(question.table for question in questions_of(paper)))
    if table is not None:
        one_of(f"table of {paper} with questions", table, names)
        names = [table]
    return pd.concat([_answers(paper, name) for name in names], ignore_index=True)


@functools.cache
def _answers(paper: str, table: str) -> pd.DataFrame:
    asked = [question for question in questions_of(paper) if question.table == table]
    return judged_rows(asked, tables.read_table(paper, table))


# ---------------------------------------------------------------------------------------------- showing


def shown(claim: Claim) -> str:
    """The line that its notebook shows for the check of a claim, as it is stored: mark, claim and what was wanted."""
    folder = files.ROOT / "notebooks"
    folder = folder if folder.is_dir() else files.ROOT / "kitlib" / "_notebooks"  # as in a wheel
    for path in folder.glob(f"{claim.where[:2]}_*.ipynb"):
        for line in stored_lines(path):
            if line.partition("] ")[2].startswith(claim.check):
                return line
    return f"{claim.check} (the notebook that is here shows no output of it)"


@functools.cache
def stored_lines(path: Path) -> list[str]:
    """The lines of all checks of a notebook, as `tools.html_table.display_row` stores them."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    bundles = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
    return ["".join(bundle["text/plain"]) for bundle in bundles if "text/plain" in bundle]


def table(paper: str | None = None) -> pd.DataFrame:
    """All claims with their results, as strings; columns: COLUMNS. paper: only this one."""
    rows = []
    for name in (paper,) if paper else PAPERS:
        for claim in claims_of(name):
            if claim.asked:
                found = answers(name, claim.table)
                found = found[found["claim"].isin(claim.asked)]
                command, seeds = f"kit claims {name} {claim.table}", str(found["seeds"].iloc[0])
                result = "\n".join(
                    f"{row.claim}: {row.gain:+.4f} [{row.low:+.4f}, {row.high:+.4f}], {row.verdict}"
                    + (f" (paper: {row.published})" if row.published != "-" else "")
                    for row in found.itertuples()
                )
            elif claim.check:
                test = claim.where.endswith(".py")
                command, seeds = f"kit test {claim.where}" if test else f"kit run {claim.where[:2]}", "-"
                result = f"checked: {claim.check if test else shown(claim)}"
            else:
                command, seeds, result = "-", "-", f"no counterpart: {claim.reason}"
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
        one_of("paper with claims", paper, PAPERS, SystemExit)
    rows = table(paper)
    if studies:
        measured = {claim.table for claim in claims_of(paper) if claim.asked}
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
