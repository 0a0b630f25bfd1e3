"""kitlib.studies.study: what every study of every paper has; recipes from trials; files that are made once."""

import numpy as np
import pytest

from kitlib.studies import runner, study, tables
from kitlib.studies.study import SEEDS, Study, best_peak, best_trial, kept


@pytest.mark.parametrize("paper", runner.PAPERS)
def test_every_study_asks_one_question_of_at_least_two_arms(paper):
    studies = {name: make() for name, make in runner.studies_of(paper).items()}
    assert len({study.question for study in studies.values()}) > 1
    for name, one in studies.items():
        assert isinstance(one, Study) and name.replace("_", "").isalnum()
        assert one.question and "\n" not in one.question + one.setting
        # Recipes are chosen by one run per trial, on a seed on which nothing is judged.
        assert len(one.arms) >= 2
        assert (one.seeds, one.first_seed) == (1, 100) if has_trials(name) else one.seeds >= SEEDS
        # Files of runs are named after the text of the arm, so arms that differ must read differently.
        different = {repr(arm) for arm in one.arms.values()}
        assert len(different) == len(set(one.arms.values())), name


def has_trials(name: str) -> bool:
    return name.endswith(("_parents", "_tuning")) and name != "ocr_tuning"


TRIALS = [(paper, name) for paper in runner.PAPERS for name in runner.PAPERS[paper] if has_trials(name)]


@pytest.mark.parametrize(("paper", "name"), TRIALS)
def test_the_stored_trials_are_those_of_the_study_and_no_best_one_is_at_an_end(paper, name):
    found = tables.trials(paper, name)
    labels = (found["kind"] + ": " + found["trial"]).str.removeprefix("parent: ")
    assert set(labels) == set(runner.PAPERS[paper][name]().arms)
    peaks = found["trial"].str.extract(r"peak ([\d.]+)")[0].astype(float)
    for kind, own in peaks.groupby(found["kind"]):
        assert own.min() < own[found["best"]].item() < own.max(), kind


def test_the_best_trial_by_hand(tmp_path, monkeypatch):
    lines = ["arm,seed,loss", "a: peak 0.1,100,2.0", "a: peak 0.2,100,3.0", "a: peak 0.2,100,1.5", "b: peak 0.4,100,9"]
    (tmp_path / "upcycling_x_tuning.csv").write_text("\n".join([*lines, ""]))
    monkeypatch.setattr(study.tables, "table_path", lambda paper, name, folder=None: tmp_path / f"{paper}_{name}.csv")
    assert best_trial("upcycling", "x_tuning", "a") == "peak 0.2"  # 1.5 at its end, not 2.0
    assert best_peak("upcycling", "x_tuning", "b") == 0.4
    with pytest.raises(ValueError, match="Unknown kind in the trials of x_tuning 'c'"):
        best_trial("upcycling", "x_tuning", "c")


def test_without_trials_one_sentence_says_which_command_makes_them(monkeypatch):
    monkeypatch.setitem(runner.PAPERS["palix"], "new", lambda: best_trial("palix", "new_tuning", "all"))
    with pytest.raises(SystemExit, match=r"new takes its recipes from trials: .*kit claims palix new_tuning"):
        runner.main("palix", ("new",))


def test_what_is_kept_is_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": np.arange(3)}

    for _ in range(2):
        np.testing.assert_array_equal(kept(tmp_path / "new" / "a.npz", make)["x"], [0, 1, 2])
    assert made == [1]
