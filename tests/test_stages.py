"""kitlib.stages: the mixtures of the stages, thawing and resolution, and that a stage cut off ends the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from kitlib import collate, configs, palix, palix_scores, stages, tasks, tokenizer
from kitlib.mixture import Mixture
from kitlib.stages import OBJECTIVES, SHAPES, STAGES, Stage, at_resolution, fit, groups

WORDS = tokenizer.multilingual()
# One block each: what is tested here does not depend on depth, and every block costs seconds of compilation.
CONFIG = configs.palix(
    "XS",
    tower={"image_size": (64, 64), "depth": 1},
    text={"vocab_size": WORDS.vocab_size, "num_encoder_layers": 1, "num_decoder_layers": 1},
)
FEW = {"short": {"captioning": 1}, "text": {"span_corruption": 1}}


@pytest.fixture(scope="module")
def params():
    return palix.init_params(palix.PaLIX(CONFIG))


# --- what is trained on ---


def test_the_base_stage_has_all_thirteen_objectives():
    """vqa in its parts."""
    parts = {"easy_vqa": "vqa", "receipts": "vqa", "naming": "vqa", "made_up_words": "episodic_vqa"}
    trained = {parts.get(name, name) for weights in OBJECTIVES.values() for name in weights}
    assert trained == set(tasks.PREFIXES) and STAGES["base"].weights == OBJECTIVES and STAGES["base"].frozen


def test_what_no_objective_asks_for_comes_late():
    late = {"counting", "two_exemplars", "video_questions"}
    for name, stage in STAGES.items():
        asked = {maker for weights in stage.weights.values() for maker in weights}
        assert asked & late == {"bind": late - {"video_questions"}, "tune": late}.get(name, set())


@pytest.mark.parametrize("name", list(STAGES))
def test_batches_have_the_shapes_of_their_groups(name):
    made = groups(STAGES[name], seed=3)
    batch = {group: collate.group_batch(made[group], WORDS, 0) for group in made}
    size = STAGES[name].image_size
    assert set(made) == set(STAGES[name].rows)
    for group in made:
        images, inputs, targets = SHAPES[group]
        few_shot, rows = (images,) if group in ("few", "four", "pair") else (), STAGES[name].rows[group]
        assert batch[group]["inputs"].shape == (rows, *few_shot, inputs)
        assert batch[group]["targets"].shape == (rows, targets)
        if images:
            assert batch[group]["images"].shape == (rows, images, size, size, 3)
        else:
            assert "images" not in batch[group]


def test_every_maker_of_a_stage_fits():
    """What is left out makes an objective rarer than its weight says; of 4 each, more than one."""
    done = set()
    for stage in STAGES.values():
        for name, group in groups(stage, 0).items():
            new = {maker: weight for maker, weight in group.mixture.weights.items() if (name, maker) not in done}
            done |= {(name, maker) for maker in new}
            if new:
                part = dataclasses.replace(group, mixture=Mixture(group.mixture.makers, new))
                shares = collate.shares_that_fit(part, WORDS, 4)
                assert min(shares.values()) > 0.25, shares


def test_another_seed_other_examples():
    one, other, same = (
        collate.group_batch(groups(STAGES["base"], seed)["short"], WORDS, 0)["images"] for seed in (0, 1, 0)
    )
    assert (one != other).any() and (one == same).all()


# --- resolution ---


def test_a_larger_grid_and_back(params):
    """8 x 8 places become 12 x 12; corners stay; back again, the corners are what they were."""
    larger, config = at_resolution(params, CONFIG, 96)
    table = params["tower"]["pos_embedding"]
    assert config.tower.grid == (12, 12) and larger["tower"]["pos_embedding"].shape == (1, 144, 64)
    np.testing.assert_allclose(
        larger["tower"]["pos_embedding"][0, [0, 11, 132, 143]], table[0, [0, 7, 56, 63]], atol=1e-6
    )
    back, again = at_resolution(larger, config, 64)
    assert again == CONFIG
    np.testing.assert_allclose(back["tower"]["pos_embedding"][0, [0, 63]], table[0, [0, 63]], atol=1e-6)
    same, _ = at_resolution(params, CONFIG, 64)
    assert same["tower"]["pos_embedding"] is table


# --- training ---


def small(**fields) -> Stage:
    return Stage(**{"weights": FEW, "rows": {"short": 2, "text": 2}, "steps": 3, "peak": 0.01} | fields)


def test_a_frozen_tower_stays_and_all_else_moves(params):
    for frozen in (True, False):
        after, history = fit(small(frozen=frozen), params, CONFIG, None)
        moved = jax.tree.map(lambda a, b: bool((np.asarray(a) != b).any()), after, params)
        assert all(jax.tree.leaves(moved["text"])) and all(jax.tree.leaves(moved["projection"]))
        towers = jax.tree.leaves(moved["tower"])
        assert not any(towers) if frozen else all(towers)
        assert {"loss", "short/loss", "text/loss", "short/accuracy"} <= set(history) and len(history["loss"]) == 3


def test_a_stage_that_is_cut_off_ends_the_same(params, tmp_path, monkeypatch):
    """Saved after 2 of 4 steps and killed there; started again, it gives the bits of a run that went through."""
    stage = small(steps=4)
    whole, _ = fit(stage, params, CONFIG, None)
    monkeypatch.setattr(stages, "SAVE_EVERY", 2)
    train_fit = stages.train.fit

    def killed(step, state, batches, num_steps, **kwargs):
        return train_fit(step, state, batches, 2, **kwargs)

    monkeypatch.setattr(stages.train, "fit", killed)
    fit(stage, params, CONFIG, tmp_path / "run")
    monkeypatch.setattr(stages.train, "fit", train_fit)
    resumed, history = fit(stage, params, CONFIG, tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    assert len(history["loss"]) == 4


def test_saves_of_another_recipe_are_refused(params, tmp_path, monkeypatch):
    """More rows, another peak, seed or model: going on from the saves would be neither the old training nor the new."""
    trained = []
    monkeypatch.setattr(stages.train, "fit", lambda step, state, *rest, **saves: (trained.append(saves) or state, {}))
    stage, folder = small(), tmp_path / "run"
    for _ in range(2):  # the same recipe may go on
        fit(stage, params, CONFIG, folder)
    others = [
        (small(rows={"short": 3, "text": 2}), CONFIG, 0),
        (small(peak=0.02), CONFIG, 0),
        (stage, CONFIG.replace(max_images=8), 0),
        (stage, CONFIG, 1),
    ]
    for other, config, seed in others:
        with pytest.raises(ValueError, match=r"run has saves of another recipe, see .*run\.txt"):
            fit(other, params, config, folder, seed=seed)
    fit(stage, params, CONFIG, folder)  # what was written down is still there
    assert len(trained) == 3


def test_all_stages_follow_each_other(tmp_path, monkeypatch):
    """Two steps each: shapes fit from stage to stage, and a finished run is read back, not run again."""
    two = {"steps": 2, "weights": FEW, "rows": dict.fromkeys(SHAPES, 2)}
    few = {name: dataclasses.replace(stage, **two) for name, stage in STAGES.items()}
    monkeypatch.setattr(stages, "STAGES", few)
    monkeypatch.setattr(stages, "OCR", {"steps": 2, "batch_size": 2, "peak": 1e-3})
    params, config = stages.run(tmp_path, CONFIG)
    assert config == CONFIG and {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"ocr", *STAGES}
    again, _ = stages.run(tmp_path, CONFIG)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert jnp.isfinite(params["tower"]["pos_embedding"]).all()


# --- the released model ---


def test_the_released_model_names_what_it_sees():
    """New pictures of things that it knows: it needs to see them. Small enough to travel with the kit."""
    model, released = stages.released()
    assert stages.RELEASED.stat().st_size <= 8_000_000
    examples = palix_scores.captions("en")(32, 5)
    seen, blind = (
        palix_scores.exact(
            palix_scores.answers(model, released, palix_scores.controlled(examples, control), batch_size=32), examples
        ).mean()
        for control in (None, "blind")
    )
    assert seen > 0.3 and blind < 0.1


def test_the_scores_beside_it_are_of_every_task_and_this_recipe():
    path = stages.RELEASED.with_suffix(".csv")
    table = pd.read_csv(path, comment="#").set_index("task")
    assert list(table.index) == [task.name for task in palix_scores.TASKS]
    assert list(table["unit"]) == [task.unit for task in palix_scores.TASKS]
    assert (table["low"] <= table["score"]).all() and (table["score"] <= table["high"]).all()
    assert table[["score", "blind", "shuffled"]].stack().between(0, 1).all()
    steps = {"ocr": stages.OCR["steps"]} | {name: stage.steps for name, stage in STAGES.items()}
    assert f"# kit train: seed 0, steps {steps}; " in path.read_text()
