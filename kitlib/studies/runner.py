"""`kit claims`: a paper's questions, answered by training at kit scale, over seeds, resumable, stored in data/results.

    kit claims upcycling                      # every study of the paper; some hours on two cores
    kit claims upcycling pictures_experts     # one of them
    kit claims upcycling --budget             # nothing is trained; how long would it take?

A *study* compares *arms*; every arm is trained once per seed. Such a run is the unit of work: its rows are stored in
build/claims as soon as it ends, so a command that was stopped continues where it was. Runs are independent, and every
core runs one process: on a CPU, models of this size use one core each, and one program for all seeds (`vmap`) needs
25 % more processor time. A finished study becomes a CSV table, whose first lines say how it was made.
"""

import concurrent.futures
import json
import math
import multiprocessing
import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from kitlib.configs.arguments import one_of
from kitlib.data import files
from kitlib.studies import tables
from kitlib.studies.ensembles import from_scratch, naming
from kitlib.studies.palix import arms, rare, sizes
from kitlib.studies.study import Study
from kitlib.studies.upcycling import ablations, fine_tuning, real_parent, real_probes, recall_memory
from kitlib.training import process

# The studies of a paper: by name, what makes one. Those with a recipe that was chosen read the table of its trials when
# they are made, so the order is that in which they can be run.
PAPERS: dict[str, dict[str, Callable[[], Study]]] = {
    "upcycling": {
        **real_probes.STUDIES,
        **real_parent.STUDIES,
        **ablations.STUDIES,
        **fine_tuning.STUDIES,
        **recall_memory.STUDIES,
    },
    "ensembles": from_scratch.STUDIES | naming.STUDIES,
    "palix": arms.STUDIES | sizes.STUDIES | rare.STUDIES,
}
RESULTS = files.writable("data/results")
WORK = files.writable("build/claims")


def main(paper: str, names: tuple[str, ...] = (), jobs: int = 0) -> None:
    """Runs the studies of one paper, all or the named ones, one after the other, and writes their tables."""
    settings = process.kept_cache()
    os.environ.update({name: value for name, value in settings.items() if name not in os.environ})
    for name in _names(paper, names):
        study = _made(paper, name)
        runs = _runs(paper, name, study)
        todo = [unit for file, unit in runs.items() if not file.is_file()]
        print(f"{paper} {name}: {len(runs)} runs, {len(runs) - len(todo)} of them done before")
        if todo:
            seeds = dict.fromkeys(seed for *_, seed in todo)
            in_processes([(paper, name, None, seed) for seed in seeds], jobs, f"{name}: parents")
            in_processes(todo, jobs, name)
        print(f"wrote {write_table(paper, name, study)}")


def budget(paper: str, names: tuple[str, ...] = (), jobs: int = 0) -> None:
    """Prints how many runs the studies still need, and how many hours, and trains nothing.

    A run takes as long as those that are done here, or else as those of the kit's stored table. What the arms of a
    seed share, such as a parent, is trained once more per seed and not counted.
    """
    jobs, rest = jobs or os.cpu_count(), 0.0
    for name in _names(paper, names):
        runs = _runs(paper, name, _made(paper, name))
        done = [json.loads(file.read_text())["seconds"] for file in runs if file.is_file()]
        seconds = sum(done) / len(done) if done else _stored_seconds(paper, name) / len(runs)
        left = len(runs) - len(done)
        hours = left * seconds / 3600 / jobs if left else 0.0  # unknown stays NaN
        rest += 0.0 if math.isnan(hours) else hours
        how_long = "not measured yet" if math.isnan(hours) else f"{hours:.1f} hours"
        print(f"{name}: {left} of {len(runs)} runs are left, {how_long}")
    print(f"{rest:.1f} hours in all, with {jobs} runs at a time; runs that studies share are counted in each")


