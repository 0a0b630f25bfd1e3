"""kitlib.multimodal.stages: mixtures, cached features, resolutions, and stages that are stopped and resumed."""

import dataclasses
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from kitlib import configs
from kitlib.data import tokenizer
from kitlib.models import palix
from kitlib.multimodal import generation, kit_scores, mixtures, prompts, stages, tasks
from kitlib.multimodal.batching import Tower
from kitlib.multimodal.mixtures import Mixture, shares_that_fit
from kitlib.multimodal.stages import GROUPS, STAGES, Stage, at_resolution, groups, train_stage

pytestmark = pytest.mark.slow

WORDS = tokenizer.multilingual()
# One block each: the tests do not depend on depth, and every block costs seconds of compilation.
CONFIG = configs.palix(
    "XS",
    tower={"image_size": (64, 64), "depth": 1},
    text={"vocab_size": WORDS.vocab_size, "num_encoder_layers": 1, "num_decoder_layers": 1},
)
WEIGHTS = {"name": {"captioning": 1}, "text": {"span_corruption": 1}}
ROWS = {"name": 2, "text": 1}


@pytest.fixture(scope="module")
def params():
    return palix.init_params(palix.PaLIX(CONFIG))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(mixtures.feature_batches, "__kwdefaults__", {"steps": 2})


def test_the_last_five_stages_have_all_thirteen_objectives():
    """vqa, split_ocr, detection and episodic_vqa also through their parts."""
    parts = {"easy_vqa": "vqa", "reading": "split_ocr", "finding": "detection"}
    for name in ("all", "weak", "shots", "words", "look"):
        stage = STAGES[name]
        trained = {parts.get(name, name) for weights in stage.weights.values() for name in weights}
        assert trained >= set(prompts.PREFIXES)
    assert all(set(stage.rows) == set(stage.weights) <= set(GROUPS) for stage in STAGES.values())
    assert list(STAGES) == ["base", "bind", "all", "weak", "shots", "words", "look"]


def test_names_are_taught_in_every_stage_and_images_are_told_apart_from_the_second_on():
    always = {"captioning", "naming", "naming_by_english", "translation", "recall", "reading", "finding"}
    pairs = {"base": "", "shots": "two_exemplars_by_name"}
    pairs |= dict.fromkeys(("words", "look"), "two_made_up_words_by_name")
    for name, stage in STAGES.items():
        trained = {task for weights in stage.weights.values() for task in weights}
        assert trained >= always and "made_up_words" not in trained  # the tests' words, asked for at once
        apart = {pairs.get(name, "two_exemplars"), "video_questions_by_positions"}
        assert trained & apart == (set() if name == "base" else apart)


@pytest.mark.parametrize("name", list(STAGES))
def test_batches_have_the_shapes_of_their_groups(name, params, tmp_path):
    tower = Tower(CONFIG.tower, params["tower"])
    batch = next(mixtures.feature_batches(groups(STAGES[name], seed=3), WORDS, tower, tmp_path, steps=1))
    assert set(batch) == set(STAGES[name].rows)
    for group, arrays in batch.items():
        images, prompt_length, target_length = GROUPS[group][0]
        few_shot, rows = (images,) if group in ("few", "four", "pair") else (), STAGES[name].rows[group]
        assert arrays["prompt_tokens"].shape == (rows, *few_shot, prompt_length)
        assert arrays["targets"].shape == (rows, target_length) and (arrays["targets"][:, 0] != 0).all()
        assert arrays["features"].shape == (rows, images, 64, 64) if images else "features" not in arrays


def test_examples_of_every_task_of_a_stage_fit():
    """Examples that are left out make a task rarer than its weight says: of 40 per task, at most a fifth."""
    done = set()
    for stage in STAGES.values():
        for name, group in groups(stage, 0).items():
            new = {task: weight for task, weight in group.mixture.weights.items() if (name, task) not in done}
            done |= {(name, task) for task in new}
            if new:
                part = dataclasses.replace(group, mixture=Mixture(group.mixture.tasks, new))
                shares = shares_that_fit(part, WORDS, 40)
                assert min(shares.values()) >= 0.8, (name, shares)


def test_other_seeds_give_other_examples_and_every_group_has_its_own():
    one, other, same = (groups(STAGES["base"], seed)["name"].mixture.draw(0).images for seed in (0, 1, 0))
    assert (one != other).any() and (one == same).all()
    made = groups(STAGES["all"], 5)
    assert [group.mixture.seed for group in made.values()] == [*range(5, 5 + len(made))]


