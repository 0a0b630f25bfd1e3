"""Batches of text for denoising: fixed shapes, seeded, resumable to the exact batch; `image_batches` for text.

    stream = token_stream(data.glosses("train"), tokenizer)          # all texts, concatenated
    for batch in batches(stream, tokenizer, 64, denoisers=denoise.UL2, num_epochs=1): ...

Every epoch cuts the stream, closed to a ring, into chunks from a random position, visits the chunks in a random order
and draws new noise for each. Example i of epoch e is a pure function of (seed, e, i): the state of a training run is
one integer, and the examples do not depend on the batch size.
"""

import functools
import sys
from collections.abc import Iterable, Sequence

import grain
import numpy as np

from kitlib.configs.arguments import whole
from kitlib.data.denoise import SPAN_CORRUPTION, Denoiser, ul2_example
from kitlib.data.files import keyed_rng
from kitlib.data.tokenizer import Tokenizer


def token_stream(texts: Iterable[str], tokenizer: Tokenizer) -> np.ndarray:
    """All texts as one sequence, int32[T], each followed by the end of sequence."""
    return np.array([i for text in texts for i in (*tokenizer.encode(text), tokenizer.eos_id)], np.int32)


def padded(rows: Sequence, length: int, pad_id: int) -> np.ndarray:
    """Rows of token ids as int32[n, length], each padded at its end."""
    out = np.full((len(rows), length), pad_id, np.int32)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return out


class Recipe:
    """Makes examples of fixed lengths from chunks of a stream, for one tokenizer and one list of denoisers.

    Attributes:
        raw_lengths: the number of tokens of the stream that each denoiser takes, as many as fill inputs_length.
        chunk: the largest of them. Where a denoiser takes fewer, the end of the chunk is unused in this epoch.
        targets_length: M, the length of the longest targets; shorter ones are padded.
    """

    def __init__(self, tokenizer: Tokenizer, inputs_length: int, denoisers: Sequence[Denoiser]):
        if not denoisers:
            raise ValueError("There is no denoiser in the list: SPAN_CORRUPTION is T5's, UL2 a mixture of seven.")
        self.tokenizer, self.inputs_length, self.denoisers = tokenizer, inputs_length, tuple(denoisers)
        prefixes = [len(tokenizer.encode(denoiser.mode)) for denoiser in denoisers]
        pairs = list(zip(self.denoisers, prefixes, strict=True))
        self.raw_lengths = [denoiser.raw_length(inputs_length, prefix) for denoiser, prefix in pairs]
        self.chunk = max(self.raw_lengths)
        self.targets_length = max(
            denoiser.lengths(raw, prefix)[1] for (denoiser, prefix), raw in zip(pairs, self.raw_lengths, strict=True)
        )

    def examples(self, chunks: Iterable[np.ndarray], which: Iterable[int], rngs: Iterable[np.random.Generator]):
        """{"inputs": int32[n, N], "targets": int32[n, M]}, example i by denoiser which[i]; padded after the eos."""
        pairs = [
            ul2_example(chunk[: self.raw_lengths[k]], self.denoisers[k], rng, self.tokenizer)
            for chunk, k, rng in zip(chunks, which, rngs, strict=True)
        ]
        inputs, targets = zip(*pairs, strict=True)
        return {
            "inputs": padded(inputs, self.inputs_length, self.tokenizer.pad_id),
            "targets": padded(targets, self.targets_length, self.tokenizer.pad_id),
        }


def batches(
    stream: np.ndarray,
    tokenizer: Tokenizer,
    batch_size: int,
    *,
    inputs_length: int = 64,
    denoisers: Sequence[Denoiser] = (SPAN_CORRUPTION,),
    seed: int = 0,
    num_epochs: int | None = None,
) -> grain.DatasetIterator:
    """An iterator over training batches {"inputs": int32[B, N], "targets": int32[B, M]}.

    `iterator.get_state()` is a small dict that JSON can write; `set_state` on an iterator made with the same arguments
    continues with the very next batch. An epoch shows each chunk of the stream once, by a denoiser drawn uniformly from
    the list, and drops the last incomplete batch.

    Args:
        stream: int32[T], from `token_stream`.
        tokenizer: the tokenizer that made the stream.
        batch_size: B.
        inputs_length: N. M follows: 14 for N = 64 and span corruption, which needs no padding.
        denoisers: `denoise.UL2` for the mixture.
        seed: at least 0.
        num_epochs: None means without end.

    Raises:
        ValueError: an argument is out of range; the stream is shorter than one batch.
        TypeError: the stream is not one array of token ids.
    """
    recipe = Recipe(tokenizer, inputs_length, denoisers)
    _check(stream, seed, batch_size=batch_size, num_epochs=1 if num_epochs is None else num_epochs)
    count = len(stream) // recipe.chunk
    steps = count // batch_size
    if not steps:
        raise ValueError(
            f"The stream of {len(stream)} tokens has {count} chunks of {recipe.chunk}, fewer than a batch of "
            f"{batch_size}: use more text or a smaller batch_size."
        )

    @functools.lru_cache(maxsize=2)  # the reader thread may be in two epochs at once
    def starts(epoch: int) -> np.ndarray:
        rng = keyed_rng(seed, 0, epoch)
        return rng.integers(len(stream)) + recipe.chunk * rng.permutation(count)

    def batch(position: int) -> dict[str, np.ndarray]:
        epoch, step = divmod(position, steps)
        indices = range(step * batch_size, (step + 1) * batch_size)
        positions = starts(epoch)[indices, None] + np.arange(recipe.chunk)
        rngs = [keyed_rng(seed, 1, epoch, i) for i in indices]
        which = [int(rng.integers(len(recipe.denoisers))) for rng in rngs]
        return recipe.examples(stream[positions % len(stream)], which, rngs)

    epochs = num_epochs if num_epochs is not None else sys.maxsize // steps
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)  # works while the device computes
    return iter(grain.MapDataset.range(steps * epochs).map(batch).to_iter_dataset(options))


def evaluation_set(
    stream: np.ndarray,
    tokenizer: Tokenizer,
    count: int,
    *,
    inputs_length: int = 64,
    denoisers: Sequence[Denoiser] = (SPAN_CORRUPTION,),
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """A fixed set of examples to compare models on: {"inputs": int32[n, N], "targets": int32[n, M], "denoiser":
    int32[n]}, n = count.

    It takes the first n chunks of the stream in their order, and the denoisers one after the other. "denoiser" is the
    index in the list, so that each denoiser's loss can be computed. Example i depends on (seed, i) alone. Raises
    ValueError if the stream has fewer chunks than count, and otherwise as `batches`.
    """
    recipe = Recipe(tokenizer, inputs_length, denoisers)
    _check(stream, seed, count=count)
    if count > len(stream) // recipe.chunk:
        raise ValueError(
            f"The stream of {len(stream)} tokens has {len(stream) // recipe.chunk} chunks of {recipe.chunk}, fewer "
            f"than count, {count}."
        )
    which = np.arange(count, dtype=np.int32) % len(recipe.denoisers)
    chunks = stream[: count * recipe.chunk].reshape(count, recipe.chunk)
    return {**recipe.examples(chunks, which, [keyed_rng(seed, 2, i) for i in range(count)]), "denoiser": which}


def _check(stream, seed: int, **positive: int) -> None:
    if not isinstance(stream, np.ndarray) or stream.ndim != 1 or not np.issubdtype(stream.dtype, np.integer):
        raise TypeError("The stream is not one array of token ids, int32[T]: make it by token_stream.")
    for name, value in positive.items():
        whole(name, value, 1)
    whole("seed", seed, 0)
