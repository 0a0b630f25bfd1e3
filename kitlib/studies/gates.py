"""The gate of a task: on what kind of task upcycling can be judged at all, and whether this one is of the kind.

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
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kitlib.studies import statistics, tables
from kitlib.studies.statistics import Verdict

NOT_MET = "precondition not met"
PLATEAU = 0.1  # the largest share of condition 1
TRIALS = 6  # the smallest number of condition 3
# Where the trial of a kind is scored, in parents of extra cost.
COST = {"parent": 1.0, "scratch": 1.0, "dense": 0.5, "upcycled": 0.5, "deeper": 0.5}


@dataclass(frozen=True)
class Gate:
    """What the three conditions found. All losses are means over seeds.

    Attributes:
        plateau: gain of the last fifth of the dense twin's training / gain of the first.
        left: gain of as much dense training again / gain of the whole training so far.
        at_steps: a mixture from scratch against the dense twin, both after the twin's number of steps.
        at_cost: the same, both after the twin's cost.
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
    ends = unfinished(trial_scores(task))
    return judge(tables.read_table("upcycling", f"{task}_curves"), ends)


def judge(curves: pd.DataFrame, ends: tuple[str, ...]) -> Gate:
    """The gate, from a table with the arms parent, dense and scratch (see `upcycling.tuned`); ends: see `Gate`."""
    parent = curves[curves["arm"] == "parent"]
    steps = parent["extra_steps"].max()

    def losses(arm: str, column: str, position: float) -> np.ndarray:
        rows = curves[curves["arm"] == arm]
        return tables.values_at(rows, "loss", column, position)[arm].to_numpy()

    at = [losses("parent", "extra_steps", share * steps).mean() for share in (0.0, 0.2, 0.8, 1.0)]
    longer = losses("dense", "extra_cost", 1.0).mean()
    verdicts = statistics.judge(
        [
            statistics.compare(losses("scratch", column, place), losses("parent", column, place), higher=False)
            for column, place in (("extra_steps", steps), ("extra_cost", 1.0))
        ]
    )
    return Gate((at[2] - at[3]) / (at[0] - at[1]), (at[3] - longer) / (at[0] - at[3]), *verdicts, ends)


# ---------------------------------------------------------------------------------------------- the trials


def trial_scores(name: str) -> pd.DataFrame:
    """A row per trial, from the stored tables: kind, trial, loss (of the validation split), best of its kind."""
    rows = []
    for table, prefix in ((f"{name}_parents", "parent: "), (f"{name}_tuning", "")):
        stored = tables.read_table("upcycling", table)
        for label in stored["arm"].unique():
            kind, _, trial = f"{prefix}{label}".partition(": ")
            values = tables.values_at(stored[stored["arm"] == label], "loss", "extra_cost", COST[kind])
            rows.append({"kind": kind, "trial": trial, "loss": float(values[label].iloc[0])})
    found = pd.DataFrame(rows)
    return found.assign(best=found["loss"] == found.groupby("kind")["loss"].transform("min"))


def unfinished(found: pd.DataFrame) -> tuple[str, ...]:
    """The kinds with fewer than six trials, or whose best one is at an end of its range, from `trial_scores`."""
    peaks = found["trial"].str.extract(r"peak ([\d.]+)")[0].astype(float)
    kinds = []
    for kind, rows in found.assign(peak=peaks).groupby("kind", sort=False):
        chosen = rows[rows["best"]]["peak"].iloc[0]
        if len(rows) < TRIALS or chosen in (rows["peak"].min(), rows["peak"].max()):
            kinds.append(str(kind))
    return tuple(kinds)


def best(name: str, kind: str) -> str:
    """The name of the best trial of a kind."""
    found = trial_scores(name)
    return found[(found["kind"] == kind) & found["best"]]["trial"].iloc[0]