def test_a_larger_grid_and_back(params):
    """8 x 8 positions become 12 x 12 and 8 x 8 again; the corners stay the same. Of rows and columns the first and the
    last stay; the second, one of 11 steps down instead of one of 7, lies at 7/11 of the way from the first to the
    second of the old ones."""
    table, images = params["tower"]["pos_embedding"], np.ones((16, 64), np.float32)
    rows, columns = (np.random.default_rng(i).normal(size=(8, 64)).astype(np.float32) for i in range(2))
    lines = {"row_embedding": rows, "column_embedding": columns, "image_embedding": images}
    larger, config = at_resolution(params | {"positions": lines}, CONFIG, 96)
    assert config.tower.grid == (12, 12) and larger["tower"]["pos_embedding"].shape == (1, 144, 64)
    corners = larger["tower"]["pos_embedding"][0, [0, 11, 132, 143]]
    np.testing.assert_allclose(corners, table[0, [0, 7, 56, 63]], atol=1e-6)
    found = jax.tree.map(np.asarray, larger["positions"])
    np.testing.assert_allclose(found["row_embedding"][[0, 11]], rows[[0, 7]], atol=1e-6)
    np.testing.assert_allclose(found["row_embedding"][1], rows[0] + 7 / 11 * (rows[1] - rows[0]), atol=1e-6)
    assert found["column_embedding"].shape == (12, 64) and (found["image_embedding"] == images).all()
    back, again = at_resolution(larger, config, 64)
    assert again == CONFIG
    np.testing.assert_allclose(back["tower"]["pos_embedding"][0, [0, 63]], table[0, [0, 63]], atol=1e-6)
    assert at_resolution(params, CONFIG, 64)[0]["tower"]["pos_embedding"] is table


def small(**fields) -> Stage:
    return Stage(**{"weights": WEIGHTS, "rows": ROWS, "steps": 3, "peak": 0.01} | fields)


def test_the_tower_stays_and_all_else_moves(params, tmp_path):
    after, history = train_stage(small(), params, CONFIG, tmp_path)
    moved = jax.tree.map(lambda a, b: bool((np.asarray(a) != b).any()), after, params)
    assert not any(jax.tree.leaves(moved["tower"]))
    assert all(jax.tree.leaves(moved["text"])) and all(jax.tree.leaves(moved["projection"]))
    assert moved["positions"]["row_embedding"] and moved["positions"]["column_embedding"]
    assert "name/accuracy" in history and len(history["loss"]) == 3
    of_rows = 2 / 3 * history["name/loss"] + 1 / 3 * history["text/loss"]  # a group weighs as much as it has rows
    np.testing.assert_allclose(history["loss"], of_rows, rtol=1e-5)


def test_a_stage_that_is_cut_off_ends_the_same(params, tmp_path, monkeypatch):
    """A stage that is saved and stopped after 3 of 5 steps, in the middle of a shard of features, ends, bit by bit,
    like one that was not stopped."""
    stage = small(steps=5)
    whole, _ = train_stage(stage, params, CONFIG, tmp_path / "whole")
    monkeypatch.setattr(stages, "SAVE_EVERY", 3)
    fit = stages.loop.fit
    with monkeypatch.context() as stopped:
        stopped.setattr(stages.loop, "fit", lambda *args, **kwargs: fit(*args[:3], 3, **kwargs))
        train_stage(stage, params, CONFIG, tmp_path / "run")
    resumed, history = train_stage(stage, params, CONFIG, tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    assert len(history["loss"]) == 5


def test_saves_of_another_recipe_raise(params, tmp_path, monkeypatch):
    """More rows, another peak, seed, model or start: from these saves, a run would be neither the old nor the new."""
    recipes = []

    def fit(*_, recipe, **saves):
        recipes.append(recipe)
        return SimpleNamespace(params={}), {}

    monkeypatch.setattr(stages.loop, "fit", fit)
    stage, more, faster = small(), small(rows={"name": 3, "text": 2}), small(peak=0.02)
    moved = jax.tree.map(lambda x: x + 1e-6, params)  # the stage before was another one
    runs = [(stage, params, CONFIG, 0)] * 2  # the same recipe may continue
    runs += [(more, params, CONFIG, 0), (faster, params, CONFIG, 0), (stage, params, CONFIG.replace(max_images=8), 0)]
    runs += [(stage, params, CONFIG, 1), (stage, moved, CONFIG, 0)]
    for recipe, start, config, seed in runs:
        train_stage(recipe, start, config, tmp_path / "run", seed=seed)
    assert recipes[0] == recipes[1] and len(set(recipes)) == 6  # `loop.fit` refuses to go on with another one


def test_all_stages_follow_each_other(tmp_path, monkeypatch):
    """Two steps each: every stage starts from the one before, and a finished run is read from its saves."""
    few = {name: dataclasses.replace(stage, weights=WEIGHTS, rows=ROWS, steps=2) for name, stage in STAGES.items()}
    monkeypatch.setattr(stages, "STAGES", few)
    monkeypatch.setattr(stages, "OCR", {"steps": 2, "batch_size": 2, "peak": 1e-3})
    made, histories = stages.train_all(tmp_path, CONFIG)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"ocr", *STAGES} == set(histories)
    monkeypatch.setattr(stages.loop, "make_step", lambda *_: None)  # nothing is trained again
    again, _ = stages.train_all(tmp_path, CONFIG)
    jax.tree.map(np.testing.assert_array_equal, again, made)
    assert list(made) == list(STAGES) and jnp.isfinite(made["look"]["tower"]["pos_embedding"]).all()
    texts = [params["projection"]["kernel"] for params in made.values()]
    assert all((one != other).any() for one, other in itertools.pairwise(texts))


