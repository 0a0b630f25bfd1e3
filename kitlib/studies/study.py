"""The type of a study: a question, the arms that it compares, and how one arm is trained. `runner` runs it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kitlib.data import files

SEEDS = 5


@dataclass(frozen=True)
class Study:
    """One question and how it is answered.

    First `prepare(seed, folder)` makes the files that the arms of a seed share, if they are not there yet. Then
    `run_arm(arm, seed, folder)` trains one arm and returns its rows of the table, as dicts of numbers.
    """

    question: str
    setting: str  # what all arms have in common, for readers of the table
    arms: dict[str, object]  # by name; each is a dataclass that `run_arm` understands
    prepare: Callable[[int, Path], None]
    run_arm: Callable[[object, int, Path], list[dict]]
    seeds: int = SEEDS
    first_seed: int = 0  # of `seeds` seeds in a row; recipes are chosen on seeds that nothing is judged on


def kept(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of a file; if it is not there, make() makes them first, in one process, while others wait."""
    with files.locked(path.with_suffix(".lock")):
        if not path.is_file():
            files.write_npz(path, make())
    return files.read_arrays(path)


def nothing(seed: int, folder: Path) -> None:
    """The `prepare` of a study whose arms share no file, or in which the first arm that needs one makes it."""
