"""kitlib.multimodal.batching: rows token by token, loss weights, and packed rows that equal rows of one text each."""

import jax
import numpy as np
import pytest

from kitlib import configs
from kitlib.data import tokenizer
from kitlib.models import palix
from kitlib.multimodal import objectives
from kitlib.multimodal.batching import pack, prompt_tokens, target_tokens, to_arrays, tokenise
from kitlib.multimodal.prompts import Example

pytestmark = pytest.mark.slow

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


def test_packing_does_not_change_the_loss():
    """Loss and gradients of a packed row are the same as with one text per row: the texts do not see each other."""
    model = palix.PaLIX(configs.palix("XS", tower={"depth": 1}, text=ONE_LAYER))
    params, several = palix.init_params(model), texts(4)
    loss = jax.jit(jax.value_and_grad(lambda p, batch: palix.answer_loss(model)(p, batch, jax.random.key(0))[0]))
    together = loss(params, packed([several], 128, 64))
    apart = loss(params, packed([[text] for text in several], 128, 64))
    np.testing.assert_allclose(together[0], apart[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), together[1], apart[1])


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