def _stored_seconds(paper: str, name: str) -> float:
    """What all runs of a study took when its table was made, in seconds on one core; NaN without a table."""
    try:
        head = tables.table_path(paper, name).read_text()
    except FileNotFoundError:
        return math.nan
    return 60 * float(re.search(r"^# kit claims .* (\d+) core-minutes$", head, re.MULTILINE)[1])


def _names(paper: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The named studies of a paper; all, if none is named. An unknown name ends the program with a message."""
    known = studies_of(paper)
    for name in names:
        one_of(f"study of {paper}", name, known, SystemExit)
    return names or tuple(known)


def _made(paper: str, name: str) -> Study:
    """A study. Without the table of the trials that it depends on, the program ends with the command that makes it."""
    try:
        return studies_of(paper)[name]()
    except FileNotFoundError as error:
        raise SystemExit(f"{name} takes its recipes from trials: {error}") from None


def _runs(paper: str, name: str, study: Study) -> dict[Path, tuple]:
    """The units of work, by the file of their rows: studies that have an arm in common, such as the dense one, share
    its runs."""
    return {
        run_file(paper, study, arm, seed): (paper, name, arm, seed) for arm in study.arms for seed in seeds_of(study)
    }


def seeds_of(study: Study) -> range:
    """The seeds with which every arm is trained."""
    return range(study.first_seed, study.first_seed + study.seeds)


def in_processes(units: list[tuple], jobs: int, label: str) -> None:
    """`run_unit(*unit)` for every unit, one process per core. After a failure or Ctrl-C no further runs are started."""
    context = multiprocessing.get_context("spawn")  # JAX does not survive a fork
    with concurrent.futures.ProcessPoolExecutor(jobs or os.cpu_count(), mp_context=context) as pool:
        futures = [pool.submit(run_unit, *unit) for unit in units]
        try:
            for future in tqdm(concurrent.futures.as_completed(futures), total=len(futures), desc=label):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def studies_of(paper: str) -> dict[str, Callable[[], Study]]:
    """What makes the studies of a paper, by name. An unknown paper ends the program with a message."""
    one_of("paper with studies", paper, PAPERS, SystemExit)
    return PAPERS[paper]


def run_unit(paper: str, name: str, arm: str | None, seed: int) -> None:
    """One run, in its own process; its rows are written when it ends. arm None: the preparation for a seed's arms.

    Several commands at once share the work: a run that another one is at is waited for, not made twice.
    """
    study, folder = studies_of(paper)[name](), WORK / paper
    if arm is None:
        with files.locked(folder / f"{files.recipe_hash(study.setting)}-{seed}.lock"):
            return study.prepare(seed, folder)
    file = run_file(paper, study, arm, seed)
    with files.locked(file.with_suffix(".lock")):
        if file.is_file():  # another command has made it meanwhile
            return
        start = time.perf_counter()
        rows = study.run_arm(study.arms[arm], seed, folder)
        files.write_text(file, json.dumps({"arm": arm, "seconds": time.perf_counter() - start, "rows": rows}))


def run_file(paper: str, study: Study, arm: str, seed: int) -> Path:
    """The file of one run, named after arm and setting: if one of them changes, the arm runs again.

    Changes of the data or of the training code do not change the name: delete build/claims after them.
    """
    recipe = files.recipe_hash(f"{study.setting}; {study.arms[arm]}")
    return WORK / paper / f"{recipe}-{seed}.json"


def write_table(paper: str, name: str, study: Study) -> Path:
    """Writes the table of a finished study, data/results/<paper>_<study>.csv; `tables.read_table` reads it."""
    import jax

    rows, seconds = [], 0.0
    for arm in study.arms:
        for seed in seeds_of(study):
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
    files.write_text(path, "\n".join(head) + "\n" + pd.DataFrame(rows).to_csv(index=False, float_format="%.5g"))
    with files.locked(WORK / "checksums.lock"):  # other commands may write their tables
        files.note_checksum(path)
    return path
