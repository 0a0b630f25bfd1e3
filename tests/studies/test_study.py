"""kitlib.studies.study: what every study of every paper has."""

import dataclasses

import numpy as np
import pytest

from kitlib.studies import runner, tables
from kitlib.studies.ensembles import naming
from kitlib.studies.study import SEEDS, Study, kept
from kitlib.studies.upcycling import fine_tuning


@pytest.mark.parametrize("paper", runner.PAPERS)
def test_every_study_asks_one_question_of_at_least_two_arms(paper):
    studies = runner.studies_of(paper)
    assert len({study.question for study in studies.values()}) > 1
    for name, study in studies.items():
        assert isinstance(study, Study) and name.replace("_", "").isalnum()
        assert study.question and "\n" not in study.question + study.setting
        # Recipes are chosen by one run per trial, on a seed on which nothing is judged.
        assert len(study.arms) >= 2 and (study.seeds >= SEEDS or (study.seeds, study.first_seed) == (1, 100))
        # Files of runs are named after the text of the arm, so arms that differ must read differently.
        assert all(dataclasses.is_dataclass(arm) for arm in study.arms.values())
        different = {repr(arm) for arm in study.arms.values()}
        assert len(different) == len(set(study.arms.values())), name


SIZES = {f"{kind}, width {w}": peak for w in (8, 32) for kind, peak in naming.CHOSEN_BY_WIDTH[w].items()}
DOWNSTREAM = {f"{task} {start}": peak for (task, start), peak in fine_tuning.CHOSEN.items()}


@pytest.mark.parametrize(
    ("paper", "table", "chosen", "peaks"),
    [
        ("ensembles", "naming_tuning", naming.CHOSEN, naming.PEAKS),
        ("ensembles", "naming_sizes_tuning", SIZES, naming.PEAKS),
        ("upcycling", "text_downstream_tuning", DOWNSTREAM, fine_tuning.PEAKS),
    ],
)
def test_the_chosen_rates_are_the_best_of_the_trials_and_none_is_at_an_end(paper, table, chosen, peaks):
    losses = tables.final(tables.read_table(paper, table), "loss").iloc[0]
    assert len(losses) == len(chosen) * len(peaks)
    for name, peak in chosen.items():
        own = {p: losses[f"{name}: peak {p:g}"] for p in peaks}
        assert min(own, key=own.get) == peak and min(peaks) < peak < max(peaks), name


def test_what_is_kept_is_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": np.arange(3)}

    for _ in range(2):
        np.testing.assert_array_equal(kept(tmp_path / "new" / "a.npz", make)["x"], [0, 1, 2])
    assert made == [1]
