"""kitlib.studies.ensembles.measures: all metrics of outputs that are written by hand, and the images of the studies."""

import numpy as np
import pytest

from kitlib import data
from kitlib.data import shifts
from kitlib.studies.ensembles import measures

pytestmark = pytest.mark.slow


def test_outputs_are_measured(few_questions):
    """Outputs of two members, made by hand: the first is certain and correct, the second gives equal probabilities."""
    labels = data.load("fashion_mnist", "test").arrays()[1]
    shifted = np.tile(labels[:2], 15 * 5)

    def logits(truth):
        return np.stack([20.0 * np.eye(10)[truth], np.zeros((len(truth), 10))]).astype(np.float32)

    rng = np.random.default_rng(0)
    _, few_labels, _, query_labels = measures.probe_task()
    outputs = {"test": logits(labels), "corrupted": logits(shifted)}
    outputs["test"][:, 0] = -outputs["test"][:, 0]  # one wrong prediction, as otherwise no calibration AUC exists
    outputs |= {name: np.zeros((2, 3, 10), np.float32) for name in measures.OOD_SETS}
    features = np.eye(10)[few_labels] + rng.normal(scale=0.01, size=(len(few_labels), 10))
    outputs["few"], outputs["asked"] = (np.stack([x, x]) for x in (features, np.eye(10)[query_labels]))
    row = measures.measure(outputs)
    n = len(labels)
    assert row["accuracy"] == pytest.approx(1 - 1 / n)
    # The mean probability of the true class is (1 + 0.1) / 2; the members' losses are 0 and log 10.
    assert row["loss"] == pytest.approx(-np.log(0.55), abs=2e-3)
    assert row["member_loss"] == pytest.approx(np.log(10) / 2, abs=5e-3)
    assert row["shift_accuracy"] == 1.0 and row["shift_loss"] == pytest.approx(-np.log(0.55), abs=1e-6)
    # The second member always predicts class 0, so the members agree where the first predicts it, too.
    predicted = np.where(np.arange(n) == 0, (labels == 0) * 1, labels)
    assert row["disagreement"] == pytest.approx(np.mean(predicted != 0), abs=1e-9)
    assert row["ood_msp"] == row["ood_entropy"] == 1.0  # on out-of-distribution images all probabilities are equal
    # The image with the wrong prediction has nine equal logits: its energy, -(log 9 + log 10) / 2, is above the energy
    # of the out-of-distribution images, -log 10.
    assert row["ood_energy"] == pytest.approx(1 - 1 / n)
    assert row["shots_1"] == row["shots_2"] == 1.0
    assert row["members"] == 2


def test_all_sets_of_images_are_there(few_questions):
    images = measures.test_images()
    assert len(images["corrupted"]) == len(shifts.CORRUPTIONS) * 5 * 2
    assert set(images) == {"test", "corrupted", "inverted", "animals"}
    assert all(x.dtype == np.float32 and x.min() >= -1 and x.max() <= 1 for x in images.values())
