"""kitlib.studies.study: what every study of every paper has."""

import dataclasses

import pytest

from kitlib.studies import runner
from kitlib.studies.study import SEEDS, Study


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
