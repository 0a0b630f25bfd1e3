import dataclasses

import numpy as np
import pytest

from kitlib import claims, claims_tasks, claims_upcycling, upcycle


@dataclasses.dataclass(frozen=True)
class Line:
    """An arm whose loss falls with the steps."""

    slope: float


def no_parents(seed, folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"parent-{seed}").touch()


@pytest.fixture
def line_study(tmp_path, monkeypatch):
    """Two studies with an arm in common, in a folder of their own; the third value counts the runs."""
    runs = []

    def run(arm, seed, folder):
        assert (folder / f"parent-{seed}").is_file()
        runs.append((arm.slope, seed))
        return [{"extra_steps": t, "loss": 10 + seed - arm.slope * t} for t in (0, 10, 20)]

    def studies(paper):
        both = {"dense": Line(0.1)}
        return {
            "one": claims.Study("Is it steep?", "lines", both | {"steep": Line(0.3)}, no_parents, run, seeds=3),
            "two": claims.Study("Is it flat?", "lines", both | {"flat": Line(0.0)}, no_parents, run, seeds=3),
        }

    monkeypatch.setattr(claims, "studies_of", studies)
    monkeypatch.setattr(claims, "WORK", tmp_path / "work")
    monkeypatch.setattr(claims, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(claims, "in_processes", lambda units, jobs, label: [claims.work(*unit) for unit in units])
    return tmp_path, studies, runs


def test_a_table_has_every_arm_seed_and_moment(line_study):
    folder, _, _ = line_study
    claims.main("lines", ("one",))
    text = (folder / "results" / "lines_one.csv").read_text()
    assert text.startswith("# Is it steep?\n# lines\n# kit claims lines one: 3 seeds, ")
    assert "CPU cores" in text.splitlines()[3]
    table = claims.read("lines", "one", folder / "results")
    assert list(table.columns) == ["arm", "seed", "extra_steps", "loss"]
    assert len(table) == 2 * 3 * 3
    last = claims.final(table, "loss")
    assert list(last.columns) == ["dense", "steep"]  # the order of the study, not the alphabet's
    np.testing.assert_allclose(last["steep"], [4.0, 5.0, 6.0])  # 10 + seed - 0.3 * 20
    between = claims.at(table, "loss", "extra_steps", 15)
    np.testing.assert_allclose(between["dense"], [8.5, 9.5, 10.5])
    assert claims.at(table, "loss", "extra_steps", 21).isna().all(axis=None)


def test_runs_are_kept_and_shared(line_study):
    _, _, runs = line_study
    claims.main("lines", ("one",))
    assert len(runs) == 6
    claims.main("lines", ("one",))
    assert len(runs) == 6  # all done before
    claims.main("lines")
    assert sorted(runs[6:]) == [(0.0, 0), (0.0, 1), (0.0, 2)]  # the dense arm is the other study's


def test_a_stopped_study_goes_on(line_study, monkeypatch):
    folder, _, runs = line_study
    work = claims.work

    def interrupted(*unit):
        if len(runs) == 4:
            raise KeyboardInterrupt
        work(*unit)

    monkeypatch.setattr(claims, "work", interrupted)
    with pytest.raises(KeyboardInterrupt):
        claims.main("lines", ("one",))
    assert not (folder / "results").exists()
    monkeypatch.setattr(claims, "work", work)
    claims.main("lines", ("one",))
    assert len(runs) == 6
    assert len(set(runs)) == 6


def test_a_changed_arm_runs_again(line_study):
    _, studies, _ = line_study
    study = studies("lines")["one"]
    other = dataclasses.replace(study, setting="steeper lines")
    files = {claims.run_file("lines", s, arm, 0) for s in (study, other) for arm in study.arms}
    assert len(files) == 4


def test_verdicts_are_paired(line_study, capsys):
    folder, _, _ = line_study
    claims.main("lines", ("one",))
    table = claims.read("lines", "one", folder / "results")
    capsys.readouterr()
    # Losses at the end are 10 + seed - 20 slope: the steep arm saves (0.3 - 0.1) * 20 = 4 for every seed.
    row = claims.verdict("steep beats dense", "yes", table, "steep", "dense")
    assert row.pop("verdict") == "seen"
    assert [row.pop(name) for name in ("claim", "paper")] == ["steep beats dense", "yes"]
    assert list(row.values()) == pytest.approx([4.0, 4.0, 4.0])
    half_way = claims.verdict("dense beats steep", "no", table, "dense", "steep", "extra_steps", 10)
    assert half_way["saved"] == pytest.approx(-2.0) and half_way["verdict"] == "reversed"
    assert claims.verdict("dense beats itself", "no", table, "dense", "dense")["verdict"] == "not seen"
    # The same numbers as an accuracy, of which more is better: the gain of the steep arm is -4.
    renamed = table.rename(columns={"loss": "shift_accuracy"})
    other = claims.verdict("steep beats dense", "yes", renamed, "steep", "dense", metric="shift_accuracy")
    assert other["saved"] == pytest.approx(-4.0) and other["verdict"] == "reversed"
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "[seen] steep beats dense (3 paired seeds, 95 % interval above 0)"
    assert printed[1].startswith("[reversed] dense beats steep")


def test_unknown_names(line_study, monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="no study 'three' of lines; there are: one, two"):
        claims.main("lines", ("three",))
    with pytest.raises(FileNotFoundError, match="kit claims upcycling vision_nothing"):
        claims.read("upcycling", "vision_nothing", tmp_path)
    monkeypatch.undo()
    with pytest.raises(SystemExit, match="no studies of 'pali'"):
        claims.main("pali")


# ---------------------------------------------------------------------------------------------- upcycling


def short(task):
    return dataclasses.replace(task, parent_steps=4, name=f"short {task.name}")


@pytest.mark.parametrize("task", [claims_tasks.vision, claims_tasks.language], ids=["vision", "language"])
def test_arms_start_at_the_parent(task, tmp_path, monkeypatch):
    """One step each from a parent of four: at step 0 dense and upcycled agree where nothing is lost (C = E)."""
    quick, small = short(task()), 2
    sparse = quick.sparse(quick.dense, num_experts=small, capacity_factor=2.0, renormalize=True)
    claims_upcycling.prepare(lambda: quick, 0, tmp_path)
    arms = {
        "dense": claims_upcycling.Arm(quick.dense, "dense", 1),
        "half": claims_upcycling.Arm(quick.dense, "dense", 1, parent=0.5),
        "upcycled": claims_upcycling.Arm(sparse, "upcycled", 1),
        "deeper": claims_upcycling.Arm(claims_upcycling._deeper(quick.dense), "deeper", 1, moments="restart"),
        "scratch": claims_upcycling.Arm(sparse, "scratch", 1),
    }
    rows = {name: claims_upcycling.run(lambda: quick, arm, 0, tmp_path) for name, arm in arms.items()}
    for name, (first, last) in rows.items():
        assert (first["extra_steps"], last["extra_steps"], first["extra_cost"]) == (0, 1, 0.0)
        assert np.isfinite(last["loss"])
        assert (abs(last["loss"] - first["loss"]) > 1e-6) == (name != "scratch"), name  # its rate is still 0
    assert rows["dense"][1]["extra_cost"] == 0.25  # one step of four
    assert rows["upcycled"][1]["extra_cost"] > 0.25
    # The decoder's top-2 of 2 experts at capacity factor 1 may drop a token, hence no exact equality for text.
    tol = 1e-4 if task is claims_tasks.vision else 2e-2
    assert rows["upcycled"][0]["loss"] == pytest.approx(rows["dense"][0]["loss"], abs=tol)
    assert rows["half"][0]["loss"] > rows["dense"][0]["loss"]
    np.testing.assert_equal(claims_upcycling.run(lambda: quick, arms["upcycled"], 0, tmp_path), rows["upcycled"])


def test_every_question_has_its_arms():
    for name, study in claims_upcycling.studies().items():
        assert study.seeds >= 5
        assert len(set(map(repr, study.arms.values()))) == len(study.arms), name  # no arm twice
        for arm in study.arms.values():
            sparse = bool(upcycle.moe_layers(arm.config))
            assert sparse == (arm.start in ("upcycled", "scratch"))
    assert {name.split("_")[0] for name in claims_upcycling.studies()} == {"vision", "language"}


def test_stored_tables_are_whole():
    """Every table in data/results that a study made: all arms and seeds, finite numbers, and how it was made."""
    stored = sorted(path for path in claims.RESULTS.glob("*.csv") if path.stem.startswith(claims.PAPERS))
    wanted = {f"upcycling_vision_{name}" for name in ("curves", "experts", "init")}
    wanted |= {f"palix_{name}" for name in claims.studies_of("palix")}
    assert wanted <= {path.stem for path in stored}
    for path in stored:
        paper, name = path.stem.split("_", 1)
        study, table = claims.studies_of(paper)[name], claims.read(paper, name)
        assert list(table["arm"].unique()) == list(study.arms), name
        assert table.groupby("arm")["seed"].nunique().eq(study.seeds).all(), name
        for arm, rows in table.groupby("arm"):
            tests = [f": {column}" for column, _ in study.arms[arm].tests] if paper == "palix" else [""]
            measured = [f"{what}{test}" for test in tests for what in ("accuracy", "loss")]
            assert np.isfinite(rows[measured]).all(axis=None), (name, arm)
        head = path.read_text().splitlines()[:4]
        assert head[0] == f"# {study.question}" and head[1] == f"# {study.setting}"
        assert head[2].startswith(f"# kit claims {paper} {name}: {study.seeds} seeds")
