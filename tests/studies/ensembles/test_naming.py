"""kitlib.studies.ensembles.naming: what is made of a V-MoE, that it starts as the V-MoE, and that runs are shared."""

import dataclasses

import numpy as np
import pytest
from trees import random_params

from kitlib import ensembles
from kitlib.models.vit import ViT
from kitlib.studies.ensembles import naming
from kitlib.studies.upcycling import ablations, runs, setups
from kitlib.training import classification

KINDS = naming.tuned(naming.kinds())


@pytest.mark.parametrize("split", ["test", "valid"])
def test_what_is_fine_tuned_was_pre_trained_as_the_curves_say(split, monkeypatch, tmp_path):
    """The arms at the end of pictures_curves, on "valid" the trials; an E3 for the cost of two parents, or of one."""
    found = []
    monkeypatch.setattr(runs, "trained", lambda make, arm, seed, folder: found.append(arm))
    for name in ("ViT", "V-MoE", "upcycled", "E3 M=2", "E3 pre-trained M=2"):
        naming.pretrained(KINDS[name], split, 0, tmp_path / "ensembles")
    task = setups.pictures(split)
    curves = ablations.headline(task)
    if split == "test":
        assert found[:4] == [curves["dense"], curves["scratch"], curves["upcycled"], curves["scratch"]]
    assert [arm.config for arm in found[:4]] == [curves[k].config for k in ("dense", "scratch", "upcycled", "scratch")]
    assert found[4].config == KINDS["E3 M=2"].config and found[4].recipe == task.recipe("E3")
    cost = found[4].steps * task.relative_cost(found[4].config) / task.parent_steps
    assert cost == pytest.approx(2 if split == "test" else 1, rel=1e-3)
    params = {"any": 1}
    assert naming.converted(KINDS["E3 pre-trained M=2"], params, 0) is params


def test_members_of_deep_ensembles_are_the_runs_of_single_models(monkeypatch, tmp_path):
    """Two upstream models, or one that is fine-tuned twice; no fine-tuned model is in two ensembles of an arm."""
    asked = []
    monkeypatch.setattr(naming, "stored_outputs", lambda arm, first, seed, folder: asked.append((first, seed)))
    arms = naming.naming().arms
    expected = {"V-MoE": [(3, 3)], "2 x V-MoE": [(3, 3), (3 + 10, 3 + 10)], "2 x V-MoE downstream": [(3, 3), (3, 13)]}
    for name, pairs in expected.items():
        asked.clear()
        with pytest.raises(TypeError):
            naming.run_arm(arms[name], 3, tmp_path)  # no outputs
        assert asked == pairs


def test_costs_by_hand():
    """An E3 has the parameters of its V-MoE; two models cost twice as much, eight passes eight times at test time."""
    found = {name: naming.costs(arm) for name, arm in naming.naming().arms.items()}
    assert found["E3 M=2"]["mparams"] == found["V-MoE"]["mparams"]
    assert found["2 x V-MoE"] == {name: pytest.approx(2 * value) for name, value in found["V-MoE"].items()}
    assert found["MC dropout M=8"]["mflops"] == pytest.approx(8 * found["V-MoE"]["mflops"])
    # MIMO reads two pictures: 12 * 12 * 3 more inputs of the patches, 26 more outputs of the head with their biases.
    more = 12 * 12 * 3 * 16 + 26 * 17
    assert (found["MIMO M=2"]["mparams"] - found["V-MoE"]["mparams"]) * 1e6 == pytest.approx(more)
    assert found["V-MoE, E3's FLOPs"]["train_tflops"] == pytest.approx(found["E3 M=2"]["train_tflops"], rel=2e-3)
    assert found["V-MoE"]["mflops"] < found["E3 M=2"]["mflops"] < found["2 x V-MoE"]["mflops"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["E3 M=2", "overlap 4", "tiling only", "BatchEnsemble M=2", "MIMO M=2", "V-MoE K=2"])
def test_what_is_fine_tuned_starts_near_the_v_moe(name):
    """A member of a MIMO is the V-MoE at first, if all read the same picture. Those of an E3 have half of its experts
    each, those of a BatchEnsemble other scales."""
    arm, plain = KINDS[name], KINDS["V-MoE"]
    params = random_params(plain.config)
    start = naming.converted(arm, params, seed=0)
    images = np.random.default_rng(0).normal(size=(5, 36, 24, 3)).astype(np.float32)
    model = ensembles.Mimo(arm.config, arm.inputs) if arm.inputs else ViT(arm.config)
    logits = classification.predict(model, start, images)
    expected = classification.predict(ViT(plain.config), params, images)
    assert logits.shape == ((5, 26) if name == "V-MoE K=2" else (2, 5, 26))
    if arm.inputs:
        np.testing.assert_allclose(logits, np.broadcast_to(expected, logits.shape), atol=1e-5)
    else:
        assert np.isfinite(logits).all() and not np.allclose(logits, expected, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["V-MoE", "E3 M=2", "MC dropout M=2", "MIMO M=2", "2 x V-MoE downstream"])
def test_an_arm_is_fine_tuned_once_and_measured(name, tmp_path, monkeypatch):
    task = setups.pictures()
    arm = dataclasses.replace(naming.naming().arms[name], steps=2)
    base = arm.config.replace(e3=None, dropout=0.0)
    monkeypatch.setattr(naming, "pretrained", lambda start, split, seed, folder: task.init(ViT(base), seed))
    few = {part: images[:200] for part, images in naming.pictures().items()}
    few["corrupted"] = naming.pictures()["corrupted"][:200]
    monkeypatch.setattr(naming, "pictures", lambda: few)
    late, cut = naming.late, {"test": 200, "held_out": 200}
    monkeypatch.setattr(naming, "late", lambda split: late(split)[: cut.get(split)])
    (row,) = naming.run_arm(arm, 0, tmp_path)
    assert all(np.isfinite(value) for value in row.values())
    assert row["members"] == (1 if name == "V-MoE" else 2)
    assert len(list(tmp_path.glob("naming-*.npz"))) == arm.trainings
    assert {f"ood_{name}" for name in naming.OOD_SETS} <= set(row)
    monkeypatch.setattr(naming, "fine_tuned", None)  # a second fine-tuning would fail
    assert naming.run_arm(arm, 0, tmp_path) == [row]


@pytest.mark.slow
def test_a_trial_is_scored_by_the_loss_of_the_ensemble(tmp_path, monkeypatch):
    """With a rate of 0 and equal logits for all letters the loss is log 26."""
    task = setups.pictures()
    arm = dataclasses.replace(KINDS["E3 M=2"], steps=1, peak=0.0)
    base = arm.config.replace(e3=None)
    monkeypatch.setattr(naming, "pretrained", lambda start, split, seed, folder: task.init(ViT(base), seed))
    (row,) = naming.run_trial(arm, 100, tmp_path)
    assert row["loss"] == pytest.approx(np.log(26), rel=1e-5)
