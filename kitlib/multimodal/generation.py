"""The texts that a PaLI-X generates for a list of examples, in batches of one shape, so that it is compiled once.

    texts = generated_texts(model, params, examples)       # one string per example

Examples are tokenised once and written by `decode.greedy`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from kitlib.data import tokenizer as tokenizers
from kitlib.models import decode
from kitlib.multimodal import batching
from kitlib.multimodal.prompts import Example


def batch_shape(model, examples: Sequence[Example]) -> dict[str, int]:
    """The lengths for `batching.to_arrays` into which all examples fit. Raises ValueError if there are none."""
    return _shape(model, _tokenised(examples))


def _tokenised(examples: Sequence[Example]) -> list[batching.Tokenised]:
    if not examples:
        raise ValueError("There are no examples, so there is nothing to evaluate.")
    words = tokenizers.multilingual()
    return [batching.tokenise(example, words) for example in examples]


def _shape(model, tokenised: Sequence[batching.Tokenised]) -> dict[str, int]:
    return {
        "num_images": max(1, *(len(one.images) for one in tokenised)),
        "prompt_length": _rounded(max(one.prompt_length for one in tokenised)),
        "target_length": _rounded(max(len(one.target_tokens) for one in tokenised)),
        "image_size": model.config.tower.image_size[0],
    }


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
    texts, log_probs = [], []
    for start in range(0, len(tokenised), batch_size):
        chunk = tokenised[start : start + batch_size]
        padded = chunk + [chunk[-1]] * (batch_size - len(chunk))
        batch = batching.rows_to_arrays(padded, words.pad_id, **shape)
        inputs = {name: batch[name] for name in ("images", "images_valid", "prompt_tokens")}
        tokens, of_tokens = decode.greedy(model, params, inputs, max_length=shape["target_length"] * 3 // 2)
        texts += [words.decode(row).strip() for row in np.asarray(tokens)[: len(chunk)]]
        log_probs += np.asarray(of_tokens).sum(axis=1)[: len(chunk)].tolist()
    return texts, np.array(log_probs, np.float32)


def _rounded(length: int) -> int:
    """Rounded up to a multiple of 8, so that there are few shapes and few compilations."""
    return -(-length // 8) * 8
