"""kitlib.multimodal.generation: texts do not depend on batches or padding, and are cut off at a maximum length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitlib import configs
from kitlib.data import tokenizer
from kitlib.models import decode, palix
from kitlib.models.t5 import shift_right
from kitlib.multimodal import batching, generation, objectives
from kitlib.multimodal.generation import generated_texts
from kitlib.multimodal.prompts import Example

pytestmark = pytest.mark.slow

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
THREE = [
    Example(np.full((1, 64, 64, 3), colour, np.uint8), f"which {i}?", ((f"answer {i}", True),), "vqa")
    for i, colour in enumerate(COLOURS)
]


@pytest.fixture(scope="module")
def model():
    words = tokenizer.multilingual()
    config = configs.palix("XS", tower={"image_size": (64, 64)}, text={"vocab_size": words.vocab_size})
    return palix.PaLIX(config), palix.init_params(palix.PaLIX(config))


def test_the_log_probability_of_a_text_is_the_models(model):
    """The sum of the log-probabilities that the model gives the text's tokens when it reads them, up to eos."""
    texts, log_probs = generation.texts_and_log_probs(*model, THREE, batch_size=4)
    assert texts == generated_texts(*model, THREE, batch_size=4) and log_probs.shape == (3,)
    shape = generation.batch_shape(model[0], THREE)
    batch = batching.to_arrays(THREE, tokenizer.multilingual(), **shape)
    inputs = {name: batch[name] for name in ("images", "images_valid", "prompt_tokens")}
    tokens, _ = decode.greedy(*model, inputs, max_length=12)
    read = batch["images"], batch["prompt_tokens"], shift_right(tokens)
    logits, _ = model[0].apply({"params": model[1]}, *read, images_valid=np.ones((3, 1), bool))
    of_tokens = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
    written = np.cumsum(np.asarray(tokens) == 1, axis=1) - (np.asarray(tokens) == 1) == 0  # up to the first eos
    np.testing.assert_allclose(log_probs, np.where(written, of_tokens, 0).sum(axis=1), rtol=1e-4)


def test_a_text_may_be_longer_than_all_targets(model, monkeypatch):
    """It is cut off at one and a half times the padded length of the targets: here 8 tokens, so 12."""
    given = {}

    def endless(model, params, inputs, *, max_length):
        given["length"] = max_length
        shape = (len(inputs["prompt_tokens"]), max_length)
        return np.full(shape, 500), np.zeros(shape, np.float32)

    monkeypatch.setattr(generation.decode, "greedy", endless)
    assert len(generated_texts(*model, THREE)) == 3 and given["length"] == 12


def test_texts_do_not_depend_on_the_padding(model):
    """A longer prompt is padding. A longer target lets the model continue: the old texts begin the new ones."""
    shape = generation.batch_shape(model[0], THREE)
    padded = generated_texts(*model, THREE, batch_size=4, shape=shape | {"prompt_length": shape["prompt_length"] + 8})
    longer = generated_texts(*model, THREE, batch_size=4, shape=shape | {"target_length": shape["target_length"] + 8})
    assert padded == generated_texts(*model, THREE, batch_size=4)
    assert all(text.startswith(start) for text, start in zip(longer, padded, strict=True))


def test_few_shot_texts_of_up_to_28_tokens_are_generated(model):
    """28 is the most that a text may have, and no multiple of 8; the longest of these has 25 to 28."""

    def asked(dogs: int) -> Example:
        return objectives.episodic_vqa(np.zeros((2, 64, 64, 3), np.uint8), ["dog " * dogs + "?"] * 2, ["1", "2"], "en")

    lengths = [batching.tokenise(asked(dogs), tokenizer.multilingual()).prompt_length for dogs in range(40)]
    example = asked(next(dogs for dogs, length in enumerate(lengths) if 24 < length <= palix.FEW_SHOT_TEXT_LENGTH))
    assert generation.batch_shape(model[0], [example])["prompt_length"] == 28
    assert len(generated_texts(*model, [example])) == 1


def test_every_image_goes_through_the_tower_once(model, monkeypatch):
    """Six prompts about three images, two of them with two images each: the tower sees three; the texts are those of
    one prompt at a time."""
    seen, real = [], batching.tower_output
    monkeypatch.setattr(batching, "tower_output", lambda *args: seen.append(len(args[2])) or real(*args))
    pairs = (THREE[:2], THREE[1:])
    videos = [Example(np.concatenate([one.images, two.images]), "what?", one.target, "vqa") for one, two in pairs]
    asked = [*THREE, *videos, Example(THREE[0].images, "what?", THREE[0].target, "vqa")]
    shape = generation.batch_shape(model[0], asked)
    texts, log_probs = generation.texts_and_log_probs(*model, asked, batch_size=4, shape=shape)
    assert seen == [3]
    alone = [generation.texts_and_log_probs(*model, [one], batch_size=1, shape=shape) for one in asked]
    assert texts == [text for (text,), _ in alone]
    np.testing.assert_allclose(log_probs, np.concatenate([found for _, found in alone]), rtol=1e-4)


def test_more_examples_than_a_window(model, monkeypatch):
    """Windows of two examples: the same texts, in order."""
    expected = generated_texts(*model, THREE, batch_size=4)
    monkeypatch.setattr(generation, "WINDOW", 2)
    assert generated_texts(*model, THREE, batch_size=4) == expected


def test_bad_input_is_refused(model):
    shape, video = (
        generation.batch_shape(model[0], THREE),
        Example(np.zeros((3, 64, 64, 3), np.uint8), "a", THREE[0].target, "vqa"),
    )
    few = objectives.episodic_vqa(np.zeros((2, 64, 64, 3), np.uint8), ["a", "b"], ["c", "d"], "en")
    for examples, options, message in (
        ([], {}, "There are no examples"),
        ([], {"shape": shape}, "There are no examples"),
        (THREE, {"batch_size": 0}, "batch_size is 0"),
        (THREE, {"shape": shape | {"prompt_length": 2}}, "the batch takes 1 images, few-shot .* of 2 tokens"),
        ([video], {"shape": shape}, "the batch takes 1 images"),
        ([THREE[0], few], {}, "batch of their own"),
    ):
        with pytest.raises(ValueError, match=message):
            generated_texts(*model, examples, **options)
