"""The texts that a PaLI-X generates for a list of examples, in batches of one shape, so that it is compiled once.

    texts = generated_texts(model, params, examples)       # one string per example

Examples are tokenised once, every image goes through the tower once, however many examples show it (one image and
sixteen languages: a quarter of the time less), and `decode.greedy` writes the texts.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from kitlib.data import tokenizer as tokenizers
from kitlib.models import decode
from kitlib.models.palix import FEW_SHOT_TEXT_LENGTH
from kitlib.multimodal import batching
from kitlib.multimodal.prompts import Example

WINDOW = 1024  # examples whose images are compared and whose features are in memory at a time


def batch_shape(model, examples: Sequence[Example]) -> dict[str, int]:
    """The lengths for `batching.to_arrays` into which all examples fit. Raises ValueError if there are none."""
    return _shape(model, _tokenised(examples))


def _tokenised(examples: Sequence[Example]) -> list[batching.Tokenised]:
    if not examples:
        raise ValueError("There are no examples, so there is nothing to evaluate.")
    words = tokenizers.multilingual()
    return [batching.tokenise(example, words) for example in examples]


def _shape(model, tokenised: Sequence[batching.Tokenised]) -> dict[str, int]:
    longest = max(one.prompt_length for one in tokenised)
    prompt_length = _rounded(longest)
    if longest <= FEW_SHOT_TEXT_LENGTH and any(one.few_shot for one in tokenised):
        prompt_length = min(prompt_length, FEW_SHOT_TEXT_LENGTH)  # no multiple of 8
    return {
        "num_images": max(1, *(len(one.images) for one in tokenised)),
        "prompt_length": prompt_length,
        "target_length": _rounded(max(len(one.target_tokens) for one in tokenised)),
        "image_size": model.config.tower.image_size[0],
    }


def _rounded(length: int) -> int:
    """Rounded up to a multiple of 8, so that there are few shapes and few compilations."""
    return -(-length // 8) * 8


def generated_texts(
    model, params, examples: Sequence[Example], *, batch_size: int = 64, shape: Mapping[str, int] | None = None
) -> list[str]:
    """The text that the model generates for each example, by greedy decoding: the first of `texts_and_log_probs`."""
    return texts_and_log_probs(model, params, examples, batch_size=batch_size, shape=shape)[0]


def texts_and_log_probs(
    model, params, examples: Sequence[Example], *, batch_size: int = 64, shape: Mapping[str, int] | None = None
) -> tuple[list[str], np.ndarray]:
    """(the text that the model generates for each example, by greedy decoding; their log-probabilities float32[n]).

    A text may have 1.5 times as many tokens as the longest target, so that a model can also write too much; there it is
    cut off. shape: as returned by `batch_shape`; calls with one shape are compiled once. Raises ValueError for no
    examples, a mix of few-shot and other examples, examples that do not fit, and a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
    words, tokenised = tokenizers.multilingual(), _tokenised(examples)
    shape = shape or _shape(model, tokenised)
    lengths = {name: shape[name] for name in ("num_images", "prompt_length", "target_length")}
    texts, log_probs = [], []
    for start in range(0, len(tokenised), WINDOW):
        window = tokenised[start : start + WINDOW]
        arrays = batching.texts_to_arrays(window, words.pad_id, **lengths)
        features, numbers = batching.features_of(window, model.config.tower, params["tower"], shape["num_images"])
        for at in range(0, len(window), batch_size):
            # A last batch that is not full is filled with its last row.
            rows = np.minimum(np.arange(at, at + batch_size), len(window) - 1)
            inputs = {name: arrays[name][rows] for name in ("images_valid", "prompt_tokens")}
            inputs["features"] = features[numbers[rows]]  # [B, n, k, D_v]
            tokens, of_tokens = decode.greedy(model, params, inputs, max_length=shape["target_length"] * 3 // 2)
            kept = len(window) - at
            texts += [words.decode(row).strip() for row in np.asarray(tokens)[:kept]]
            log_probs += np.asarray(of_tokens).sum(axis=1)[:kept].tolist()
    return texts, np.array(log_probs, np.float32)
