"""Denoising objectives for text: span corruption as in T5, the prefix language model, and UL2's mixture of both.

    thank you for inviting me to your party last week          tokens, of which "for inviting" and "last" are noise
    thank you <0> me to your party <1> week </s>               inputs: a sentinel in place of every span of noise
    <0> for inviting <1> last <2> </s>                         targets: every sentinel, followed by its span

The noise is drawn by T5's algorithm (Raffel et al., arXiv 1910.10683; `random_spans_noise_mask` in its code). The
mixture is UL2's (Tay et al., arXiv 2205.05131; the numbers as later papers quote its table 1).

All of this is plain numpy on one sequence of token ids, int32[L]. It runs in the input pipeline, on the CPU. The
lengths of its results depend on the mask: under jax.jit every new length would have to be compiled.
"""

from dataclasses import dataclass

import numpy as np

from kitlib.configs.arguments import number, whole

# --- which tokens are noise ---


def noise_counts(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """(tokens, spans) of noise in a sequence of this length: the part of T5's algorithm that is not random.

    There are round(length * density) tokens of noise, but at least one token of noise and one of text, and
    round(tokens / mean_span) spans, at least one. Short spans at a density far above 1/2 would need more spans than
    there are tokens of text to separate them. T5 does not define this case; here the number of spans is then the number
    of tokens of text.
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

    The noise is divided at random into spans, the text into the same number of stretches, and they alternate: text,
    noise, text, noise, ... So all sequences of one length have the same number of noise tokens and of spans; only the
    positions are random.

    Raises ValueError for length < 2, a density outside (0, 1) or mean_span < 1.
    """
    noise, spans = noise_counts(length, density, mean_span)
    pairs = np.stack([_segments(length - noise, spans, rng), _segments(noise, spans, rng)], axis=1)
    return np.repeat(np.arange(2 * spans) % 2 == 1, pairs.reshape(-1))


def _segments(items: int, segments: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths int64[segments] of non-empty segments of the items, all divisions equally likely: draws the borders."""
    borders = np.sort(rng.permutation(items - 1)[: segments - 1]) + 1
    return np.diff(borders, prepend=0, append=items)


# --- lengths ---


def corrupted_lengths(raw: int, density: float, mean_span: float) -> tuple[int, int]:
    """(inputs, targets): their lengths after `corrupt` of raw tokens. Both have one sentinel per span and an eos."""
    noise, spans = noise_counts(raw, density, mean_span)
    return raw - noise + spans + 1, noise + spans + 1


def span_lengths(inputs_length: int, density: float, mean_span: float) -> tuple[int, int, int]:
    """T5's `random_spans_helper`: (raw, inputs, targets), with the most raw tokens whose inputs fill inputs_length.

    It is (568, 512, 114) for T5's 512 tokens at 15 % in spans of 3.

    T5's rule has two traps, which are kept here because published lengths have them. First, at a density of exactly 1/2
    targets that are one longer than the inputs lose a token, so that both have the same round length. Second, the rule
    forgets that there is always at least one span: where round(noise / mean_span) is 0, raw is one token too long for
    the inputs. `Denoiser.raw_length` always fits.

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


# --- corrupting and restoring ---


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
        raise ValueError(
            f"{spans} spans need {needed} sentinels, but there are {len(sentinels)}: take longer spans, shorter "
            f"sequences or a Tokenizer with more sentinels."
        )
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
        raise ValueError(
            f"These inputs and targets do not belong together: the inputs need sentinels {expected}, the targets have "
            f"{len(first)} tokens and then sentinels {given}."
        )
    return np.concatenate([text, *(part[1:] for pair in zip(spans, holes, strict=False) for part in pair)])


def prefix_lm(tokens: np.ndarray, density: float, eos: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits the tokens in two: (inputs, targets), both int32 and ending in eos. There is no sentinel.

    The last round(L * density) tokens are the targets: at least one, and at least one is left for the inputs. `restore`
    needs tokens without sentinels.
    """
    tokens = np.asarray(tokens, np.int32)
    cut = len(tokens) - _noise_tokens(len(tokens), density)
    return np.append(tokens[:cut], np.int32(eos)), np.append(tokens[cut:], np.int32(eos))


def _body(ids: np.ndarray, name: str, eos: int, pad: int) -> np.ndarray:
    ids = np.asarray(ids, np.int32)
    ids = ids[: len(ids) - int((np.cumsum(ids[::-1] != pad) == 0).sum())]
    if not len(ids) or ids[-1] != eos:
        raise ValueError(f"The {name} do not end with eos {eos}: a cut sequence cannot be restored.")
    return ids[:-1]


# --- mixtures ---


@dataclass(frozen=True)
class Denoiser:
    """One objective.

    Attributes:
        mode: the text before the inputs that indicates the objective to the model; "" for none.
        density: the share of tokens that become targets.
        mean_span: mean length of a span of noise; None for the prefix language model, whose noise is the end of the
            sequence.
    """

    mode: str
    density: float
    mean_span: float | None

    def lengths(self, raw: int, prefix: int) -> tuple[int, int]:
        """(inputs, targets): their lengths after `ul2_example` of raw tokens with a mode of `prefix` ids."""
        if self.mean_span is None:
            noise = _noise_tokens(raw, self.density)
            return prefix + raw - noise + 1, noise + 1
        inputs, targets = corrupted_lengths(raw, self.density, self.mean_span)
        return prefix + inputs, targets

    def raw_length(self, inputs_length: int, prefix: int) -> int:
        """The largest number of raw tokens whose inputs, mode and eos included, fit into inputs_length.

        Up to density 1/2 their targets fit, too. It is the raw of `span_lengths` without the second trap. Raises
        ValueError if not even 2 tokens fit.
        """

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
# predicts the last quarter and that all have equal shares is as commonly reported. List a denoiser twice to draw it
# twice as often.
UL2 = (
    Denoiser("[NLU]", 0.15, 3),
    Denoiser("[NLU]", 0.15, 8),
    Denoiser("[NLG]", 0.5, 3),
    Denoiser("[NLG]", 0.5, 8),
    Denoiser("[NLG]", 0.15, 64),
    Denoiser("[NLG]", 0.5, 64),
    Denoiser("[S2S]", 0.25, None),
)


def ul2_example(
    tokens: np.ndarray, denoiser: Denoiser, rng: np.random.Generator, tokenizer
) -> tuple[np.ndarray, np.ndarray]:
    """One example: (inputs, targets), both int32 and ending in eos, the inputs starting with the mode token.

    tokens: integers[L]; tokenizer: a `kitlib.data.tokenizer.Tokenizer`. Raises the errors of `corrupt`.
    """
    if denoiser.mean_span is None:
        inputs, targets = prefix_lm(tokens, denoiser.density, tokenizer.eos_id)
    else:
        mask = random_spans_mask(len(tokens), denoiser.density, denoiser.mean_span, rng)
        inputs, targets = corrupt(tokens, mask, tokenizer.sentinel_ids, tokenizer.eos_id)
    return np.concatenate([np.array(tokenizer.encode(denoiser.mode), np.int32), inputs]), targets
