"""`kit claims`: a paper's questions, answered by training at kit scale, over seeds, resumable, stored in data/results.

    kit claims upcycling                      # every study of the paper; some hours on two cores
    kit claims upcycling vision_experts       # one of them

A *study* compares *arms*; every arm is trained once for each seed, and such a run is the unit of work: its rows are
kept in build/claims as soon as it ends, so a command that was stopped goes on where it was. Runs are independent and go
to one process per core: on a CPU, models as small as these use one core each, and one program for all seeds (`vmap`)
needs 25 % more processor time. A finished study becomes a CSV table, headed by how it was made.
"""

import concurrent.futures
import dataclasses
import hashlib
import importlib
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from kitlib import checks, runner

PAPERS = ("upcycling", "ensembles", "palix")
SEEDS = 5
HIGHER = ("accuracy", "shift_accuracy", "ood_", "shots_", "calibration_auc", "disagreement", "kl")  # more is better
RESULTS = runner.ROOT / "data" / "results"
WORK = runner.ROOT / "build" / "claims"


@dataclasses.dataclass(frozen=True)
class Study:
    """One question. First `prepare(seed, folder)` makes what the arms of a seed share, if it is not there yet; then
    `run(arm, seed, folder)` trains one arm and returns rows of the table, as dicts of numbers."""

    question: str
    setting: str  # what all arms have in common, for the reader of the table
    arms: dict[str, object]  # by name; what `run` needs to know about each, a dataclass
    prepare: Callable[[int, Path], None]
    run: Callable[[object, int, Path], list[dict]]
    seeds: int = SEEDS


def main(paper: str, names: tuple[str, ...] = (), jobs: int = 0) -> None:
    """Runs the studies of one paper, all or those named, and writes their tables."""
    studies = studies_of(paper)
    for name in names:
        if name not in studies:
            raise SystemExit(f"There is no study {name!r} of {paper}; there are: {', '.join(studies)}.")
    names = names or tuple(studies)
    # By file: studies that have an arm in common, such as the dense one, share its runs.
    runs = {
        run_file(paper, studies[name], arm, seed): (paper, name, arm, seed)
        for name in names
        for arm in studies[name].arms
        for seed in range(studies[name].seeds)
    }
    todo = [unit for file, unit in runs.items() if not file.is_file()]
    print(f"{paper}: {len(runs)} runs, {len(runs) - len(todo)} of them done before")
    with runner.job_cache() as shared:
        os.environ.update({name: value for name, value in shared.items() if name not in os.environ})
        parents = {(studies[name].setting, seed): (paper, name, None, seed) for _, name, _, seed in todo}
        in_processes(list(parents.values()), jobs, f"{paper}: parents")
        in_processes(todo, jobs, paper)
    for name in names:
        print(f"wrote {write(paper, name, studies[name])}")


def in_processes(units: list[tuple], jobs: int, label: str) -> None:
    """`work(*unit)` for every unit, one process a core; a failure or Ctrl-C lets only the runs in hand finish."""
    context = multiprocessing.get_context("spawn")  # JAX does not survive a fork
    with concurrent.futures.ProcessPoolExecutor(jobs or os.cpu_count(), mp_context=context) as pool:
        futures = [pool.submit(work, *unit) for unit in units]
        try:
            for future in tqdm(concurrent.futures.as_completed(futures), total=len(futures), desc=label):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def studies_of(paper: str) -> dict[str, Study]:
    if paper not in PAPERS:
        raise SystemExit(f"There are no studies of {paper!r}; there are: {', '.join(PAPERS)}.")
    return importlib.import_module(f"kitlib.claims_{paper}").studies()


def work(paper: str, name: str, arm: str | None, seed: int) -> None:
    """One run, in a process of its own; its rows are written when it ends. arm None: what the arms of a seed share."""
    study = studies_of(paper)[name]
    if arm is None:
        return study.prepare(seed, WORK / paper)
    start = time.perf_counter()
    rows = study.run(study.arms[arm], seed, WORK / paper)
    file = run_file(paper, study, arm, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    runner.write_atomically(file, json.dumps({"arm": arm, "seconds": time.perf_counter() - start, "rows": rows}))


def run_file(paper: str, study: Study, arm: str, seed: int) -> Path:
    """Named after arm and setting: if one of them is changed, it runs again. A change of what the arms learn from or of
    how they are trained does not show here: delete build/claims then."""
    recipe = hashlib.sha256(f"{study.setting}; {study.arms[arm]}".encode()).hexdigest()
    return WORK / paper / f"{recipe[:16]}-{seed}.json"


def write(paper: str, name: str, study: Study) -> Path:
    """The table of a finished study: data/results/<paper>_<study>.csv; read it with `read`."""
    import jax

    rows, seconds = [], 0.0
    for arm in study.arms:
        for seed in range(study.seeds):
            unit = json.loads(run_file(paper, study, arm, seed).read_text())
            seconds += unit["seconds"]
            rows += [{"arm": arm, "seed": seed, **row} for row in unit["rows"]]
    machine = f"{platform.machine()}, {os.cpu_count()} CPU cores"
    head = [
        f"# {study.question}",
        f"# {study.setting}",
        f"# kit claims {paper} {name}: {study.seeds} seeds, {seconds / 60:.0f} core-minutes",
        f"# jax {jax.__version__}, python {platform.python_version()}, {machine}",
    ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{paper}_{name}.csv"
    runner.write_atomically(path, "\n".join(head) + "\n" + pd.DataFrame(rows).to_csv(index=False, float_format="%.5g"))
    return path


def read(paper: str, name: str, folder: Path | None = None) -> pd.DataFrame:
    """A stored table: a row for each arm, seed and moment of evaluation.

    Raises FileNotFoundError with the command that makes it.
    """
    from kitlib import data

    path = (folder or data.data_folder() / "results") / f"{paper}_{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; make it with: kit claims {paper} {name}")
    return pd.read_csv(path, comment="#")


def final(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The last evaluation of every run: a row for each seed, a column for each arm, in the order of the study."""
    last = table.groupby(["seed", "arm"], sort=False)[metric].last().unstack("arm")
    return last[list(table["arm"].unique())]


def at(table: pd.DataFrame, metric: str, column: str, place: float) -> pd.DataFrame:
    """As `final`, but where `column` (extra steps or cost) is `place`: linear between evaluations, then NaN."""
    found = {}
    for arm, rows in table.groupby("arm", sort=False):
        runs = [run for _, run in rows.groupby("seed")]
        found[arm] = [np.interp(place, run[column], run[metric], left=np.nan, right=np.nan) for run in runs]
    return pd.DataFrame(found)


def verdict(
    claim: str, paper: str, table: pd.DataFrame, arm: str, baseline: str, column="", place=0.0, *, metric="loss"
) -> dict:
    """What `arm` saves of the test loss against `baseline`, over pairs of the same seed, printed by `checks.better`.

    Compared where `column` is `place` (see `at`); without a column, at the end of each arm. `paper`: its own answer, in
    a word. `metric`: another column of the table; of those in HIGHER more is better, and the gain is what is saved.
    Returns a row for `plots.verdicts`: claim, paper, saved, low, high (95 % interval), verdict.
    """
    there = at(table, metric, column, place) if column else final(table, metric)
    higher = metric.startswith(HIGHER)
    found = checks.better(claim, there[arm], there[baseline], higher=higher)
    word = "seen" if found.seen else "reversed" if found.high < 0 else "not seen"
    return {"claim": claim, "paper": paper, "saved": found.mean, "low": found.low, "high": found.high, "verdict": word}
