"""kitlib.studies.tables: stored tables are read, and curves are interpolated; all tables of the kit are complete."""

import numpy as np
import pandas as pd
import pytest

from kitlib.data import files
from kitlib.studies import claims, runner, tables


def line_table() -> pd.DataFrame:
    """Losses of 10 + seed - slope * steps, for two arms and three seeds."""
    lines = [(arm, seed, t, slope) for arm, slope in (("dense", 0.1), ("a steep one", 0.3)) for seed in range(3)
             for t in (0, 10, 20)]  # fmt: skip
    rows = [(arm, seed, t, 10 + seed - slope * t) for arm, seed, t, slope in lines]
    return pd.DataFrame(rows, columns=["arm", "seed", "extra_steps", "loss"])


def test_values_at_the_last_evaluation_and_between():
    last = tables.final(line_table(), "loss")
    assert list(last.columns) == ["dense", "a steep one"]  # in the order of the study, not of the alphabet
    np.testing.assert_allclose(last["a steep one"], [4.0, 5.0, 6.0])  # 10 + seed - 0.3 * 20
    between = tables.values_at(line_table(), "loss", "extra_steps", 15)
    np.testing.assert_allclose(between["dense"], [8.5, 9.5, 10.5])
    assert tables.values_at(line_table(), "loss", "extra_steps", 21).isna().all(axis=None)


def test_where_a_curve_reaches_a_level():
    # Losses of 10 - 0.1 x and 10 - 0.3 x (seed 0): 9 is reached at 10 and at 3.33; 7 by the steep one only, at 10.
    table = line_table()
    assert tables.reached(table, "loss", "extra_steps", 9.0).loc[0].tolist() == pytest.approx([10.0, 10 / 3])
    assert tables.reached(table, "loss", "extra_steps", 7.0).loc[0].tolist() == [np.inf, 10.0]
    assert tables.reached(table, "loss", "extra_steps", 12.0).loc[0].tolist() == [0.0, 0.0]  # from the start
    own = tables.final(table, "loss")["dense"]  # each seed's own level, which dense reaches at its end
    assert tables.reached(table, "loss", "extra_steps", own)["dense"].tolist() == [20.0] * 3
    np.testing.assert_allclose(tables.reached(table, "loss", "extra_steps", own)["a steep one"], 20 / 3)


GOOD = b'# How?\n# kit claims text one\narm,seed,loss\ndense,0,1.5\n"steep, or not",0,2.25\n'


@pytest.mark.parametrize(
    "content",
    [
        b"", b"arm,seed,loss\n", b"<!DOCTYPE html>\n<html><body>404</body></html>\n", bytes(range(256)),
        GOOD[:-3],  # 2.25 would become 2.
        GOOD[:-6] + b"\n", GOOD.replace(b'not"', b"not"), GOOD.replace(b"seed", b"loss"),
        GOOD.replace(b'"', b""),  # an arm with a comma
    ],
)  # fmt: skip
def test_files_that_are_no_tables_are_refused(content, tmp_path):
    path = tmp_path / "text_one.csv"
    path.write_bytes(GOOD)
    assert tables.read_table("text", "one", tmp_path)["arm"].tolist() == ["dense", "steep, or not"]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"text_one\.csv is no table of a study .*kit claims text one") as caught:
        tables.read_table("text", "one", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_table_and_one_that_lost_whole_rows(tmp_path):
    assert tables.is_stored("palix", "frames") and not tables.is_stored("palix", "frame")
    with pytest.raises(FileNotFoundError, match="kit claims upcycling pictures_nothing"):
        tables.read_table("upcycling", "pictures_nothing", tmp_path)
    path = tmp_path / "text_one.csv"
    path.write_bytes(GOOD)
    files.note_checksum(path)
    assert len(tables.read_table("text", "one", tmp_path)) == 2
    path.write_bytes(b"\n".join(GOOD.split(b"\n")[:-2]) + b"\n")
    with pytest.raises(ValueError, match=r"text_one\.csv is damaged or was changed"):
        tables.read_table("text", "one", tmp_path)


def test_unknown_columns_name_the_nearest():
    for function, words in (
        (tables.final, ["los"]), (tables.values_at, ["los", "extra_steps", 1.0]),
        (tables.values_at, ["loss", "extra_step", 1.0]), (tables.reached, ["loss", "extra_step", 1.0]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"Unknown column of the table .*did you mean '(loss|extra_steps)'"):
            function(line_table(), *words)


def test_stored_tables_are_whole():
    """Every table of a study in data/results has all arms and seeds, finite numbers, and the lines that say how it was
    made."""
    stored = sorted(path for path in runner.RESULTS.glob("*.csv") if path.stem.startswith(tuple(runner.PAPERS)))
    tuned = ("recall", "text", "pictures")
    expected = {f"upcycling_{task}_{name}" for task in tuned for name in ("parents", "tuning", "curves")}
    expected |= {f"{paper}_{q.table}" for paper in runner.PAPERS for q in claims.questions_of(paper)}
    expected |= {"ensembles_naming_tuning", "palix_sizes_tuning", "palix_sizes_towers_tuning"}
    expected |= {f"upcycling_real_{name}" for name in ("probes", "tuning")}
    assert expected <= {path.stem for path in stored}
    trials = ("naming_tuning", "naming_sizes_tuning", "sizes_tuning", "sizes_towers_tuning")
    alone = {"real_probes": ["accuracy"], **{name: ["loss"] for name in trials}}  # all others have both
    for path in stored:
        paper, name = path.stem.split("_", 1)
        study, table = runner.studies_of(paper)[name](), tables.read_table(paper, name)
        assert list(table["arm"].unique()) == list(study.arms), name
        for arm, rows in table.groupby("arm"):
            assert sorted(rows["seed"].unique()) == [*runner.seeds_of(study)], (name, arm)
            named = paper == "palix" and name not in alone
            tests = [f": {column}" for column, _ in study.arms[arm].tests] if named else [""]
            measured = [f"{metric}{test}" for test in tests for metric in alone.get(name, ["accuracy", "loss"])]
            assert np.isfinite(rows[measured]).all(axis=None), (name, arm)
        head = path.read_text().splitlines()[:4]
        assert head[0] == f"# {study.question}" and head[1] == f"# {study.setting}"
        assert head[2].startswith(f"# kit claims {paper} {name}: {study.seeds} seeds")
