"""kitlib.multimodal.batching: padding, packing, weights of tokens; what the tower says of the right image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitlib import configs
from kitlib.data import image_batches, tokenizer
from kitlib.models import palix
from kitlib.models.vit import ViT
from kitlib.multimodal import batching, objectives
from kitlib.multimodal.batching import (
    Images,
    Tower,
    pack,
    prompt_tokens,
    seen_arrays,
    target_tokens,
    to_arrays,
    tokenise,
    tower_output,
)
from kitlib.multimodal.prompts import Example

WORDS = tokenizer.multilingual()
RED = np.full((1, 64, 64, 3), (255, 0, 0), np.uint8)
QUESTION = Example(RED, "what is it?", (("a dog", True),), "vqa")
OBJECTS = (("1 2 3 4", True), (" dog", True), (" ;", True), (" 5 6 7 8", False), (" noise", True))
BOXES = Example(RED, "detect dog", OBJECTS, "detection")
HIDDEN = (("<extra_id_0> cat", True),)
TEXT = Example(np.zeros((0, 64, 64, 3), np.uint8), "the <extra_id_0> sat", HIDDEN, "span_corruption")
FEW = Example(np.repeat(RED, 3, 0), ("a", "b c", "d?"), (("e", True),), "episodic_vqa")
ONE_LAYER = {"vocab_size": 4096, "num_encoder_layers": 1, "num_decoder_layers": 1}
SHAPE = {"num_images": 1, "prompt_length": 16, "target_length": 24}


def packed(rows, prompt_length: int, target_length: int) -> dict[str, np.ndarray]:
    """`pack` of examples, several per row."""
    tokenised = [[tokenise(example, WORDS) for example in row] for row in rows]
    return pack(tokenised, WORDS.pad_id, prompt_length=prompt_length, target_length=target_length)


def texts(count: int) -> list[Example]:
    """Examples of two to nine words."""
    rng, words = np.random.default_rng(0), ("red", "dog", "apple", "is", "the", "Haus", "кот", "本")
    return [objectives.span_corruption(" ".join(rng.choice(words, rng.integers(2, 10))), rng) for _ in range(count)]


def test_texts_start_with_a_space_and_end_with_an_end_of_sequence():
    assert prompt_tokens(QUESTION, WORDS) == [[*WORDS.encode(" what is it?"), WORDS.eos_id]]
    few = Example(np.repeat(RED, 2, 0), ("a b", ""), (("d", True),), "episodic_vqa")
    assert prompt_tokens(few, WORDS) == [[*WORDS.encode(" a b"), 1], [*WORDS.encode(" "), 1]]  # nothing is a space
    ids, weights = target_tokens(QUESTION, WORDS)
    assert ids == [*WORDS.encode(" a dog"), 1] and weights == [True] * len(ids)


def test_pieces_of_a_target_keep_their_weights():
    """Numbers are one token each. The numbers of the noise box carry no loss; its name and the end do."""
    ids, weights = target_tokens(BOXES, WORDS)
    assert WORDS.decode(ids) == " 1 2 3 4 dog ; 5 6 7 8 noise" == f" {BOXES.answer}"
    without_loss = [piece for piece, weight in zip(WORDS.pieces(ids), weights, strict=True) if not weight]
    assert without_loss == ["▁5", "▁6", "▁7", "▁8"] and weights[-1]


def test_a_row_by_hand():
    batch = to_arrays([QUESTION, BOXES], WORDS, **SHAPE)
    assert {name: f"{value.dtype}{list(value.shape)}" for name, value in batch.items()} == {
        "images": "float32[2, 1, 64, 64, 3]", "images_valid": "bool[2, 1]", "prompt_tokens": "int32[2, 16]",
        "targets": "int32[2, 24]", "weights": "float32[2, 24]",
    }  # fmt: skip
    np.testing.assert_array_equal(batch["images"][0, 0, 0, 0], [1, -1, -1])
    assert batch["images_valid"].all()
    prompt = [*WORDS.encode(" what is it?"), 1]
    assert batch["prompt_tokens"][0].tolist() == prompt + [0] * (16 - len(prompt))
    n = len(target_tokens(QUESTION, WORDS)[0])
    assert batch["targets"][0, n:].tolist() == [0] * (24 - n) == batch["weights"][0, n:].tolist()


def test_the_weight_of_a_row_is_the_square_root_of_its_tokens():
    """n tokens of 1 / sqrt(n) add up to sqrt(n); tokens without loss do not count."""
    batch = to_arrays([QUESTION, BOXES], WORDS, **SHAPE)
    counts = [sum(target_tokens(example, WORDS)[1]) for example in (QUESTION, BOXES)]
    np.testing.assert_allclose(batch["weights"].sum(axis=1), np.sqrt(counts), rtol=1e-6)
    assert (batch["weights"] > 0).sum(axis=1).tolist() == counts


def test_few_shot_prompts_have_a_row_each_and_are_padded_in_front():
    batch = to_arrays([FEW], WORDS, num_images=4, prompt_length=6, target_length=4)
    assert batch["images_valid"].tolist() == [[False, True, True, True]] and not batch["images"][0, 0].any()
    assert batch["prompt_tokens"].shape == (1, 4, 6) and not batch["prompt_tokens"][0, 0].any()
    for i, part in enumerate(FEW.prompt, 1):
        ids = [*WORDS.encode(f" {part}"), 1]
        assert batch["prompt_tokens"][0, i].tolist() == ids + [0] * (6 - len(ids))


def test_wide_images_are_stretched_and_not_cropped():
    """The left quarter of the image stays the left quarter, so boxes in shares stay correct."""
    image = np.zeros((1, 64, 256, 3), np.uint8)
    image[:, :, :64] = 255
    batch = to_arrays([Example(image, "a", (("b", True),), "vqa")], WORDS, **SHAPE, image_size=32)
    np.testing.assert_array_equal(batch["images"][0, 0, :, :7], 1)  # bilinear, so the pixels at the edge are mixed
    np.testing.assert_array_equal(batch["images"][0, 0, :, 9:], -1)


def test_an_example_without_images_among_others():
    batch = to_arrays([TEXT, QUESTION], WORDS, **SHAPE)
    assert batch["images_valid"].tolist() == [[False], [True]] and not batch["images"][0].any()


def test_a_packed_row_by_hand():
    batch = packed([[TEXT, TEXT], [TEXT]], 24, 12)
    (prompt,), (ids, _) = prompt_tokens(TEXT, WORDS), target_tokens(TEXT, WORDS)
    n, m = len(prompt), len(ids)
    assert batch["prompt_tokens"][0].tolist() == prompt * 2 + [0] * (24 - 2 * n)
    assert batch["prompt_segments"][0].tolist() == [1] * n + [2] * n + [0] * (24 - 2 * n)
    assert batch["targets"][0].tolist() == ids * 2 + [0] * (12 - 2 * m)
    assert batch["target_segments"][0].tolist() == [1] * m + [2] * m + [0] * (12 - 2 * m)
    np.testing.assert_allclose(batch["weights"].sum(axis=1), [2 * np.sqrt(m), np.sqrt(m)], rtol=1e-6)


@pytest.mark.slow
def test_packing_does_not_change_the_loss():
    """Loss and gradients of a packed row are the same as with one text per row: the texts do not see each other."""
    model = palix.PaLIX(configs.palix("XS", tower={"depth": 1}, text=ONE_LAYER))
    params, several = palix.init_params(model), texts(4)
    loss = jax.jit(jax.value_and_grad(lambda p, batch: palix.answer_loss(model)(p, batch, jax.random.key(0))[0]))
    together = loss(params, packed([several], 128, 64))
    apart = loss(params, packed([[text] for text in several], 128, 64))
    np.testing.assert_allclose(together[0], apart[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), together[1], apart[1])


@pytest.mark.slow
def test_the_loss_of_groups_is_their_weighted_mean():
    model = palix.PaLIX(configs.palix("XS", tower={"image_size": (64, 64), "depth": 1}, text=ONE_LAYER))
    params, loss = palix.init_params(model), jax.jit(palix.answer_loss(model))
    groups = {"one": to_arrays([QUESTION], WORDS, **SHAPE), "text": packed([texts(2)], 64, 40)}
    shares, key = {"one": 3.0, "text": 1.0}, jax.random.key(0)
    got, metrics = palix.loss_of_groups(loss, shares)(params, groups, key)
    parts = {name: loss(params, groups[name], key) for name in groups}  # no dropout: the key does not matter
    np.testing.assert_allclose(got, 0.75 * parts["one"][0] + 0.25 * parts["text"][0], rtol=1e-6)
    for name in groups:
        np.testing.assert_allclose(metrics[f"{name}/loss"], parts[name][0], rtol=1e-6)
        np.testing.assert_allclose(metrics[f"{name}/accuracy"], parts[name][1]["accuracy"], rtol=1e-6)


MODEL, TOKENS, NO_IMAGES = palix.PaLIX(configs.palix("XS")), np.ones((1, 4), np.int32), np.zeros((1, 1, 32, 32, 3))
TWO, THREE = (Example(np.repeat(RED, n, 0), prompt, (("b", True),), "vqa") for n, prompt in ((2, "a"), (3, ("a",) * 2)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: to_arrays([QUESTION], WORDS, **SHAPE | {"prompt_length": 3}),
            "1 prompts .* of 3 tokens",
        ),
        (lambda: to_arrays([BOXES], WORDS, **SHAPE | {"target_length": 5}), "target of 15 tokens; .* a target of 5"),
        (lambda: to_arrays([TWO], WORDS, **SHAPE), "vqa has 2 images"),
        (lambda: to_arrays([THREE], WORDS, **SHAPE | {"num_images": 3}), "3 images, 2 prompts"),
        (lambda: to_arrays([QUESTION], WORDS, **SHAPE | {"num_images": 0}), "num_images >= 1, got 1 and 0"),
        (lambda: to_arrays([], WORDS, **SHAPE), "at least one example"),
        (lambda: to_arrays([FEW, QUESTION], WORDS, **SHAPE | {"num_images": 4}), "of their own, got 1 of them among 2"),
        (lambda: packed([[TEXT, TEXT]], 8, 24), r"prompts of row 0 have \d+ tokens or more, of 8"),
        (lambda: packed([[TEXT]], 24, 2), r"targets of row 0 have \d+ tokens or more, of 2"),
        (lambda: packed([[QUESTION]], 24, 24), "an example of vqa has images"),
        (lambda: palix.loss_of_groups(None, {"a": 1, "b": 1})({}, {"a": {}}, None), r"\['a'\], the loss has .* 'b'\]"),
        (lambda: MODEL.init(jax.random.key(0), NO_IMAGES, TOKENS, TOKENS, segments=TOKENS), "are not packed"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


CONFIG = configs.palix("XS").tower  # 32 pixels, 16 patches, width 64


@pytest.fixture(scope="module")
def tower():
    drawn = np.random.default_rng(0).integers(0, 256, (1, *CONFIG.image_size, 3), np.uint8)
    params = ViT(CONFIG).init(jax.random.key(0), image_batches.to_float(drawn))["params"]
    keys = iter(jax.random.split(jax.random.key(3), 100))
    return Tower(CONFIG, jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), params))


def plain(count: int) -> np.ndarray:
    """uint8[count, 32, 32, 3]: images of one grey each, with a border, so that their patches differ."""
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(32, 1).repeat(32, 2).repeat(3, 3)
    images[:, :4] = 255 - images[:, :4]
    return images


def seen_by(tower: Tower, images: np.ndarray) -> np.ndarray:
    """The slow way: every image alone."""
    apply = jax.jit(lambda image: ViT(tower.config).apply({"params": tower.params}, image)[0])
    return np.concatenate([apply(image_batches.to_float(image[None])) for image in images])


@pytest.mark.parametrize("count", [1, batching.CHUNK, batching.CHUNK + 3])
def test_the_output_is_that_of_every_image_alone(tower, count):
    """A chunk that is not full, a full one, and one more."""
    images = plain(count)
    found, one_by_one = tower_output(CONFIG, tower.params, images), seen_by(tower, images)
    assert found.dtype == np.float32 and found.shape == (count, 16, 64)
    np.testing.assert_allclose(found, one_by_one, atol=2e-5)
    half = tower.features(images)
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, one_by_one, atol=5e-3)  # float16: 11 bits


def test_no_images_have_no_output_and_images_of_another_size_are_refused(tower):
    assert tower_output(CONFIG, tower.params, Images().stacked(CONFIG)).shape == (0, 16, 64)
    with pytest.raises(ValueError, match="32"):
        tower_output(CONFIG, tower.params, np.zeros((1, 16, 16, 3), np.uint8))


def test_the_fingerprint_tells_towers_apart(tower):
    same = Tower(tower.config, jax.tree.map(np.array, tower.params))
    assert same.fingerprint == tower.fingerprint and len(tower.fingerprint) == 16
    assert Tower(tower.config.replace(num_heads=1), tower.params).fingerprint != tower.fingerprint
    other = tower.params | {"pos_embedding": jnp.asarray(tower.params["pos_embedding"]) + 1e-6}
    assert Tower(tower.config, other).fingerprint != tower.fingerprint


def test_arrays_have_the_features_of_their_own_images(tower, monkeypatch):
    """Examples about a, about b and a, and about none: features in the places of the images, zeros where there is none;
    all else is as without features. The tower sees two images."""
    a, b = plain(2)
    asked = np.stack([a]), np.stack([b, a]), np.zeros((0, 32, 32, 3), np.uint8)
    examples = [Example(images, "which?", (("a", True),), "vqa") for images in asked]
    words, lengths = tokenizer.multilingual(), {"num_images": 2, "prompt_length": 8, "target_length": 4}
    seen, real = [], batching.tower_output
    monkeypatch.setattr(batching, "tower_output", lambda *args: seen.append(len(args[2])) or real(*args))
    arrays = seen_arrays(examples, words, CONFIG, tower.params, **lengths)
    assert seen == [2] and arrays["features"].shape == (3, 2, 16, 64)
    of_a, of_b = seen_by(tower, np.stack([a, b]))
    nothing = np.zeros_like(of_a)
    np.testing.assert_allclose(arrays["features"], [[nothing, of_a], [of_b, of_a], [nothing, nothing]], atol=2e-5)
    expected = batching.to_arrays(examples, words, **lengths, image_size=32)
    assert set(arrays) - set(expected) == {"features"} and set(expected) - set(arrays) == {"images"}
    for name in set(arrays) & set(expected):
        np.testing.assert_array_equal(arrays[name], expected[name])
    with pytest.raises(ValueError, match="2 images"):
        seen_arrays(examples, words, CONFIG, tower.params, **lengths | {"num_images": 1})
