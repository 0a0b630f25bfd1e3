"""Denoising of text: span corruption as in T5, the prefix language model, UL2's mixture of both; batches of examples.

    thank you for inviting me to your party last week          tokens, of which "for inviting" and "last" are noise
    thank you <0> me to your party <1> week </s>               inputs: a sentinel in place of every span of noise
    <0> for inviting <1> last <2> </s>                         targets: every sentinel, followed by its span

The noise is drawn by T5's algorithm (Raffel et al., arXiv 1910.10683; `random_spans_noise_mask` in its code). The
mixture is UL2's (Tay et al., arXiv 2205.05131; the numbers as later papers quote its table 1).

All of this is plain numpy on one sequence of token ids, int32[L]. It runs in the input pipeline, on the CPU: the
lengths of the results depend on the mask, and under jax.jit every new length would have to be compiled.

    stream = token_stream(data.glosses("train"), tokenizer)          # all texts, concatenated
    for batch in batches(stream, tokenizer, 64, denoisers=UL2, num_epochs=1): ...

Batches have fixed shapes and are resumable to the exact one. Every epoch cuts the stream, closed to a ring, into chunks
from a random position, visits them in a random order and draws new noise for each. Example i of epoch e is a pure
function of (seed, e, i): the state of a training run is one integer, and examples do not depend on the batch size.
"""

import functools
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import grain
import numpy as np

from kitlib.configs.arguments import number, whole
from kitlib.data.files import keyed_rng
from kitlib.data.tokenizer import Tokenizer

# ---------------------------------------------------------------------------------------------- which tokens are noise