def test_scores_are_written_with_their_command_and_noted(tmp_path, monkeypatch):
    """Beside the weights, four tables; every file is noted in the list of checksums."""
    noted, path, one = [], tmp_path / "palix_s.safetensors", pd.DataFrame({"task": ["captions"], "score": [0.5]})
    monkeypatch.setattr(stages.files, "note_checksum", noted.append)
    parts = ("", "_losses", "_between", "_styles")
    stages.write_scores(path, dict.fromkeys(parts, one), seed=3)
    assert noted == [path, *(tmp_path / f"palix_s{part}.csv" for part in parts)]
    for file in noted[1:]:
        assert file.read_text().startswith("# kit train palix_s: seed 3, steps {'ocr': 12000, 'base': 5000,")
        assert pd.read_csv(file, comment="#")["score"].item() == 0.5


def test_loss_curves_are_means_over_steps():
    """Of five losses 1 to 5 and two steps a row: 1.5, 3.5, and 5 alone. Accuracies are no losses."""
    histories = {"ocr": {"loss": np.arange(1, 6.0), "found": np.zeros(5)}, "base": {"name/loss": np.ones(1)}}
    table = stages.loss_curves(histories, every=2)
    assert table.to_dict("list") == {
        "stage": ["ocr"] * 3 + ["base"], "step": [2, 4, 5, 1], "loss": ["loss"] * 3 + ["name/loss"],
        "mean": [1.5, 3.5, 5.0, 1.0],
    }  # fmt: skip


def test_the_released_model_names_objects_and_needs_the_images():
    """New images of known objects. The file is small enough to be part of the kit."""
    model, released = stages.released()
    assert stages.released_file().stat().st_size <= 12_000_000
    examples = kit_scores.caption_examples("en")(32, 5)
    for control, least, most in ((None, 0.6, 1), ("blind", 0, 0.1)):
        shown = tasks.with_control(examples, control)
        texts = generation.generated_texts(model, released, shown, batch_size=32)
        assert least <= tasks.exact_matches(texts, examples).mean() <= most


def test_the_stored_scores_are_of_every_test_and_of_this_recipe():
    path = stages.released_file().with_suffix(".csv")
    table = pd.read_csv(path, comment="#").set_index("task")
    assert list(table.index) == [task.name for task in kit_scores.TASKS]
    assert list(table["unit"]) == [task.unit for task in kit_scores.TASKS]
    assert (table["low"] <= table["score"]).all() and (table["score"] <= table["high"]).all()
    assert table[["score", "blind", "shuffled"]].stack().between(0, 1).all()
    steps = {"ocr": stages.OCR["steps"]} | {name: stage.steps for name, stage in STAGES.items()}
    files = [path, *(path.with_name(f"palix_s_{name}.csv") for name in ("losses", "between", "styles"))]
    assert all(f"# kit train palix_s: seed 0, steps {steps}; " in file.read_text() for file in files)
    curves = pd.read_csv(files[1], comment="#")
    assert curves.groupby("stage")["step"].max().to_dict() == steps


def test_all_stages_have_the_tower_of_stage_0_and_a_seed_of_their_own(tmp_path, monkeypatch):
    seen = []

    def train(stage, params, config, folder, *, name, seed):
        seen.append((params["tower"], seed))
        return params, {}

    monkeypatch.setattr(stages.palix, "init_params", lambda model, seed: {"tower": "untrained"})
    monkeypatch.setattr(stages.ocr_pretraining, "labelled_builder", lambda *_: None)
    monkeypatch.setattr(stages.ocr_pretraining, "pretrain", lambda *_, **__: ("trained", {}))
    monkeypatch.setattr(stages, "train_stage", train)
    stages.train_all(tmp_path, CONFIG)
    assert {tower for tower, _ in seen} == {"trained"} and len({seed for _, seed in seen}) == len(STAGES)


def test_what_is_released_lies_between_the_two_stages_and_is_what_was_scored(tmp_path, monkeypatch):
    """The stages before and after have 3 and 6 as their parameter; at a share of 0.9 it is 3 + 0.9 * 3 = 5.7."""
    made = {name: {"a": float(i), "tower": {}} for i, name in enumerate(STAGES)}
    table, asked, used = pd.DataFrame({"share": [0.0, 0.9], stages.LEARNED: [0.0, 1.0]}), [], []
    monkeypatch.setattr(stages, "train_all", lambda *_, **__: (made, {}))
    monkeypatch.setattr(stages, "scores_between", lambda _, *ends: asked.extend(ends[:2]) or table)
    monkeypatch.setattr(stages, "scorecard", lambda _, params, *__, **___: used.append(params["a"]) or table)
    monkeypatch.setattr(stages.probes, "named_by_style", lambda tower: table)
    monkeypatch.setattr(stages.files, "writable", lambda name: tmp_path / name)
    monkeypatch.setattr(stages.checkpoint, "save", lambda path, params: used.append(params["a"]))
    monkeypatch.setattr(stages, "write_scores", lambda *_: None)
    stages.main(tmp_path)
    assert [one["a"] for one in asked] == [3, 6] and used == pytest.approx([5.7, 5.7])
