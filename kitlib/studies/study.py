"""The type of a study, and what all studies share: files that are made once, seeds, the best of several trials.

A study compares *arms*: trained models that differ in one choice. `runner` trains every arm once per seed and writes
the table, `tables` reads it, `claims` says what it shows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kitlib.configs.arguments import one_of
from kitlib.data import files
from kitlib.studies import tables

SEEDS = 5
TRIAL_SEED = 100  # of the trials by which recipes are chosen; nothing is judged on it


def nothing(seed: int, folder: Path) -> None:
    """The `prepare` of a study whose arms share no file, or in which the first arm that needs one makes it."""


@dataclass(frozen=True)
class Study:
    """One question and how it is answered.

    First `prepare(seed, folder)` makes the files that the arms of a seed share, if they are not there yet. Then
    `run_arm(arm, seed, folder)` trains one arm and returns its rows of the table, as dicts of numbers.
    """

    question: str
    setting: str  # what all arms have in common, for readers of the table
    arms: dict[str, object]  # by name; each is a value that `run_arm` understands
    run_arm: Callable[..., list[dict]]
    prepare: Callable[[int, Path], None] = nothing
    seeds: int = SEEDS
    first_seed: int = 0  # of `seeds` seeds in a row


def trials(question: str, setting: str, arms: dict, run_arm: Callable, prepare: Callable = nothing) -> Study:
    """A study that chooses recipes: one seed, on which nothing is judged; the arms are called "kind: trial"."""
    return Study(question, setting, arms, run_arm, prepare, seeds=1, first_seed=TRIAL_SEED)


def best_trial(paper: str, name: str, kind: str) -> str:
    """The trial of a kind with the smallest loss, by a stored table of trials. Raises FileNotFoundError if there is
    none, with the command that makes it."""
    found = tables.trials(paper, name)
    one_of(f"kind in the trials of {name}", kind, set(found["kind"]))
    return found[(found["kind"] == kind) & found["best"]]["trial"].iloc[0]


def best_peak(paper: str, name: str, kind: str) -> float:
    """The learning rate of `best_trial`, where the trials are called "peak 0.016"."""
    return float(best_trial(paper, name, kind).removeprefix("peak "))


def kept(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of a file; if it is not there, make() makes them first, in one process, while others wait."""
    with files.locked(path.with_suffix(".lock")):
        if not path.is_file():
            files.write_npz(path, make())
    return files.read_arrays(path)
