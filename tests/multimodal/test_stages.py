"""kitlib.multimodal.stages: mixtures, frozen towers, resolutions, and stages that are stopped and resumed."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from kitlib import configs
from kitlib.data import tokenizer
from kitlib.data.files import ROOT
from kitlib.models import palix
from kitlib.multimodal import (
    generation,
    kit_tasks,
    mixture_batches,
    prompts,
    scores,
    stages,
    tasks,
)
from kitlib.multimodal.mixture import Mixture
from kitlib.multimodal.stages import OBJECTIVES, SHAPES, STAGES, Stage, at_resolution, groups, train_stage

pytestmark = pytest.mark.slow

WORDS = tokenizer.multilingual()
# One block each: the tests do not depend on depth, and every block costs seconds of compilation.
CONFIG = configs.palix(
    "XS",
    tower={"image_size": (64, 64), "depth": 1},
    text={"vocab_size": WORDS.vocab_size, "num_encoder_layers": 1, "num_decoder_layers": 1},
)
FEW = {"short": {"captioning": 1}, "text": {"span_corruption": 1}}


@pytest.fixture(scope="module")
def params():
    return palix.init_params(palix.PaLIX(CONFIG))


# --- mixtures and shapes ---


def test_the_base_stage_has_all_thirteen_objectives():
    """vqa and episodic_vqa also through their parts."""
    parts = {"easy_vqa": "vqa", "receipts": "vqa", "naming": "vqa", "made_up_words": "episodic_vqa"}
    trained = {parts.get(name, name) for weights in OBJECTIVES.values() for name in weights}
    assert trained == set(prompts.PREFIXES) and STAGES["base"].weights == OBJECTIVES and STAGES["base"].frozen


def test_tasks_that_are_not_objectives_come_late():
    late = {"counting", "two_exemplars", "video_questions"}
    for name, stage in STAGES.items():
        trained = {task for weights in stage.weights.values() for task in weights}
        assert trained & late == {"bind": late - {"video_questions"}, "tune": late}.get(name, set())


@pytest.mark.parametrize("name", list(STAGES))
def test_batches_have_the_shapes_of_their_groups(name):
    made = groups(STAGES[name], seed=3)
    batch = {group: mixture_batches.group_batch(made[group], WORDS, 0) for group in made}
    size = STAGES[name].image_size
    assert set(made) == set(STAGES[name].rows)
    for group in made:
        images, prompt_length, target_length = SHAPES[group]
        few_shot, rows = (images,) if group in ("few", "four", "pair") else (), STAGES[name].rows[group]
        assert batch[group]["prompt_tokens"].shape == (rows, *few_shot, prompt_length)
        assert batch[group]["targets"].shape == (rows, target_length)
        if images:
            assert batch[group]["images"].shape == (rows, images, size, size, 3)
        else:
            assert "images" not in batch[group]


def test_examples_of_every_task_of_a_stage_fit():
    """Examples that are left out make a task rarer than its weight says. Of 4 examples per task, more than one fit."""
    done = set()
    for stage in STAGES.values():
        for name, group in groups(stage, 0).items():
            new = {task: weight for task, weight in group.mixture.weights.items() if (name, task) not in done}
            done |= {(name, task) for task in new}
            if new:
                part = dataclasses.replace(group, mixture=Mixture(group.mixture.tasks, new))
                shares = mixture_batches.shares_that_fit(part, WORDS, 4)
                assert min(shares.values()) > 0.25, shares


def test_other_seeds_give_other_examples():
    one, other, same = (
        mixture_batches.group_batch(groups(STAGES["base"], seed)["short"], WORDS, 0)["images"] for seed in (0, 1, 0)
    )
    assert (one != other).any() and (one == same).all()


# --- resolution ---


def test_a_larger_grid_and_back(params):
    """8 x 8 positions become 12 x 12 and 8 x 8 again; the corners stay the same."""
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


def test_rows_and_columns_of_a_larger_grid(params):
    """The vectors of 8 rows become those of 12: the first and the last stay; the second, one of 11 steps down instead
    of one of 7, lies at 7/11 of the way from the first to the second of the old ones."""
    config = CONFIG.replace(visual_positions=True)
    rows, columns = (np.random.default_rng(i).normal(size=(8, 64)).astype(np.float32) for i in range(2))
    images = np.ones((16, 64), np.float32)
    lines = {"row_embedding": rows, "column_embedding": columns, "image_embedding": images}
    larger, _ = at_resolution(params | {"positions": lines}, config, 96)
    found = jax.tree.map(np.asarray, larger["positions"])
    np.testing.assert_allclose(found["row_embedding"][[0, 11]], rows[[0, 7]], atol=1e-6)
    np.testing.assert_allclose(found["row_embedding"][1], rows[0] + 7 / 11 * (rows[1] - rows[0]), atol=1e-6)
    assert found["column_embedding"].shape == (12, 64) and (found["image_embedding"] == images).all()


# --- training ---


def small(**fields) -> Stage:
    return Stage(**{"weights": FEW, "rows": {"short": 2, "text": 2}, "steps": 3, "peak": 0.01} | fields)


def test_a_frozen_tower_stays_and_all_else_moves(params):
    for frozen in (True, False):
        after, history = train_stage(small(frozen=frozen), params, CONFIG, None)
        moved = jax.tree.map(lambda a, b: bool((np.asarray(a) != b).any()), after, params)
        assert all(jax.tree.leaves(moved["text"])) and all(jax.tree.leaves(moved["projection"]))
        towers = jax.tree.leaves(moved["tower"])
        assert not any(towers) if frozen else all(towers)
        assert {"loss", "short/loss", "text/loss", "short/accuracy"} <= set(history) and len(history["loss"]) == 3


def test_a_stage_that_is_cut_off_ends_the_same(params, tmp_path, monkeypatch):
    """A stage that is saved and stopped after 2 of 4 steps ends, bit by bit, like one that was not stopped."""
    stage = small(steps=4)
    whole, _ = train_stage(stage, params, CONFIG, None)
    monkeypatch.setattr(stages, "SAVE_EVERY", 2)
    fit = stages.loop.fit

    def stopped(step, state, batches, num_steps, **kwargs):
        return fit(step, state, batches, 2, **kwargs)

    monkeypatch.setattr(stages.loop, "fit", stopped)
    train_stage(stage, params, CONFIG, tmp_path / "run")
    monkeypatch.setattr(stages.loop, "fit", fit)
    resumed, history = train_stage(stage, params, CONFIG, tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    assert len(history["loss"]) == 4


def test_saves_of_another_recipe_raise(params, tmp_path, monkeypatch):
    """More rows, another peak, seed or model: a run from these saves would be neither the old training nor the new."""
    recipes = []
    monkeypatch.setattr(
        stages.loop, "fit", lambda *_, recipe, **saves: (recipes.append(recipe) or SimpleNamespace(params={}), {})
    )
    stage, folder = small(), tmp_path / "run"
    for _ in range(2):  # the same recipe may continue
        train_stage(stage, params, CONFIG, folder)
    others = [
        (small(rows={"short": 3, "text": 2}), CONFIG, 0),
        (small(peak=0.02), CONFIG, 0),
        (stage, CONFIG.replace(max_images=8), 0),
        (stage, CONFIG, 1),
    ]
    for other, config, seed in others:
        train_stage(other, params, config, folder, seed=seed)
    assert recipes[0] == recipes[1] and len(set(recipes)) == 5  # `loop.fit` refuses to go on with another one


def test_all_stages_follow_each_other(tmp_path, monkeypatch):
    """Two steps each: shapes fit from stage to stage, and a finished run is read from its saves, not run again."""
    two = {"steps": 2, "weights": FEW, "rows": dict.fromkeys(SHAPES, 2)}
    few = {name: dataclasses.replace(stage, **two) for name, stage in STAGES.items()}
    monkeypatch.setattr(stages, "STAGES", few)
    monkeypatch.setattr(stages, "OCR", {"steps": 2, "batch_size": 2, "peak": 1e-3})
    params, config = stages.train_all(tmp_path, CONFIG)
    assert config == CONFIG and {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"ocr", *STAGES}
    again, _ = stages.train_all(tmp_path, CONFIG)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert jnp.isfinite(params["tower"]["pos_embedding"]).all()


# --- the released model ---


def test_the_released_model_names_objects_and_needs_the_images():
    """New images of known objects. The file is small enough to be part of the kit."""
    model, released = stages.released()
    assert stages.released_file().stat().st_size <= 8_000_000
    examples = kit_tasks.caption_examples("en")(32, 5)
    score, blind = (
        scores.exact_matches(
            generation.generated_texts(model, released, tasks.with_control(examples, control), batch_size=32), examples
        ).mean()
        for control in (None, "blind")
    )
    assert score > 0.3 and blind < 0.1


def test_the_stored_scores_are_of_every_task_and_of_this_recipe():
    path = stages.released_file().with_suffix(".csv")
    table = pd.read_csv(path, comment="#").set_index("task")
    assert list(table.index) == [task.name for task in kit_tasks.TASKS]
    assert list(table["unit"]) == [task.unit for task in kit_tasks.TASKS]
    assert (table["low"] <= table["score"]).all() and (table["score"] <= table["high"]).all()
    assert table[["score", "blind", "shuffled"]].stack().between(0, 1).all()
    steps = {"ocr": stages.OCR["steps"]} | {name: stage.steps for name, stage in STAGES.items()}
    assert f"# kit stages: seed 0, steps {steps}; " in path.read_text()


def test_the_model_card_says_what_the_file_is():
    card, (model, params) = (ROOT / "data" / "checkpoints" / "README.md").read_text(), stages.released()
    assert f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters" in card
    rows, columns = model.config.tower.image_size
    assert f"{rows} x {columns} pixels" in " ".join(card.split())
    assert f"{model.config.text.vocab_size:,} pieces" in card
    assert all(f'"{part}/..."' in card for part in params)
