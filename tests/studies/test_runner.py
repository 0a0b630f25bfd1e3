"""kitlib.studies.runner: runs are stored and shared, a stopped study continues, and a finished one becomes a table."""

import dataclasses
import json
import os
import random
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from kitlib.studies import runner, tables
from kitlib.studies.study import Study


@dataclasses.dataclass(frozen=True)
class Line:
    """An arm whose loss falls linearly with the steps."""

    slope: float


def prepare(seed, folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"parent-{seed}").touch()


@pytest.fixture
def line_study(tmp_path, monkeypatch):
    """(folder, studies, runs): two studies with an arm in common, and the list of their runs so far."""
    runs = []

    def run_arm(arm, seed, folder):
        assert (folder / f"parent-{seed}").is_file()
        runs.append((arm.slope, seed))
        return [{"extra_steps": t, "loss": 10 + seed - arm.slope * t} for t in (0, 10, 20)]

    def studies(paper):
        both = {"dense": Line(0.1)}
        return {
            "one": partial(Study, "Is it steep?", "lines", both | {"steep": Line(0.3)}, run_arm, prepare, 3),
            "two": partial(Study, "Is it flat?", "lines", both | {"flat": Line(0.0)}, run_arm, prepare, 3),
        }

    def in_processes(units, jobs, label):
        return [runner.run_unit(*unit) for unit in units]

    changes = {"WORK": tmp_path / "work", "RESULTS": tmp_path / "results"}
    for name, value in (changes | {"studies_of": studies, "in_processes": in_processes}).items():
        monkeypatch.setattr(runner, name, value)
    return tmp_path, studies, runs


def test_a_table_has_every_arm_seed_and_evaluation(line_study):
    folder, _, _ = line_study
    runner.main("lines", ("one",))
    text = (folder / "results" / "lines_one.csv").read_text()
    assert text.startswith("# Is it steep?\n# lines\n# kit claims lines one: 3 seeds, ")
    assert "CPU cores" in text.splitlines()[3]
    table = tables.read_table("lines", "one", folder / "results")
    assert list(table.columns) == ["arm", "seed", "extra_steps", "loss"]
    assert len(table) == 2 * 3 * 3


def test_runs_are_kept_and_shared(line_study):
    _, _, runs = line_study
    runner.main("lines", ("one",))
    assert len(runs) == 6
    runner.main("lines", ("one",))
    assert len(runs) == 6  # all of them are stored
    runner.main("lines")
    assert sorted(runs[6:]) == [(0.0, 0), (0.0, 1), (0.0, 2)]  # the dense arm has the runs of the other study


def test_a_stopped_study_goes_on(line_study, monkeypatch):
    folder, _, runs = line_study
    work = runner.run_unit

    def interrupted(*unit):
        if len(runs) == 4:
            raise KeyboardInterrupt
        work(*unit)

    monkeypatch.setattr(runner, "run_unit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runner.main("lines", ("one",))
    assert not (folder / "results").exists()
    monkeypatch.setattr(runner, "run_unit", work)
    runner.main("lines", ("one",))
    assert len(runs) == len(set(runs)) == 6


def test_the_budget_counts_runs_and_trains_none(line_study, monkeypatch, capsys):
    """By hand: three runs of 1,200 s are left, one at a time: an hour; two at a time: half of it. Before any run is
    done, the stored table says how long all of them take together: 120 core-minutes for six of them."""
    folder, _, runs = line_study
    monkeypatch.setattr(runner.tables, "table_path", lambda paper, name: folder / f"{name}.csv")

    def told(*names, jobs=1):
        runner.budget("lines", names, jobs=jobs)
        return capsys.readouterr().out

    assert "one: 6 of 6 runs are left, not measured yet\n0.0 hours in all" in told("one")
    (folder / "one.csv").write_text("# Is it steep?\n# kit claims lines one: 3 seeds, 120 core-minutes\narm,seed\n")
    assert "one: 6 of 6 runs are left, 2.0 hours\n2.0 hours in all, with 1 runs" in told("one") and not runs
    runner.main("lines", ("two",))
    for file in (folder / "work" / "lines").glob("*.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"seconds": 1200.0}))
    capsys.readouterr()
    for jobs, hours in ((1, "1.0"), (2, "0.5")):
        left = f"one: 3 of 6 runs are left, {hours} hours\ntwo: 0 of 6 runs are left, 0.0 hours\n{hours} hours"
        assert left in told(jobs=jobs)
    assert len(runs) == 6


def test_a_changed_arm_runs_again(line_study):
    _, studies, _ = line_study
    study = studies("lines")["one"]()
    other = dataclasses.replace(study, setting="steeper lines")
    files = {runner.run_file("lines", s, arm, 0) for s in (study, other) for arm in study.arms}
    assert len(files) == 4


def test_unknown_names(line_study, monkeypatch):
    with pytest.raises(SystemExit, match="Unknown study of lines 'three'"):
        runner.budget("lines", ("three",))
    with pytest.raises(SystemExit, match=r"Unknown study of lines 'three'.*Known: one, two"):
        runner.main("lines", ("three",))
    monkeypatch.undo()
    with pytest.raises(SystemExit, match=r"Unknown paper with studies 'pali'; did you mean 'palix'"):
        runner.main("pali")


def at_once(folder):
    folder.mkdir(exist_ok=True)
    script = Path(__file__).with_name("claims_at_once.py")
    return subprocess.Popen(
        [sys.executable, str(script)], env=os.environ | {"LINES": str(folder)}, stdout=subprocess.DEVNULL
    )


def without_times(path) -> list[str]:
    return [line for line in path.read_text().splitlines() if "core-minutes" not in line]


@pytest.mark.slow
def test_two_commands_at_once_share_the_work_and_survive_kills(tmp_path):
    """Two of them; one after the other is killed at a random moment and started again. In the end the table is that of
    an undisturbed command, and no run was made twice but for those that a kill had cut off."""
    assert at_once(tmp_path / "alone").wait(timeout=60) == 0
    folder, rng = tmp_path / "shared", random.Random(0)
    processes = [at_once(folder), at_once(folder)]
    for _ in range(4):
        time.sleep(rng.uniform(0.3, 1.5))
        victim = rng.randrange(2)
        processes[victim].kill()
        processes[victim].wait()
        processes[victim] = at_once(folder)
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    tables_of = [without_times(tmp_path / name / "results" / "lines_one.csv") for name in ("alone", "shared")]
    assert tables_of[0] == tables_of[1]
    events = [line.split(" ", 1) for line in (folder / "log").read_text().splitlines()]
    ended = [what for event, what in events if event == "end"]
    assert len(set(ended)) == 3 + 6 and len(ended) <= 3 + 6 + 4  # a kill can hit between the end and the file
    assert not list(folder.rglob("*.partial*"))
