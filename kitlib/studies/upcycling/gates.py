"""Gates: the conditions under which upcycling can be judged on a task at all.

    gate = read("recall")          # from data/results/upcycling_recall_curves.csv and the tables of the tuning
    gate.open, gate.reasons

The papers' claims are about parents that are trained out and mixtures that have room to be better. Where a dense model
still learns quickly, any training helps, and where a mixture from scratch is no better than its dense twin, upcycling
cannot be either. So three conditions are tested first, and a question about a task that fails one of them gets the
verdict "precondition not met", whatever its numbers say:

    1. the dense twin is near its plateau: the last fifth of its steps buys less than a tenth of the first fifth;
    2. a mixture from scratch beats it, at equal steps and at equal cost (both seen, corrected for two questions);
    3. every kind of arm has a recipe of its own, chosen by at least six trials on a validation split, the best of which
       is not at an end of its range of learning rates.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kitlib.studies import statistics, tables
from kitlib.studies.statistics import Verdict

NOT_MET = "precondition not met"
PLATEAU = 0.1  # the largest share of condition 1
TRIALS = 6  # the smallest number of condition 3


@dataclass(frozen=True)
class Arms:
    """The arms of <task>_curves that are compared, and the tables of trials."""

    dense: str = "parent"  # is it near its plateau?
    longer: str = "dense"  # with as much training again
    new_dense: str = "parent"  # from scratch
    new_mixture: str = "scratch"
    trials: tuple[str, ...] = ("parents", "tuning")


UPCYCLING = Arms()
# A real parent was trained elsewhere, so its fine-tuning has to be near the end; "from scratch" means new upper blocks.
REAL = Arms("dense", "dense, twice as long", "new dense", "new mixture", ("tuning",))


def arms_of(task: str) -> Arms:
    """The arms of a task: "recall", "text", "real"."""
    return REAL if task == "real" else UPCYCLING


@dataclass(frozen=True)
class Gate:
    """What the three conditions found. All losses are means over seeds.

    Attributes:
        plateau: gain of the last fifth of the dense twin's training / gain of the first.
        left: gain of as much dense training again / gain of the whole training so far.
        at_steps: a mixture from scratch against its dense twin, both after the same number of steps.
        at_cost: the same, both after the same cost.
        ends: the kinds of arms whose best trial has the smallest or largest learning rate that was tried, or that had
            fewer than six.
    """

    plateau: float
    left: float
    at_steps: Verdict
    at_cost: Verdict
    ends: tuple[str, ...]

    @property
    def reasons(self) -> list[str]:
        """The conditions that fail, in words; none: the gate is open."""
        found = []
        if not self.plateau < PLATEAU:
            found.append(f"the last fifth of dense training still bought {self.plateau:.2f} of what the first bought")
        for verdict, where in ((self.at_steps, "steps"), (self.at_cost, "cost")):
            if not verdict.seen:
                found.append(f"a mixture from scratch is not seen to be better at equal {where} ({verdict.word})")
        if self.ends:
            found.append(f"the search for a recipe ended too early for: {', '.join(self.ends)}")
        return found

    @property
    def open(self) -> bool:
        """Whether all three conditions hold."""
        return not self.reasons


@functools.cache
def read(task: str) -> Gate:
    """The gate of an upcycling task, from its stored tables. Raises FileNotFoundError if one is missing."""
    return judge(tables.read_table("upcycling", f"{task}_curves"), unfinished(trial_scores(task)), arms_of(task))


def judge(curves: pd.DataFrame, ends: Sequence[str], arms: Arms = UPCYCLING) -> Gate:
    """The gate, from a table of curves; ends: see `Gate`."""
    rows = {arm: curves[curves["arm"] == arm] for arm in vars(arms).values() if isinstance(arm, str)}

    def losses(arm: str, column: str, position: float) -> np.ndarray:
        return tables.values_at(rows[arm], "loss", column, position)[arm].to_numpy()

    steps = rows[arms.dense]["extra_steps"].max()
    at = [losses(arms.dense, "extra_steps", share * steps).mean() for share in (0.0, 0.2, 0.8, 1.0)]
    longer = tables.final(rows[arms.longer], "loss").to_numpy().mean()
    found = []
    for column in ("extra_steps", "extra_cost"):
        both = [rows[arm] for arm in (arms.new_mixture, arms.new_dense)]
        place = min(run[column].max() for run in both)  # the end of the one that ends first
        found.append(statistics.compare(*(losses(run["arm"].iloc[0], column, place) for run in both), higher=False))
    plateau, left = (at[2] - at[3]) / (at[0] - at[1]), (at[3] - longer) / (at[0] - at[3])
    return Gate(plateau, left, *statistics.judge(found), tuple(ends))


# ---------------------------------------------------------------------------------------------- the trials


def trial_scores(task: str) -> pd.DataFrame:
    """`tables.trials` of a task, those of its parent first."""
    return pd.concat([tables.trials("upcycling", f"{task}_{name}") for name in arms_of(task).trials], ignore_index=True)


def unfinished(found: pd.DataFrame) -> tuple[str, ...]:
    """The kinds with fewer than six trials, or whose best one is at an end of its range, from `trial_scores`."""
    peaks = found["trial"].str.extract(r"peak ([\d.]+)")[0].astype(float)
    kinds = []
    for kind, rows in found.assign(peak=peaks).groupby("kind", sort=False):
        chosen = rows[rows["best"]]["peak"].iloc[0]
        if len(rows) < TRIALS or chosen in (rows["peak"].min(), rows["peak"].max()):
            kinds.append(str(kind))
    return tuple(kinds)
