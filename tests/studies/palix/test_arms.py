"""kitlib.studies.palix.arms: every study can run as it is written."""

import pytest

from kitlib.data import tokenizer
from kitlib.multimodal import mixtures
from kitlib.multimodal.mixtures import Mixture
from kitlib.studies import runner
from kitlib.studies.palix.arms import questions
from kitlib.studies.palix.easy_tasks import study_tasks

WORDS = tokenizer.multilingual()
PHASES = {phase for _, arms in questions().values() for arm in arms.values() for phase in arm.phases}


def test_studies_share_a_run_only_if_they_measure_the_same():
    """A run is stored under its setting, arm and seed alone, so another measure needs another setting."""
    measures = {}
    for make in runner.studies_of("palix").values():
        study = make()
        for arm in study.arms:
            for seed in runner.seeds_of(study):
                file = runner.run_file("palix", study, arm, seed).name
                assert measures.setdefault(file, study.run_arm.__qualname__) == study.run_arm.__qualname__


def test_the_arms_of_a_study_have_the_same_tests():
    """Or some of them, where each arm learns another task."""
    for name, (_, arms) in questions().items():
        columns = [{column for column, _ in arm.tests} for arm in arms.values()]
        assert all(columns) and (name in ("multitask", "counting") or all(columns[0] == other for other in columns))
        assert set.union(*columns) == columns[0] | (columns[-1] if name == "counting" else set())


@pytest.mark.slow
@pytest.mark.parametrize("phase", sorted(PHASES, key=str), ids=lambda phase: f"{phase.tasks[0][0]}-{phase.num_images}")
def test_every_phase_makes_batches(phase):
    mixture = Mixture({name: study_tasks()[name] for name, _ in phase.tasks}, dict(phase.tasks), 0)
    group = mixtures.Group(mixture, 4, phase.num_images, phase.prompt_length, phase.target_length, phase.image_size)
    shares = mixtures.shares_that_fit(group, WORDS, count=100)
    assert min(shares.values()) >= 0.97, shares  # 0.99 of all; of 100 it may be less by chance
    batch = mixtures.group_batch(group, WORDS, 0)
    assert batch["images"].shape == (4, phase.num_images, phase.image_size, phase.image_size, 3)
    assert (batch["weights"].sum(axis=1) > 0).all()


def test_the_arms_of_a_study_see_as_many_examples():
    """Of "counting" and "mixture" the last phase is what is compared; "multitask" has four times those of one task."""

    def seen(arm, phases=slice(None)):
        return sum(phase.steps * phase.rows for phase in arm.phases[phases])

    for name, (_, arms) in questions().items():
        if name not in ("counting", "mixture", "multitask"):
            assert len({seen(arm) for arm in arms.values()}) == 1, name
    arms = questions()["mixture"][1].values()
    assert len({seen(arm, slice(-1, None)) for arm in arms}) == 1
    assert len({seen(arm, slice(-1)) for arm in arms if len(arm.phases) > 1}) == 1
    together, *alone = questions()["multitask"][1].values()
    assert {seen(together) / 4} == {seen(arm) for arm in alone}
