import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from devices import run_on_devices

from kitlib import configs
from kitlib.models import t5
from kitlib.models.vit import ViT
from kitlib.moe import routing
from kitlib.runs import recipes, train
from kitlib.training import checkpoints, classification

TINY = dataclasses.replace(
    recipes.named("vit"), model=configs.vit("tiny/14", image_size=(28, 28), channels=1, num_classes=10, depth=1),
    batch_size=32, steps=24, warmup=4, peak=1e-2,
)  # fmt: skip


def test_a_run_learns_evaluates_and_writes_its_curve(tmp_path):
    state, history = train.make(TINY).fit(tmp_path / "run", evaluate_every=12, check_every=6)
    assert int(state.step) == 24 and history["loss"][-4:].mean() < 0.8 * history["loss"][:4].mean()
    table = pd.read_csv(tmp_path / "run" / "metrics.csv").pivot(index="step", columns="name", values="value")
    assert table["eval/accuracy"].notna().to_dict() == {6: False, 12: True, 18: False, 24: True}
    assert table["eval/accuracy"][24] > 0.15  # ten classes


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


def test_meshes_and_batches_that_do_not_fit():
    with pytest.raises(ValueError, match="mesh data=2 has 2 devices, here is 1"):
        train.make(TINY, {"data": 2})
    with pytest.raises(ValueError, match=r"A batch of 30 does not divide .* 4 parts of acc"):
        train.make(dataclasses.replace(TINY, batch_size=30, accumulate=4))


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


def sparse(batch=32, accumulate=1, members=None, **moe):
    """A recipe of a ViT with experts in its second block; 4 tokens per example."""
    experts = configs.MoEConfig(**{"num_experts": 4} | moe)
    model = TINY.model.replace(depth=2, pool="gap", moe=experts, moe_blocks=(1,), e3=members)
    return dataclasses.replace(TINY, batch_size=batch, accumulate=accumulate, model=model)


MEASURE = """
import dataclasses
from test_train import ViT, sparse
devices = mesh.make(data=2, expert=4)

def dropped(batch, kind):
    "The share of dropped choices where all tokens choose expert 0: of router kernels of zero, the first."
    model = ViT(sparse(batch, **kind).model)
    def measured(images):
        params = model.init(jax.random.key(0), images[:8])["params"]
        params = jax.tree_util.tree_map_with_path(lambda p, x: 0 * x if "Router" in str(p) else x, params)
        return model.apply({"params": params}, images)[1]["block01"]["moe"]["metrics"]["dropped"]
    with jax.set_mesh(devices):
        return float(jax.jit(measured)(mesh.global_batch(devices, np.ones((batch, 28, 28, 1), np.float32))))
"""
KINDS = [{}, {"group_size": 16}, {"group_size": 12}, {"group_size": 5}]
KINDS += [{"group_size": 6, "capacity": 2, "capacity_factor": None}]


@pytest.mark.slow
def test_groups_and_slots_are_those_of_a_model_on_a_mesh():
    cases = [(batch, kind) for kind in KINDS for batch in (32, 48)]
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})"
    shares = run_on_devices(f"{path}\n{MEASURE}\nfound['shares'] = [dropped(*case) for case in {cases!r}]")["shares"]
    for (batch, kind), share in zip(cases, shares, strict=True):
        (row,) = train.routing(sparse(batch, **kind), 8)
        groups, size, tokens = row["groups"] // 8, row["tokens per group"], batch * 4 // 8  # of one device
        real = [size] * (groups - 1) + [tokens - (groups - 1) * size]  # the last group may be padded
        filled = sum(min(row["slots per expert"], n) for n in real)
        assert share == pytest.approx(1 - filled / tokens, abs=1e-6), (batch, kind)


