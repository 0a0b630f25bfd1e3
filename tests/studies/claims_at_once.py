"""Run by test_runner in processes of its own: `kit claims lines one`, a made study that writes down what it does."""

import os
import sys
import time
from pathlib import Path

from kitlib.data import files
from kitlib.studies import runner
from kitlib.studies.study import Study

FOLDER = Path(os.environ["LINES"])


def note(text: str) -> None:
    with (FOLDER / "log").open("a") as log:
        log.write(text + "\n")


def prepare(seed, folder):
    parent = folder / f"parent-{seed}.txt"
    if parent.is_file():
        return
    note(f"begin parent {seed}")
    time.sleep(0.1)
    files.write_text(parent, f"parent {seed}")
    note(f"end parent {seed}")


def run_arm(arm, seed, folder):
    assert (folder / f"parent-{seed}.txt").read_text() == f"parent {seed}\n"
    note(f"begin {arm} {seed}")
    time.sleep(0.1)
    note(f"end {arm} {seed}")
    return [{"extra_steps": t, "loss": 10 + seed - arm * t} for t in (0, 10)]


def studies(paper):
    return {"one": lambda: Study("Is it steep?", "lines", {"dense": 0.1, "steep": 0.3}, run_arm, prepare, 3)}


runner.studies_of = studies
runner.WORK, runner.RESULTS = FOLDER / "work", FOLDER / "results"
runner.in_processes = lambda units, jobs, label: [runner.run_unit(*unit) for unit in units]

if __name__ == "__main__":
    runner.main("lines", ("one",))
    sys.exit(0)
