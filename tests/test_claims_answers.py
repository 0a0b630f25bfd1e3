import numpy as np
import pytest

from kitlib import claims_answers, corruptions, data


def test_answers_are_measured(few_questions):
    """Two members, answers made by hand: the first is always sure and right, the second knows nothing."""
    labels = data.load("fashion_mnist", "test").arrays()[1]
    shifted = np.tile(labels[:2], 15 * 5)

    def logits(truth):
        return np.stack([20.0 * np.eye(10)[truth], np.zeros((len(truth), 10))]).astype(np.float32)

    rng = np.random.default_rng(0)
    _, few_labels, _, asked_labels = claims_answers.probe_task()
    answers = {"test": logits(labels), "corrupted": logits(shifted)}
    answers["test"][:, 0] = -answers["test"][:, 0]  # one wrong answer, or no calibration AUC exists
    answers |= {name: np.zeros((2, 3, 10), np.float32) for name in claims_answers.OOD_SETS}
    far = np.eye(10)[few_labels] + rng.normal(scale=0.01, size=(len(few_labels), 10))
    answers["few"], answers["asked"] = (np.stack([x, x]) for x in (far, np.eye(10)[asked_labels]))
    row = claims_answers.measure(answers)
    n = len(labels)
    assert row["accuracy"] == pytest.approx(1 - 1 / n)
    # The mean probability of the truth is (1 + 0.1) / 2; each member's loss is 0 and log 10.
    assert row["loss"] == pytest.approx(-np.log(0.55), abs=2e-3)
    assert row["member_loss"] == pytest.approx(np.log(10) / 2, abs=5e-3)
    assert row["shift_accuracy"] == 1.0 and row["shift_loss"] == pytest.approx(-np.log(0.55), abs=1e-6)
    # The second member always says class 0, so it agrees where that is the first's answer.
    said = np.where(np.arange(n) == 0, (labels == 0) * 1, labels)
    assert row["disagreement"] == pytest.approx(np.mean(said != 0), abs=1e-9)
    assert row["ood_msp"] == row["ood_entropy"] == 1.0  # foreign: all members know nothing
    # The wrong picture has nine equal logits: its energy, -(log 9 + log 10) / 2, is above the foreign ones' -log 10.
    assert row["ood_energy"] == pytest.approx(1 - 1 / n)
    assert row["shots_1"] == row["shots_2"] == 1.0
    assert row["members"] == 2


def test_every_input_is_asked(few_questions):
    inputs = claims_answers.inputs()
    assert len(inputs["corrupted"]) == len(corruptions.CORRUPTIONS) * 5 * 2
    assert set(inputs) == {"test", "corrupted", "inverted", "animals"}
    assert all(x.dtype == np.float32 and x.min() >= -1 and x.max() <= 1 for x in inputs.values())
