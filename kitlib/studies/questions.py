"""The questions that are asked of the stored tables, and their verdicts: the one place where they are judged.

    answers("upcycling", "pictures_curves")    # a row per question of this table, judged as one family
    answers("upcycling")                       # of all tables of the paper

Questions and margins are in `questions_upcycling`, `questions_ensembles` and `questions_palix`; notebooks, the registry
of all claims and the README show these rows and compute none of their own.
"""

import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kitlib.configs.nearest_name import one_of
from kitlib.studies import gates, statistics, tables

HIGHER = (
    "accuracy",
    "held_out_accuracy",
    "novel_accuracy",
    "shift_accuracy",
    "ood_",
    "shots_",
    "calibration_auc",
    "disagreement",
    "kl",
    "patches",
    "AP",
)  # more is better
LOWER = (
    "loss",
    "held_out_loss",
    "novel_loss",
    "gloss_loss",
    "message_loss",
    "member_loss",
    "ece",
    "shift_loss",
    "shift_ece",
    "ood_fpr95",
    "brier",
)
PAPERS = ("upcycling", "ensembles", "palix")


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


def questions_of(paper: str) -> tuple[Question, ...]:
    """All questions asked of the tables of a paper. Raises ValueError for an unknown paper."""
    one_of("paper with questions", paper, PAPERS)
    return importlib.import_module(f"kitlib.studies.questions_{paper}").QUESTIONS


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric is better. Raises ValueError for a metric that is not known."""
    name = metric.split(":")[0]
    if name.startswith(LOWER):
        return False
    if name.startswith(HIGHER):
        return True
    raise ValueError(f"Is more or less of {metric!r} better? Add it to HIGHER or LOWER.")


def compare(question: Question, table: pd.DataFrame) -> statistics.Comparison:
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

    gains = isinstance(question.arm, tuple)
    try:
        return statistics.compare(
            of(question.arm),
            of(question.baseline),
            higher=higher or gains,
            margin=question.margin,
            floor=question.floor,
        )
    except ValueError as error:
        raise ValueError(f"{question.table}: {question.claim}: {error}") from None


def judge(questions: Sequence[Question], table: pd.DataFrame) -> pd.DataFrame:
    """A row per question of one table: claim, published, gain, low, high (95 % t-interval), seeds, detectable (a gain
    found in 80 % of such studies), margin, p (corrected for the number of questions), verdict, metric, table, where."""
    verdicts = statistics.judge([compare(question, table) for question in questions])
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
    """The rows of `judge` for a stored table, or for all tables of a paper, each of which is a family of its own."""
    asked = questions_of(paper)
    names = list(dict.fromkeys(question.table for question in asked))
    if table is not None:
        one_of(f"table of {paper} with questions", table, names)
        names = [table]
    return pd.concat([_answers(paper, name) for name in names], ignore_index=True)


@functools.cache
def _answers(paper: str, table: str) -> pd.DataFrame:
    asked = [question for question in questions_of(paper) if question.table == table]
    return judge(asked, tables.read_table(paper, table))
