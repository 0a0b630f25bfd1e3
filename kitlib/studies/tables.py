"""Reading the stored tables of studies: the last evaluation of every run, or the value of a curve at some cost.

    table = read_table("upcycling", "vision_curves")       # data/results/upcycling_vision_curves.csv
    final(table, "loss")                                   # a row per seed, a column per arm

`studies.questions` compares arms.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from kitlib.data import files


def read_table(paper: str, name: str, folder: Path | None = None) -> pd.DataFrame:
    """A stored table: one row per arm, seed and evaluation.

    Raises FileNotFoundError with the command that makes the table.
    """
    path = (folder or files.data_folder() / "results") / f"{paper}_{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; make it with: kit claims {paper} {name}")
    return pd.read_csv(path, comment="#")


def final(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The last evaluation of every run: one row per seed, one column per arm, in the order of the study."""
    last = table.groupby(["seed", "arm"], sort=False)[metric].last().unstack("arm")
    return last[list(table["arm"].unique())]


def values_at(table: pd.DataFrame, metric: str, column: str, position: float) -> pd.DataFrame:
    """As `final`, but at the point where `column` (extra steps or cost) is `position`.

    Interpolated linearly between evaluations; NaN before the first and after the last.
    """
    columns = {}
    for arm, rows in table.groupby("arm", sort=False):
        runs = [run for _, run in rows.groupby("seed")]
        columns[arm] = [np.interp(position, run[column], run[metric], left=np.nan, right=np.nan) for run in runs]
    return pd.DataFrame(columns)
