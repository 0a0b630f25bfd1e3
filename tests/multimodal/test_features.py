"""kitlib.multimodal.mixtures: what the tower says of the right image, once per image; shards, resumption, refusals."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from kitlib import configs
from kitlib.data import image_batches, tokenizer
from kitlib.models import palix
from kitlib.models.vit import ViT
from kitlib.multimodal import batching
from kitlib.multimodal.batching import Tower
from kitlib.multimodal.mixtures import Group, Mixture, draw_rows, feature_batches, make_shard
from kitlib.multimodal.prompts import Example
from kitlib.multimodal.tasks import Task

WORDS = tokenizer.multilingual()
CONFIG = configs.palix("XS", text={"vocab_size": WORDS.vocab_size})
MODEL = palix.PaLIX(CONFIG, frozen_tower=True)
LENGTHS = {"prompt_length": 12, "target_length": 6}


def plain(colour: int) -> np.ndarray:
    """An image of one grey that no other has, with a border, so that its patches differ."""
    image = np.full((32, 32, 3), colour, np.uint8)
    image[:4] = 255 - colour
    return image


def ask(*colours: int, prompt="which?", answer: str | None = None) -> Example:
    return Example(np.stack([plain(c) for c in colours]), prompt, ((answer or str(colours[-1]), True),), "vqa")


def several(rng) -> list[Example]:
    """Five examples about one image; the answer says which it is."""
    colour = int(rng.integers(200))
    return [ask(colour, prompt=f"which, {i}?", answer=f"{colour}") for i in range(5)]


def video(rng) -> Example:
    return ask(*rng.integers(200, size=int(rng.integers(1, 4))).tolist())


def text(rng) -> Example:
    return Example(np.zeros((0, 32, 32, 3), np.uint8), "one", ((str(rng.integers(9)), True),), "span_corruption")


TASKS = {
    "several": Task("several", lambda rng: several(rng)[0], draw_all=several),
    "video": Task("video", video),
    "text": Task("text", text),
}


def group(name: str, size: int, num_images: int, seed: int = 0, **lengths) -> Group:
    return Group(Mixture(TASKS, {name: 1}, seed), size, num_images, **LENGTHS | lengths, image_size=32)


GROUPS = {"one": group("several", 4, 1), "video": group("video", 2, 3), "text": group("text", 2, 0)}


@pytest.fixture(scope="module")
def tower():
    params = palix.init_params(MODEL)["tower"]
    keys = iter(jax.random.split(jax.random.key(3), 100))
    return Tower(CONFIG.tower, jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), params))


def seen_by(tower: Tower, images: np.ndarray) -> np.ndarray:
    """The slow way: every image alone."""
    apply = jax.jit(lambda image: ViT(tower.config).apply({"params": tower.params}, image)[0])
    return np.concatenate([apply(image_batches.to_float(image[None])) for image in images])


def test_every_row_has_the_features_of_its_own_images(tower, tmp_path):
    """The answers name the grey of the last image, so the right features are known."""
    found = seen_by(tower, np.stack([plain(c) for c in range(200)]))
    for batch, _ in zip(feature_batches(GROUPS, WORDS, tower, tmp_path, steps=3), range(7), strict=False):
        assert batch["one"]["features"].shape == (4, 1, 16, 64) and batch["video"]["features"].shape == (2, 3, 16, 64)
        assert set(batch["text"]) == {"prompt_tokens", "prompt_segments", "targets", "target_segments", "weights"}
        for name in ("one", "video"):
            part = batch[name]
            assert part["images_valid"][:, -1].all() and part["targets"].any(axis=1).all()
            for row, target in zip(part["features"], part["targets"], strict=True):
                np.testing.assert_allclose(row[-1], found[int(WORDS.decode(target))], atol=5e-3)


def test_an_image_with_many_prompts_is_seen_once(tower):
    arrays = make_shard({"one": GROUPS["one"]}, WORDS, tower, 0, 25)
    assert arrays["one/numbers"].shape == (100, 1)
    answers = {WORDS.decode(row) for row in arrays["one/targets"]}
    assert len(arrays["features"]) == len(answers) <= 20  # 100 rows of five each
    order = arrays["one/numbers"][:, 0]
    assert (np.diff(order) != 0).mean() > 0.5  # rows of one image do not follow each other


def test_shards_have_different_examples_and_are_functions_of_their_number(tower):
    first, again, second = (make_shard(GROUPS, WORDS, tower, number, 5) for number in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first["video/targets"] != second["video/targets"]).any()
    other = make_shard({"video": group("video", 2, 3, seed=1)}, WORDS, tower, 0, 5)
    assert (first["video/targets"] != other["video/targets"]).any()


def test_stopped_anywhere_it_goes_on_with_the_next_batch(tower, tmp_path):
    whole = feature_batches(GROUPS, WORDS, tower, tmp_path / "whole", steps=3)
    expected = [next(whole) for _ in range(8)]
    for stop in (1, 3, 4, 7):
        before = feature_batches(GROUPS, WORDS, tower, tmp_path / f"{stop}", steps=3)
        for _ in range(stop):
            next(before)
        state = json.loads(json.dumps(before.get_state()))
        after = feature_batches(GROUPS, WORDS, tower, tmp_path / (f"{stop}" if stop % 2 else "elsewhere"), steps=3)
        after.set_state(state)
        jax.tree.map(np.testing.assert_array_equal, next(after), expected[stop])
    shards = [path.name for path in sorted((tmp_path / "whole").iterdir())]
    assert shards == ["shard-00000.npz", "shard-00002.npz"]  # the first and the last one only


def test_damaged_features_and_those_of_another_tower_or_recipe_are_refused_by_name(tower, tmp_path):
    next(feature_batches(GROUPS, WORDS, tower, tmp_path, steps=3))
    next(feature_batches(GROUPS, WORDS, Tower(tower.config, jax.tree.map(np.array, tower.params)), tmp_path, steps=3))
    other = Tower(tower.config, tower.params | {"pos_embedding": tower.params["pos_embedding"] + 1e-6})
    video, of_tower = GROUPS | {"video": group("video", 2, 3, seed=1)}, r"tower \(\w{16}; this run's is \w"
    others = (of_tower, GROUPS, other, 3), ("recipe", GROUPS, tower, 4), ("recipe", video, tower, 3)
    for what, groups, seen_by, steps in others:
        with pytest.raises(ValueError, match=rf"shard-00000\.npz has features of another {what}.*delete the folder"):
            next(feature_batches(groups, WORDS, seen_by, tmp_path, steps=steps))
    (shard,) = tmp_path.iterdir()
    shard.write_bytes(shard.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"shard-00000\.npz is damaged"):
        next(feature_batches(GROUPS, WORDS, tower, tmp_path, steps=3))


def test_features_of_other_data_are_refused_by_name(tower, tmp_path, monkeypatch):
    """The same recipe in words, but the builder draws other images, or writes other texts."""
    next(feature_batches(GROUPS, WORDS, tower, tmp_path, steps=3))
    for change in ({"images": np.zeros((1, 32, 32, 3), np.uint8)}, {"prompt": "what?"}):

        def others(rng, change=change):
            return [replace(example, **change) for example in several(rng)]

        changed = TASKS | {"several": replace(TASKS["several"], draw_all=others)}
        groups = {name: replace(one, mixture=replace(one.mixture, tasks=changed)) for name, one in GROUPS.items()}
        with pytest.raises(ValueError, match=r"shard-00000\.npz has features of another data .*delete the folder"):
            next(feature_batches(groups, WORDS, tower, tmp_path, steps=3))


def test_examples_that_do_not_fit_are_left_out(tower, tmp_path):
    rows = draw_rows(group("video", 2, 2), WORDS, 0, 40)  # videos have one to three frames
    assert len(rows) == 40 and {len(row[0].images) for row in rows} == {1, 2}
    packed = draw_rows(group("text", 2, 0), WORDS, 0, 10)
    assert len(packed) == 10 and min(map(len, packed)) >= 2
    batching.pack(packed, WORDS.pad_id, **LENGTHS)  # raises if a row were too long
    with pytest.raises(ValueError, match=r"No example of video fits .* 1 prompt tokens"):
        feature_batches({"video": group("video", 2, 3, prompt_length=1)}, WORDS, tower, tmp_path)


def test_training_on_features_is_training_on_images(tower, tmp_path):
    """The loss and its gradients on a batch of features are those on the images, but for float16."""
    params = palix.init_params(MODEL) | {"tower": tower.params}
    rows = draw_rows(GROUPS["one"], WORDS, 0, 12)
    images = GROUPS["one"].texts(rows, WORDS.pad_id)
    images["images"] = batching.images_to_array([row[0] for row in rows], 1, 32)
    arrays = make_shard({"one": GROUPS["one"]}, WORDS, tower, 0, 3)
    cached = {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith("one/")}
    cached["features"] = arrays["features"][cached.pop("numbers")]
    step = jax.jit(jax.value_and_grad(lambda p, b: palix.answer_loss(MODEL)(p, b, jax.random.key(0))[0]))
    (loss, slope), (same, again) = step(params, images), step(params, cached)
    np.testing.assert_allclose(loss, same, rtol=1e-3)  # the rows have another order
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), slope, again)