@pytest.mark.parametrize(
    ("moe", "members", "best"),
    [
        ({}, None, 0.0),  # 1.05 of the mean
        ({"capacity": 15}, None, 1 - 4 * 15 / 64),  # 60 slots for 64 tokens
        ({"capacity": 33, "num_selected": 2}, None, 0.0),
        ({"router": "expert_choice", "capacity": 10}, None, 1 - 4 * 10 / 64),
        ({"capacity": 30}, configs.E3Config(2), 1 - 4 * 30 / 128),  # two members' copies of 64 tokens
        ({"capacity": 34}, configs.E3Config(2, routers="shared"), 0.0),
        ({"dispatch": "dropless", "capacity_factor": None}, None, 0.0),
        ({"router": "soft"}, None, 0.0),
    ],
)
def test_dropped_shares_at_best_by_hand_and_at_random_as_in_a_simulation(moe, members, best):
    fields = {"capacity_factor": None} if "capacity" in moe else {}
    recipe = sparse(batch=16, members=members, **fields | moe)
    c, (row,) = recipe.model.moe, train.routing(recipe)
    assert row["dropped at best"] == pytest.approx(best)
    if c.router == "soft" or c.dispatch == "dropless":
        assert row["dropped at random"] == 0.0
        return
    rng, m = np.random.default_rng(0), 2 if members else 1
    scores = jnp.asarray(rng.random((400, m, 64, 4)), jnp.float32)  # every order of experts is equally likely
    if c.router == "expert_choice":
        slots = routing.expert_choice(scores[:, 0], c.capacity)
        kept = np.mean([len(set(group.ravel().tolist())) / 64 for group in np.asarray(slots.token)])
    else:
        if members and members.routers == "own":  # each member has two experts of its own
            scores = scores * np.array([[1, 1, 0, 0], [0, 0, 1, 1]])[None, :, None]
        choice = routing.top_k(scores.reshape(400, m * 64, 4), c.num_selected)
        filled = routing.assign(choice, 4, row["slots per expert"]).token < m * 64
        kept = filled.sum() / choice.expert.size
    assert row["dropped at random"] == pytest.approx(1 - float(kept), abs=0.006)


@pytest.mark.parametrize("batch", [32, 48, 96])
@pytest.mark.parametrize("group_size", [None, 5, 16, 64, 256])
@pytest.mark.parametrize(("parts", "accumulate"), [(2, 1), (8, 1), (4, 2)])
def test_what_is_said_to_make_groups_equal_makes_them_equal(batch, group_size, parts, accumulate):
    recipe = sparse(batch, accumulate, group_size=group_size)
    assert train.routing(recipe)[0]["but"] == ""
    ((here, alone),) = zip(train.routing(recipe, parts), train.routing(recipe), strict=True)
    per_device = batch * 4 // accumulate // parts
    whole = per_device % here["tokens per group"] == 0 and here["tokens per group"] == alone["tokens per group"]
    assert bool(here["but"]) != whole
    if found := re.search(r"--batch-size (\d+)", here["but"]):
        other = dataclasses.replace(recipe, batch_size=int(found[1]))
        assert train.routing(other, parts)[0]["but"] == ""
    if found := re.search(r"--model.moe.group-size (\d+) on both", here["but"]):
        other = sparse(batch, accumulate, group_size=int(found[1]))
        assert train.routing(other, parts)[0]["but"] == ""
        assert train.routing(other, parts) == train.routing(other)


def test_every_mixture_of_a_model_has_a_row_and_dense_models_have_none():
    options = {name: [row["option"] for row in train.routing(recipes.named(name))] for name in recipes.NAMES}
    both = ["--model.moe", "--model.decoder-moe"]
    assert options == {"vit": [], "vmoe": both[:1], "e3": both[:1], "t5": [], "t5_moe": both, "palix": []}
    pali = recipes.named("palix").model
    text = pali.text.replace(decoder_moe=configs.T5_DECODER_MOE, decoder_moe_layers=(1,))
    (row,) = train.routing(dataclasses.replace(recipes.named("palix"), model=pali.replace(text=text)))
    assert (row["option"], row["tokens per group"]) == ("--model.text.decoder-moe", 32 * 56)


def test_initial_parameters_are_those_of_the_model():
    vision, text = recipes.named("vit"), recipes.named("t5")
    expected = classification.init_params(ViT(vision.model), (1, 28, 28, 1)), t5.init_params(t5.T5(text.model))
    for recipe, params in zip((vision, text), expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, jax.jit(train.make(recipe).make_params)(), params)


def test_experts_that_do_not_divide_are_refused():
    code = """
from kitlib.runs import recipes, train
import dataclasses
recipe = dataclasses.replace(recipes.named("vmoe"), batch_size=96)
for way in ("constraints", "shard_map"):
    moe = recipe.model.moe.replace(expert_parallel=way)
    try:
        train.make(dataclasses.replace(recipe, model=recipe.model.replace(moe=moe)), {"expert": 6})
    except ValueError as error:
        found[way] = str(error)
"""
    for sentence in run_on_devices(code, count=6).values():
        assert "size 8, does not divide among expert=6 devices; choose a mesh whose expert axis divides 8" in sentence
