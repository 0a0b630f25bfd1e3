import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest

from kitlib import configs
from kitlib.runs import recipes, train
from kitlib.training import checkpoints, loop

TINY = dataclasses.replace(
    recipes.named("vit"), model=configs.vit("tiny/14", image_size=(28, 28), channels=1, num_classes=10, depth=1),
    batch_size=32, steps=24, warmup=4, peak=1e-2,
)  # fmt: skip


def test_a_run_learns_evaluates_and_writes_its_curve(tmp_path):
    state, history = train.make(TINY).fit(tmp_path / "run", evaluate_every=12, check_every=6)
    assert int(state.step) == 24 and history["loss"][-4:].mean() < 0.8 * history["loss"][:4].mean()
    table = pd.read_csv(tmp_path / "run" / "metrics.csv").pivot(index="step", columns="name", values="value")
    assert list(table.index) == [6, 12, 18, 24]
    assert table["eval/accuracy"].notna().to_dict() == {6: False, 12: True, 18: False, 24: True}
    assert table["eval/accuracy"][24] > 0.15  # ten classes


def test_a_run_that_stops_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    whole, _ = train.make(TINY).fit(tmp_path / "whole", save_every=8)

    class Stop(Exception):
        pass

    def stopping(step):
        def stopped(state, batch):
            if int(state.step) == 11:
                raise Stop
            return step(state, batch)

        return stopped

    make_step = loop.make_step
    monkeypatch.setattr(loop, "make_step", lambda *args, **kwargs: stopping(make_step(*args, **kwargs)))
    with pytest.raises(Stop):
        train.make(TINY).fit(tmp_path / "stopped", save_every=8)
    monkeypatch.undo()
    again, history = train.make(TINY).fit(tmp_path / "stopped", save_every=8)
    assert len(history["loss"]) == 24
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)


def test_another_recipe_does_not_go_on_in_the_same_folder(tmp_path):
    short = dataclasses.replace(TINY, steps=6)
    train.make(short).fit(tmp_path / "run")
    with pytest.raises(ValueError, match=r"another recipe: seed=0.*, now seed=1.* Name another folder"):
        train.make(dataclasses.replace(short, seed=1)).fit(tmp_path / "run")
    wider = dataclasses.replace(short, model=short.model.replace(mlp_dim=300))
    with pytest.raises(ValueError, match=r"another recipe: .*, now .*mlp_dim=300"):  # not the shapes of its arrays
        train.make(wider).fit(tmp_path / "run")


def test_a_folder_in_use_is_left_as_it_is(tmp_path):
    rows = "step,name,value\n6,loss,2.0\n"
    (tmp_path / "metrics.csv").write_text(rows)
    saver = checkpoints.Saver(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match="checkpoints is in use by process"):
        train.make(dataclasses.replace(TINY, steps=2, warmup=1)).fit(tmp_path, tensorboard=True)
    saver.close()
    assert (tmp_path / "metrics.csv").read_text() == rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "metrics.csv"]


def test_only_whole_checkpoints_count(tmp_path):
    assert train.saved_step(tmp_path) is None is train.saved_step("/dev/null")
    for step in (4, 8, 16):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    for step in (4, 12):
        (tmp_path / "checkpoints" / f"{step}.sha256").write_text("{}")
    (tmp_path / "checkpoints" / "16.sha256").mkdir()
    assert train.saved_step(tmp_path) == 4


def test_the_newest_evaluation(tmp_path):
    rows = ["6,loss,2.0", "6,eval/loss,1.5", "6,eval/examples,40", "8,eval/loss,1.25", "8,eval/examples,40", "9,loss,1"]
    (tmp_path / "metrics.csv").write_text("\n".join(["step,name,value", *rows]) + "\n")
    assert train.last_evaluation(tmp_path) == {"loss": 1.25, "examples": 40}
    (tmp_path / "metrics.csv").write_text("step,name,value\n6,loss,2.0\n")
    assert train.last_evaluation(tmp_path) == {}


@pytest.mark.parametrize(
    ("changes", "axes", "message"),
    [
        ({}, {"data": 2}, "mesh data=2 has 2 devices, here is 1"),
        (
            {"batch_size": 30, "accumulate": 4},
            None,
            "A batch of 30 does not divide .* 4 parts of acc",
        ),
    ],
)
def test_meshes_and_batches_that_do_not_fit(changes, axes, message):
    with pytest.raises(ValueError, match=message):
        train.make(dataclasses.replace(TINY, **changes), axes)


@pytest.mark.parametrize("name", recipes.NAMES)
def test_sizes_of_every_run_without_computing_anything(name):
    run = train.make(recipes.named(name))
    sizes = train.sizes(run)
    shapes = jax.eval_shape(run.make_params)
    assert sizes["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert sizes["GB of parameters per device"] == pytest.approx(4 * sizes["parameters"] / 1e9)
    # AdamW has two moments per parameter, Adafactor one at most, as in models that are too small to be factored.
    moments = 2.0 if name in ("vit", "vmoe", "e3") else 1.0
    assert sizes["GB of optimiser state per device"] / sizes["GB of parameters per device"] <= moments + 0.001
    assert sizes["GFLOP per step"] > 6e-9 * run.recipe.batch_size * sizes["parameters"] * 0.2


def test_the_optimizer_of_a_recipe():
    tx = train.optimizer(dataclasses.replace(TINY, optimizer="adafactor", schedule="rsqrt"))
    assert tx.init({"a": np.ones(3, np.float32)}) is not None
    with pytest.raises(ValueError, match="Unknown optimizer 'sgd'"):
        train.optimizer(dataclasses.replace(TINY, optimizer="sgd"))
