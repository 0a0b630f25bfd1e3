"""kitlib.studies.ensembles.from_scratch: runs are shared, costs counted, an arm is trained once and measured."""

import dataclasses

import numpy as np
import pytest

from kitlib.studies.ensembles import from_scratch

pytestmark = pytest.mark.slow

METHODS = from_scratch.methods().arms


def test_a_deep_ensemble_uses_the_training_runs_of_single_models(tmp_path):
    one, two = METHODS["V-MoE"], METHODS["2 x V-MoE"]
    assert from_scratch.outputs_file(one, 3, tmp_path) == from_scratch.outputs_file(two, 3, tmp_path)
    assert from_scratch.outputs_file(one, 3, tmp_path) != from_scratch.outputs_file(METHODS["E3 M=2"], 3, tmp_path)
    # Seeds s, s + 8, s + 16, ...: no training run is in two ensembles of a study.
    used = [seed + from_scratch.SEEDS * i for seed in range(from_scratch.SEEDS) for i in range(4)]
    assert len(set(used)) == len(used)


def test_costs_of_training_and_inference():
    costs = {name: from_scratch.costs(arm) for name, arm in METHODS.items()}
    assert costs["2 x ViT"] == {name: pytest.approx(2 * value) for name, value in costs["ViT"].items()}
    # Dropout has no parameters; eight passes cost eight times as much at test time and the same in training.
    assert costs["MC dropout M=8"]["mparams"] == costs["ViT"]["mparams"]
    assert costs["MC dropout M=8"]["mflops"] == pytest.approx(8 * costs["ViT"]["mflops"])
    assert costs["MC dropout M=8"]["train_tflops"] == costs["ViT"]["train_tflops"]
    assert costs["E3 M=2"]["mparams"] == costs["V-MoE"]["mparams"]
    # MIMO has 2 input images: 49 more inputs per patch, 10 more outputs of the head (with biases), of width 48.
    assert costs["MIMO M=2"]["mparams"] - costs["ViT"]["mparams"] == pytest.approx((49 * 48 + 10 * 49) / 1e6)
    ratio = costs["E3 M=2"]["mflops"] / costs["V-MoE"]["mflops"]
    assert ratio == pytest.approx(1 + (6 - 3 - 1 / 3) / 6, abs=0.02)  # copied after the attention of block 3 of 6


@pytest.mark.parametrize("name", ["MC dropout M=2", "MIMO M=2", "2 x E3"])
def test_an_arm_is_trained_once_and_measured(name, few_questions, tmp_path, monkeypatch):
    tiny = from_scratch.model(16, 2)
    config = (
        from_scratch.sparse(tiny, 2, num_experts=4)
        if "E3" in name
        else tiny.replace(dropout=METHODS[name].config.dropout)
    )
    arm = dataclasses.replace(METHODS[name], config=config, steps=2, pictures=600)
    (row,) = from_scratch.run_arm(arm, 0, tmp_path)
    assert all(np.isfinite(value) for value in row.values())
    assert row["members"] == (4 if "E3" in name else 2)
    assert len(list(tmp_path.glob("training-*.npz"))) == arm.trainings
    monkeypatch.setattr(from_scratch, "_train", None)  # a second training run would fail
    assert from_scratch.run_arm(arm, 0, tmp_path) == [row]
