"""Reading the stored tables of studies: the last evaluation of every run, or the value of a curve at some cost.

    table = read_table("upcycling", "recall_curves")       # data/results/upcycling_recall_curves.csv
    final(table, "loss")                                   # a row per seed, a column per arm
    reached(table, "loss", "extra_cost", 1.2)              # the same: where each curve gets there

`studies.claims` compares arms.
"""

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd

from kitlib.configs.arguments import one_of
from kitlib.data import files


def read_table(paper: str, name: str, folder: Path | None = None) -> pd.DataFrame:
    """A stored table: one row per arm, seed and evaluation. Arguments and errors: as `table_path`; ValueError for a
    file that is none: its checksum, if the folder has one, is another, or its rows are cut, ragged or not of runs."""
    path = table_path(paper, name, folder)
    note = path.with_name("checksums.txt")
    listed = note.is_file() and path.name in note.read_text(errors="replace").split()
    content = files.read_checked(path.parent, path.name) if listed else path.read_bytes()
    try:
        lines = [line for line in io.StringIO(content.decode()) if not line.startswith("#")]
        if not content.endswith(b"\n"):
            raise ValueError("its last line is cut")
        rows = list(csv.reader(lines, strict=True))
        width = len({*rows[0]})
        if not {"arm", "seed"} < {*rows[0]} or not rows[1:] or any(len(row) != width for row in rows):
            raise ValueError("expected columns arm, seed and others, and rows of as many values")
        return pd.read_csv(io.StringIO("".join(lines)))
    except (ValueError, IndexError, csv.Error) as error:
        raise ValueError(f"{path} is no table of a study ({error}); make it with: kit claims {paper} {name}") from error


def table_path(paper: str, name: str, folder: Path | None = None) -> Path:
    """The file of a stored table.

    folder: where it is; None: a table of one's own (`files.writable`), if there is one, else the kit's.

    Raises FileNotFoundError with the command that makes the table.
    """
    own = files.writable("data/results") / f"{paper}_{name}.csv"
    path = folder / own.name if folder else own if own.is_file() else files.data_folder() / "results" / own.name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; make it with: kit claims {paper} {name}")
    return path


def is_stored(paper: str, name: str) -> bool:
    """Whether there is a table of a study."""
    try:
        return bool(table_path(paper, name))
    except FileNotFoundError:
        return False


def trials(paper: str, name: str) -> pd.DataFrame:
    """A row per trial of a stored table of trials: kind, trial, loss (at the end), best (of its kind; of equal ones the
    first). Its arms are called "kind: trial"; those of a table of parents are all of the kind "parent"."""
    losses = final(read_table(paper, name), "loss").iloc[0]
    labels = [(f"parent: {arm}" if name.endswith("_parents") else str(arm)).partition(": ") for arm in losses.index]
    found = pd.DataFrame(
        {"kind": [kind for kind, _, _ in labels], "trial": [t for _, _, t in labels], "loss": losses.to_numpy(float)}
    )
    return found.assign(best=found.index.isin(found.groupby("kind")["loss"].idxmin()))


def final(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The last evaluation of every run: one row per seed, one column per arm, in the order of the study."""
    one_of("column of the table", metric, table.columns)
    last = table.groupby(["seed", "arm"], sort=False)[metric].last().unstack("arm")
    return last[list(table["arm"].unique())]


def values_at(table: pd.DataFrame, metric: str, column: str, position: float) -> pd.DataFrame:
    """As `final`, but at the point where `column` (extra steps or cost) is `position`.

    Interpolated linearly between evaluations; NaN before the first and after the last.
    """
    columns = {}
    for name in (metric, column):
        one_of("column of the table", name, table.columns)
    for arm, rows in table.groupby("arm", sort=False):
        runs = [run for _, run in rows.groupby("seed")]
        columns[arm] = [np.interp(position, run[column], run[metric], left=np.nan, right=np.nan) for run in runs]
    return pd.DataFrame(columns)


def reached(table: pd.DataFrame, metric: str, column: str, level: float | pd.Series) -> pd.DataFrame:
    """The first point (of `column`) at which each run's `metric`, a loss, is at most `level`; infinity if it never is.

    Interpolated linearly between evaluations. level: one number, or one per seed (index: the seeds). In this unit the
    paper states its speed-ups: the cost that dense training needs for the quality of another model.
    """
    columns = {}
    for name in (metric, column):
        one_of("column of the table", name, table.columns)
    for arm, rows in table.groupby("arm", sort=False):
        columns[arm] = {
            seed: _first(run[column].to_numpy(), run[metric].to_numpy(), level if np.isscalar(level) else level[seed])
            for seed, run in rows.groupby("seed")
        }
    return pd.DataFrame(columns)


def _first(x: np.ndarray, y: np.ndarray, level: float) -> float:
    below = np.flatnonzero(y <= level)
    if not below.size:
        return np.inf
    i = below[0]
    if i == 0:
        return float(x[0])
    share = (y[i - 1] - level) / (y[i - 1] - y[i])  # y falls from above the level to it or below
    return float(x[i - 1] + share * (x[i] - x[i - 1]))
