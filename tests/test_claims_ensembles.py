import dataclasses

import numpy as np
import pytest

from kitlib import claims_ensembles as ce
from kitlib import data

STUDIES = ce.questions()
METHODS = STUDIES["methods"][1]


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


@pytest.mark.parametrize("name", ["MC dropout M=2", "MIMO M=2", "2 x E3"])
def test_an_arm_is_trained_once_and_measured(name, few_questions, tmp_path, monkeypatch):
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
