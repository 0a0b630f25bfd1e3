"""kitlib.studies.upcycling.ablations: every study has its arms."""

import pytest

from kitlib.studies import runner
from kitlib.studies.upcycling import setups
from kitlib.upcycling import surgery

STUDIES = runner.studies_of("upcycling")


def test_every_question_has_its_arms():
    for name, make in STUDIES.items():
        study = make()
        assert (study.seeds == 1) if name.endswith(("_parents", "_tuning")) else (study.seeds >= 5)
        assert len(set(map(repr, study.arms.values()))) == len(study.arms), name  # no arm occurs twice
        for arm in () if name.startswith(("real_", "text_down")) else study.arms.values():  # these have their own tests
            if arm.start not in ("scratch", "E3"):  # some new models are dense: tuned parents, wider ones
                assert bool(surgery.moe_layers(arm.config)) == (arm.start == "upcycled"), name
    tasks = {name.split("_")[0] for name in STUDIES}
    assert tasks == {"real", "recall", "text", "pictures", "pictures8", "pictures32"}


def test_headlines_have_ten_seeds_and_arms_that_end_at_their_cost():
    study, task = STUDIES["recall_curves"](), setups.recall()
    assert study.seeds >= 10
    costs = {name: arm.steps * task.relative_cost(arm.config) / task.parent_steps for name, arm in study.arms.items()}
    step = 1.5 / task.parent_steps
    assert costs == pytest.approx({"parent": 1, "dense": 1, "upcycled": 1, "scratch": 2, "deeper": 1}, abs=step)
    for name, arm in study.arms.items():
        assert arm.recipe == task.recipe(name)