def noise_counts(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """(tokens, spans) of noise in a sequence of this length: the part of T5's algorithm that is not random.

    There are round(length * density) tokens of noise, at least one and one fewer than all, in round(tokens / mean_span)
    spans, at least one. T5 does not define densities so high that fewer tokens of text than spans would be left to
    separate them; here there are then as many spans as tokens of text.
    """
    tokens = _noise_tokens(length, density)
    number("mean_span", mean_span, 1)
    return tokens, min(max(round(tokens / mean_span), 1), length - tokens)


def _noise_tokens(length: int, density: float) -> int:
    number("density", density, above=0, below=1)
    whole("length", length, 2)  # noise and text need one token each
    return min(max(round(length * density), 1), length - 1)


def random_spans_mask(length: int, density: float, mean_span: float, rng: np.random.Generator) -> np.ndarray:
    """bool[length], True on noise. Starts with text, ends with noise; all divisions into spans are equally likely.

    Noise and text are divided at random into equally many spans, which alternate: text, noise, text, noise, ... So all
    sequences of one length have the same number of noise tokens and of spans.

    Raises ValueError for length < 2, a density outside (0, 1) or mean_span < 1.
    """
    noise, spans = noise_counts(length, density, mean_span)
    pairs = np.stack([_segments(length - noise, spans, rng), _segments(noise, spans, rng)], axis=1)
    return np.repeat(np.arange(2 * spans) % 2 == 1, pairs.reshape(-1))


def _segments(items: int, segments: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths int64[segments] of non-empty segments of the items, all divisions equally likely: draws the borders."""
    borders = np.sort(rng.permutation(items - 1)[: segments - 1]) + 1
    return np.diff(borders, prepend=0, append=items)


def corrupted_lengths(raw: int, density: float, mean_span: float) -> tuple[int, int]:
    """(inputs, targets): their lengths after `corrupt` of raw tokens. Both have one sentinel per span and an eos."""
    noise, spans = noise_counts(raw, density, mean_span)
    return raw - noise + spans + 1, noise + spans + 1


def span_lengths(inputs_length: int, density: float, mean_span: float) -> tuple[int, int, int]:
    """T5's `random_spans_helper`: (raw, inputs, targets), with the most raw tokens whose inputs fill inputs_length.

    It is (568, 512, 114) for T5's 512 tokens at 15 % in spans of 3.

    T5's rule has two traps, which published lengths have, too. At a density of exactly 1/2, targets that are one longer
    than the inputs lose a token, so that both have the same round length. And the rule forgets that there is at least
    one span: where round(noise / mean_span) is 0, raw is one token too long. `Denoiser.raw_length` always fits.

    Raises ValueError for fewer than 3 inputs (text, sentinel, eos), a density outside (0, 1) or mean_span < 1.
    """
    number("density", density, above=0, below=1)
    number("mean_span", mean_span, 1)
    if inputs_length < 3:
        raise ValueError(f"{inputs_length} inputs are too few: a token of text, a sentinel and the end need 3.")

    def lengths(raw: int) -> tuple[int, int]:
        noise = round(raw * density)
        spans = round(noise / mean_span)
        return raw - noise + spans + 1, noise + spans + 1

    raw = inputs_length - 1
    while lengths(raw + 1)[0] <= inputs_length:
        raw += 1
    inputs, targets = lengths(raw)
    if density == 0.5 and targets > inputs:
        raw, targets = raw - 1, targets - 1
    return raw, inputs, targets


# ---------------------------------------------------------------------------------------------- corrupt and restore


def corrupt(tokens: np.ndarray, mask: np.ndarray, sentinels: np.ndarray, eos: int) -> tuple[np.ndarray, np.ndarray]:
    """Moves the noise from tokens to targets: (inputs, targets), both int32 and ending in eos, as in the example above.

    Args:
        tokens: integers[L], without sentinels.
        mask: bool[L], True on noise; from `random_spans_mask` or made by hand.
        sentinels: int32[n], the ids of sentinels 0, 1, ...: `Tokenizer.sentinel_ids`.
        eos: the id that ends inputs and targets. Within tokens it is a token like any other.

    If the sequence ends with text, one more sentinel closes the targets (T5, figure 2).

    Raises ValueError for shapes that differ, no noise at all, more spans than sentinels, or sentinels among the tokens.
    """
    tokens, mask = np.asarray(tokens, np.int32), np.asarray(mask, bool)
    if tokens.ndim != 1 or mask.shape != tokens.shape:
        raise ValueError(f"tokens{list(tokens.shape)} and mask{list(mask.shape)} differ; expected one length L.")
    if not mask.any():
        raise ValueError("The mask marks no token as noise, so there is nothing to predict.")
    sentinels = np.asarray(sentinels, np.int32)
    starts = mask & ~np.concatenate([[False], mask[:-1]])
    spans = int(starts.sum())
    needed = spans + int(not mask[-1])
    if needed > len(sentinels):
        got = f"{spans} spans need {needed} sentinels, but there are {len(sentinels)}"
        raise ValueError(f"{got}: take longer spans, shorter sequences or a Tokenizer with more sentinels.")
    if np.isin(tokens, sentinels).any():
        raise ValueError("There is a sentinel among the tokens, which could not be told apart from a span's sentinel.")
    inputs = tokens.copy()
    inputs[starts] = sentinels[:spans]
    before = np.cumsum(mask)[starts] - 1  # where in the noise each span begins
    targets = np.insert(tokens[mask], before, sentinels[:spans])
    end = np.array([eos], np.int32)
    return np.concatenate([inputs[~mask | starts], end]), np.concatenate([targets, sentinels[spans:needed], end])


def restore(inputs: np.ndarray, targets: np.ndarray, sentinels: np.ndarray, eos: int, pad: int = 0) -> np.ndarray:
    """The inverse of `corrupt` and of `prefix_lm`: int32[L], the tokens. Padding after the eos is allowed.

    A mode token before the inputs stays before the tokens.

    Raises ValueError if a sequence does not end with eos, or if inputs and targets do not belong together.
    """
    inputs, targets = _body(inputs, "inputs", eos, pad), _body(targets, "targets", eos, pad)
    text, *holes = np.split(inputs, np.flatnonzero(np.isin(inputs, sentinels)))
    if not holes:
        return np.concatenate([text, targets])
    first, *spans = np.split(targets, np.flatnonzero(np.isin(targets, sentinels)))
    expected, given = [int(hole[0]) for hole in holes], [int(span[0]) for span in spans]
    rest = [len(span) for span in spans[len(holes) :]]
    if len(first) or given[: len(expected)] != expected or rest not in ([], [1]):  # [1]: the closing sentinel, alone
        got = f"the inputs need sentinels {expected}, the targets have {len(first)} tokens and then sentinels {given}"
        raise ValueError(f"These inputs and targets do not belong together: {got}.")
    return np.concatenate([text, *(part[1:] for pair in zip(spans, holes, strict=False) for part in pair)])


def prefix_lm(tokens: np.ndarray, density: float, eos: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits the tokens in two: (inputs, targets), both int32 and ending in eos, without sentinels. The last
    round(L * density) tokens are the targets, at least one and one fewer than all."""
    tokens = np.asarray(tokens, np.int32)
    cut = len(tokens) - _noise_tokens(len(tokens), density)
    return np.append(tokens[:cut], np.int32(eos)), np.append(tokens[cut:], np.int32(eos))


def _body(ids: np.ndarray, name: str, eos: int, pad: int) -> np.ndarray:
    ids = np.asarray(ids, np.int32)
    ids = ids[: len(ids) - int((np.cumsum(ids[::-1] != pad) == 0).sum())]
    if not len(ids) or ids[-1] != eos:
        raise ValueError(f"The {name} do not end with eos {eos}: a cut sequence cannot be restored.")
    return ids[:-1]


# ---------------------------------------------------------------------------------------------- mixtures


@dataclass(frozen=True)
class Denoiser:
    """One objective."""

    mode: str  # the text before the inputs that indicates the objective to the model; "" for none
    density: float  # the share of tokens that become targets
    mean_span: float | None  # mean length of a span of noise; None: the prefix language model, whose noise is the end

    def lengths(self, raw: int, prefix: int) -> tuple[int, int]:
        """(inputs, targets): their lengths after `ul2_example` of raw tokens with a mode of `prefix` ids."""
        if self.mean_span is None:
            noise = _noise_tokens(raw, self.density)
            return prefix + raw - noise + 1, noise + 1
        inputs, targets = corrupted_lengths(raw, self.density, self.mean_span)
        return prefix + inputs, targets

    def raw_length(self, inputs_length: int, prefix: int) -> int:
        """The largest number of raw tokens whose inputs, mode and eos included, fit into inputs_length; up to density
        1/2 their targets fit, too. Raises ValueError if not even 2 tokens fit."""

        def fits(raw: int) -> bool:
            inputs, targets = self.lengths(raw, prefix)
            return inputs <= inputs_length and (targets <= inputs_length or self.density > 0.5)

        if not fits(2):
            raise ValueError(f"{inputs_length} inputs are too few for {self} and {prefix} ids of mode.")
        raw = 2
        while fits(raw + 1):
            raw += 1
        return raw


SPAN_CORRUPTION = Denoiser("", 0.15, 3)  # T5's, and PaLI-X's on text alone

# UL2's seven denoisers: R, regular, [NLU]; X, extreme by long spans or much noise, [NLG]; S, sequential, [S2S]. That S
# predicts the last quarter and that all have equal shares is as commonly reported. What is listed twice is drawn twice.
UL2 = (
    Denoiser("[NLU]", 0.15, 3),
    Denoiser("[NLU]", 0.15, 8),
    Denoiser("[NLG]", 0.5, 3),
    Denoiser("[NLG]", 0.5, 8),
    Denoiser("[NLG]", 0.15, 64),
    Denoiser("[NLG]", 0.5, 64),
    Denoiser("[S2S]", 0.25, None),
)


def ul2_example(tokens: np.ndarray, denoiser: Denoiser, rng: np.random.Generator, tokenizer: Tokenizer):
    """One example of integers[L]: (inputs, targets), both int32 and ending in eos, the inputs starting with the mode
    token. Raises the errors of `corrupt`."""
    if denoiser.mean_span is None:
        inputs, targets = prefix_lm(tokens, denoiser.density, tokenizer.eos_id)
    else:
        mask = random_spans_mask(len(tokens), denoiser.density, denoiser.mean_span, rng)
        inputs, targets = corrupt(tokens, mask, tokenizer.sentinel_ids, tokenizer.eos_id)
    return np.concatenate([np.array(tokenizer.encode(denoiser.mode), np.int32), inputs]), targets


# ---------------------------------------------------------------------------------------------- batches


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

    raw_lengths: tokens of the stream that each denoiser takes, as many as fill inputs_length. chunk: the largest of
    them; where a denoiser takes fewer, the end of the chunk is unused in this epoch. targets_length: M, of the longest
    targets; shorter ones are padded.
    """

    def __init__(self, tokenizer: Tokenizer, inputs_length: int, denoisers: Sequence[Denoiser]):
        if not denoisers:
            raise ValueError("There is no denoiser in the list: SPAN_CORRUPTION is T5's, UL2 a mixture of seven.")
        self.tokenizer, self.inputs_length, self.denoisers = tokenizer, inputs_length, tuple(denoisers)
        prefixes = [len(tokenizer.encode(d.mode)) for d in denoisers]
        self.raw_lengths = [d.raw_length(inputs_length, n) for d, n in zip(denoisers, prefixes, strict=True)]
        self.chunk = max(self.raw_lengths)
        lengths = zip(self.denoisers, self.raw_lengths, prefixes, strict=True)
        self.targets_length = max(d.lengths(raw, prefix)[1] for d, raw, prefix in lengths)

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
        got = f"The stream of {len(stream)} tokens has {count} chunks of {recipe.chunk}"
        raise ValueError(f"{got}, fewer than a batch of {batch_size}: use more text or a smaller batch_size.")

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
    int32[n], the index in the list}, n = count.

    It takes the first n chunks of the stream in their order, and the denoisers one after the other. Example i depends
    on (seed, i) alone. Raises ValueError if the stream has fewer chunks than count, and otherwise as `batches`.
    """
    recipe = Recipe(tokenizer, inputs_length, denoisers)
    _check(stream, seed, count=count)
    if count > len(stream) // recipe.chunk:
        got = f"The stream of {len(stream)} tokens has {len(stream) // recipe.chunk} chunks of {recipe.chunk}"
        raise ValueError(f"{got}, fewer than count, {count}.")
    which = np.arange(count, dtype=np.int32) % len(recipe.denoisers)
    chunks = stream[: count * recipe.chunk].reshape(count, recipe.chunk)
    return {**recipe.examples(chunks, which, [keyed_rng(seed, 2, i) for i in range(count)]), "denoiser": which}


def _check(stream, seed: int, **positive: int) -> None:
    if not isinstance(stream, np.ndarray) or stream.ndim != 1 or not np.issubdtype(stream.dtype, np.integer):
        raise TypeError("The stream is not one array of token ids, int32[T]: make it by token_stream.")
    for name, value in positive.items():
        whole(name, value, 1)
    whole("seed", seed, 0)
