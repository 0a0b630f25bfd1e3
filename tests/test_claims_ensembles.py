import dataclasses

import numpy as np
import pytest

from kitlib import claims_ensembles as ce
from kitlib import corruptions, data

STUDIES = ce.questions()
METHODS = STUDIES["methods"][1]


@pytest.fixture
def small(monkeypatch):
    """Few pictures to answer; nothing is kept from one test for the next."""
    monkeypatch.setattr(ce, "CORRUPTED", 2)
    monkeypatch.setattr(ce, "FOREIGN", 3)
    monkeypatch.setattr(ce, "ASKED", 20)
    monkeypatch.setattr(ce, "OOD_SETS", ("inverted", "animals"))
    monkeypatch.setattr(ce, "SHOTS", (1, 2))
    monkeypatch.setattr(ce, "DRAWS", 2)
    for function in (ce._inputs, ce._probe_task):
        function.cache_clear()
    yield
    for function in (ce._inputs, ce._probe_task):
        function.cache_clear()


def test_a_deep_ensemble_is_made_of_trainings_that_single_models_have(tmp_path):
    one, two = METHODS["V-MoE"], METHODS["2 x V-MoE"]
    assert ce.training_file(one, 3, tmp_path) == ce.training_file(two, 3, tmp_path)
    assert ce.training_file(one, 3, tmp_path) != ce.training_file(METHODS["E3 M=2"], 3, tmp_path)
    # Seeds s, s + 8, s + 16, ...: no training is in two ensembles of a study.
    used = [seed + ce.SEEDS * i for seed in range(ce.SEEDS) for i in range(4)]
    assert len(set(used)) == len(used)


def test_costs_are_those_of_what_is_trained_and_run():
    costs = {name: ce.costs(arm) for name, arm in METHODS.items()}
    assert costs["2 x ViT"] == {name: pytest.approx(2 * value) for name, value in costs["ViT"].items()}
    # Dropout is no parameter; eight passes cost eight times as much at test time, training is the same.
    assert costs["MC dropout M=8"]["mparams"] == costs["ViT"]["mparams"]
    assert costs["MC dropout M=8"]["mflops"] == pytest.approx(8 * costs["ViT"]["mflops"])
    assert costs["MC dropout M=8"]["train_tflops"] == costs["ViT"]["train_tflops"]
    assert costs["E3 M=2"]["mparams"] == costs["V-MoE"]["mparams"]
    # MIMO reads 2 pictures: 49 more inputs of a patch, 10 more outputs of the head (with their biases), of width 48.
    assert costs["MIMO M=2"]["mparams"] - costs["ViT"]["mparams"] == pytest.approx((49 * 48 + 10 * 49) / 1e6)
    ratio = costs["E3 M=2"]["mflops"] / costs["V-MoE"]["mflops"]
    assert ratio == pytest.approx(1 + (6 - 3 - 1 / 3) / 6, abs=0.02)  # copied after the attention of block 3 of 6


def test_equal_flops_are_equal():
    trained = {name: ce.costs(arm)["train_tflops"] for name, arm in STUDIES["flops"][1].items()}
    assert list(trained.values()) == pytest.approx([trained["2 x V-MoE"]] * len(trained), rel=2e-3)


def test_answers_are_measured(small):
    """Two members, answers made by hand: the first is always sure and right, the second knows nothing."""
    labels = data.load("fashion_mnist", "test").arrays()[1]
    shifted = np.tile(labels[:2], 15 * 5)

    def logits(truth):
        return np.stack([20.0 * np.eye(10)[truth], np.zeros((len(truth), 10))]).astype(np.float32)

    rng = np.random.default_rng(0)
    _, few_labels, _, asked_labels = ce._probe_task()
    answers = {"test": logits(labels), "corrupted": logits(shifted)}
    answers["test"][:, 0] = -answers["test"][:, 0]  # one wrong answer, or no calibration AUC exists
    answers |= {name: np.zeros((2, 3, 10), np.float32) for name in ce.OOD_SETS}
    far = np.eye(10)[few_labels] + rng.normal(scale=0.01, size=(len(few_labels), 10))
    answers["few"], answers["asked"] = (np.stack([x, x]) for x in (far, np.eye(10)[asked_labels]))
    row = ce.measure(answers)
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


@pytest.mark.parametrize("name", ["MC dropout M=2", "MIMO M=2", "2 x E3"])
def test_an_arm_is_trained_once_and_measured(name, small, tmp_path, monkeypatch):
    tiny = ce.model(16, 2)
    config = ce.sparse(tiny, 2, num_experts=4) if "E3" in name else tiny.replace(dropout=METHODS[name].config.dropout)
    arm = dataclasses.replace(METHODS[name], config=config, steps=2)
    (row,) = ce.run(arm, 0, tmp_path)
    assert all(np.isfinite(value) for value in row.values())
    assert row["members"] == (4 if "E3" in name else 2)
    assert len(list(tmp_path.glob("training-*.npz"))) == arm.trainings
    monkeypatch.setattr(ce, "_train", None)  # a second training would fail
    assert ce.run(arm, 0, tmp_path) == [row]


def test_fewer_pictures_are_the_first_of_all(monkeypatch):
    seen = []
    monkeypatch.setattr(ce.pipeline, "batches", lambda source, *args, **fields: seen.append(source))
    monkeypatch.setattr(ce.train, "fit", lambda step, state, batches, steps: (state, {}))
    arm = ce.Arm(ce.model(16, 1), pictures=50, steps=4)
    ce._train(arm, 0)
    images, labels = data.load("fashion_mnist", "train").arrays()
    got = seen[0].arrays()
    np.testing.assert_array_equal(got[0], images[:50])
    np.testing.assert_array_equal(got[1], labels[:50])


def test_every_input_is_asked(small):
    inputs = ce._inputs()
    assert len(inputs["corrupted"]) == len(corruptions.CORRUPTIONS) * 5 * 2
    assert set(inputs) == {"test", "corrupted", "inverted", "animals"}
    assert all(x.dtype == np.float32 and x.min() >= -1 and x.max() <= 1 for x in inputs.values())
