"""kitlib.data.denoise: T5's spans and lengths, corrupting and restoring, UL2's mixture, bad input."""

import itertools
from collections import Counter

import numpy as np
import pytest

from kitlib.data import denoise
from kitlib.data.denoise import SPAN_CORRUPTION, UL2, Denoiser, corrupt, corrupted_lengths, noise_counts, restore
from kitlib.data.tokenizer import Tokenizer

KIT = Tokenizer.load()
S = np.arange(99, 89, -1)  # ten sentinels, 99 being the first
EOS = 1
SETTINGS = [(0.15, 3), (0.15, 8), (0.15, 64), (0.5, 3), (0.5, 8), (0.5, 64), (0.3, 1), (0.02, 3), (0.9, 3), (0.97, 1)]


def rng(*key):
    return np.random.default_rng(key)


def runs(mask):
    """Lengths of the runs of equal values: [(value, length), ...]."""
    return [(bool(value), len(list(group))) for value, group in itertools.groupby(mask)]


@pytest.mark.parametrize(("length", "density", "mean_span", "expected"), [
    (568, 0.15, 3, (85, 28)),  # 85.2 tokens; 85 / 3 = 28.3 spans
    (100, 0.15, 3, (15, 5)),
    (10, 0.15, 3, (2, 1)),  # 1.5 rounds to the even number; 2 / 3 rounds to 1
    (74, 0.15, 64, (11, 1)),  # 11 / 64 rounds to 0 spans: at least 1
    (2, 0.15, 3, (1, 1)),  # 0.3 tokens round to none: at least 1
    (2, 0.9, 3, (1, 1)),  # 1.8 tokens round to all: at most length - 1
    (10, 0.9, 1, (9, 1)),  # nine spans of one token would need more than one token of text between them
])  # fmt: skip
def test_counts_by_hand(length, density, mean_span, expected):
    assert noise_counts(length, density, mean_span) == expected


@pytest.mark.parametrize(("density", "mean_span"), SETTINGS)
def test_share_of_noise_is_within_one_token_of_the_density(density, mean_span):
    for length in range(2, 600):
        mask = denoise.random_spans_mask(length, density, mean_span, rng(length))
        assert mask.shape == (length,) and mask.dtype == bool
        assert abs(mask.sum() - density * length) <= 1
        noise, spans = noise_counts(length, density, mean_span)
        found = runs(mask)
        # Text, noise, text, noise, ...: starts with text, ends with noise, with the stated number of spans.
        assert [value for value, _ in found] == [False, True] * spans and mask.sum() == noise


def test_every_division_into_spans_is_equally_likely():
    """10 tokens at 50 % in spans of 5/3: 5 of noise in 3 spans and 5 of text in 3 stretches.

    5 can be divided into 3 parts in (4 choose 2) = 6 ways, so there are 6 * 6 = 36 masks, each with probability 1/36.
    Of 7,200 draws each should occur 200 times, with a standard deviation of 13.9.
    """
    generator = rng(0)
    counts = Counter(tuple(denoise.random_spans_mask(10, 0.5, 5 / 3, generator)) for _ in range(7200))
    assert len(counts) == 36
    assert max(abs(count - 200) for count in counts.values()) < 5 * 13.9


T5_LENGTHS = {  # inputs_length: (raw, inputs, targets) for each (mean span, density)
    512: [(568, 512, 114), (588, 512, 100), (766, 512, 512), (908, 512, 512), (600, 512, 92), (1006, 512, 512)],
    128: [(141, 128, 29), (146, 128, 26), (190, 128, 128), (226, 128, 128), (149, 128, 23), (250, 128, 128)],
    64: [(70, 64, 14), (73, 64, 13), (94, 64, 64), (112, 64, 64), (74, 64, 12), (124, 64, 64)],
}
COLUMNS = [(3, 0.15), (8, 0.15), (3, 0.5), (8, 0.5), (64, 0.15), (64, 0.5)]
TABLE = [(n, *column, row) for n, rows in T5_LENGTHS.items() for column, row in zip(COLUMNS, rows, strict=True)]


@pytest.mark.parametrize(("inputs_length", "mean_span", "density", "expected"), TABLE)
def test_span_lengths_are_those_of_t5_and_raw_length_always_fits(inputs_length, mean_span, density, expected):
    assert denoise.span_lengths(inputs_length, density, mean_span) == expected
    denoiser, forgotten = Denoiser("", density, mean_span), (mean_span, density) == (64, 0.15) and inputs_length < 512
    raw = denoiser.raw_length(inputs_length, 0)
    assert raw == expected[0] - forgotten
    assert denoiser.lengths(raw, 0) == (inputs_length, expected[2] + forgotten)


def test_span_lengths_and_their_two_traps_by_hand():
    """568 tokens: round(85.2) = 85 of noise in round(28.3) = 28 spans, so 483 + 28 + 1 = 512 and 85 + 28 + 1 = 114.
    569: round(85.35) = 85 again, so the inputs would be 513.

    A density of 1/2: 95 tokens have round(47.5) = 48 of noise in 16 spans: inputs 47 + 16 + 1 = 64, but targets
    48 + 16 + 1 = 65. The forgotten span: 74 tokens have 11 of noise, 11 / 64 rounds to no span, so T5 counts
    63 + 0 + 1 = 64. But there is one span: 65.
    """
    assert corrupted_lengths(568, 0.15, 3) == (512, 114) and corrupted_lengths(569, 0.15, 3)[0] == 513
    assert corrupted_lengths(95, 0.5, 3) == (64, 65) and corrupted_lengths(94, 0.5, 3) == (64, 64)
    assert denoise.span_lengths(64, 0.5, 3) == (94, 64, 64) and denoise.span_lengths(64, 0.15, 64) == (74, 64, 12)
    assert corrupted_lengths(74, 0.15, 64) == (65, 13) and corrupted_lengths(73, 0.15, 64) == (64, 13)


@pytest.mark.parametrize("denoiser", [*UL2, *(Denoiser("", 0.8, span) for span in (3, None))])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_raw_length_fills_the_inputs(denoiser, prefix):
    for inputs_length in range(12, 300, 7):
        raw = denoiser.raw_length(inputs_length, prefix)
        assert denoiser.lengths(raw, prefix)[0] <= inputs_length
        if denoiser.density > 0.5:  # here targets may be longer than inputs_length
            assert denoiser.lengths(raw + 1, prefix)[0] > inputs_length
        else:
            assert denoiser.lengths(raw, prefix)[1] <= inputs_length < max(denoiser.lengths(raw + 1, prefix))
    for inputs_length, most in ((256, 64), (512, 128)):  # 64 sentinels are enough for UL2 at 256, 100 not at 512
        raws = [(d.raw_length(inputs_length, 0), d.density, d.mean_span) for d in UL2 if d.mean_span]
        assert max(noise_counts(*raw)[1] for raw in raws) == most


def test_corrupt_by_hand():
    """Nine tokens 10 ... 18; 12, 13 and 18 are noise.

    inputs:  10 11 (12 13 -> 99) 14 15 16 17 (18 -> 98) end
    targets: 99 12 13, 98 18, end; the sequence ends with noise, so there is no closing sentinel.
    """
    tokens, mask = np.arange(10, 19, dtype=np.int32), np.array([0, 0, 1, 1, 0, 0, 0, 0, 1], bool)
    inputs, targets = corrupt(tokens, mask, S, EOS)
    assert inputs.tolist() == [10, 11, 99, 14, 15, 16, 17, 98, 1]
    assert targets.tolist() == [99, 12, 13, 98, 18, 1]
    assert inputs.dtype == targets.dtype == np.int32
    assert tokens.tolist() == [*range(10, 19)] and np.flatnonzero(mask).tolist() == [2, 3, 8]  # as before


def test_corrupt_as_in_figure_2_of_t5():
    """Thank you <X> me to your party <Y> week. -> <X> for inviting <Y> last <Z>."""
    words = ["Thank", "you", "for", "inviting", "me", "to", "your", "party", "last", "week", "."]
    mask = [word in ("for", "inviting", "last") for word in words]
    inputs, targets = corrupt(np.arange(10, 21), mask, S, EOS)
    spell = {**dict(zip(range(10, 21), words, strict=True)), 99: "<X>", 98: "<Y>", 97: "<Z>", 1: "</s>"}
    assert " ".join(spell[i] for i in inputs) == "Thank you <X> me to your party <Y> week . </s>"
    assert " ".join(spell[i] for i in targets) == "<X> for inviting <Y> last <Z> </s>"


@pytest.mark.parametrize(("mask", "inputs", "targets"), [
    ([0, 1], [10, 99, 1], [99, 11, 1]), ([1, 1], [99, 1], [99, 10, 11, 1]),
    ([1, 0], [99, 11, 1], [99, 10, 98, 1]),  # starts with noise: its sentinel comes first in both
    ([1, 0, 1], [99, 11, 98, 1], [99, 10, 98, 12, 1]), ([0, 1, 0], [10, 99, 12, 1], [99, 11, 98, 1]),
])  # fmt: skip
def test_corrupt_at_the_edges(mask, inputs, targets):
    assert [x.tolist() for x in corrupt(np.arange(10, 10 + len(mask)), mask, S, EOS)] == [inputs, targets]


def test_every_mask_of_seven_tokens_is_restored():
    tokens = np.array([10, 1, 10, 11, 12, 1, 10])  # repetitions and ends of sequence among them
    for mask in itertools.product([False, True], repeat=7):
        if any(mask):
            inputs, targets = corrupt(tokens, mask, S, EOS)
            assert restore(inputs, targets, S, EOS).tolist() == tokens.tolist()
            # No token is lost or doubled, and each sentinel occurs once in inputs and once in targets.
            body = [*inputs[:-1], *targets[:-1]]
            assert sorted(t for t in body if t < 90) == sorted(tokens)
            assert len(set(inputs) & set(S)) == sum(value for value, _ in runs(mask)) == sum(inputs >= 90)


@pytest.mark.parametrize(("density", "mean_span"), SETTINGS)
def test_random_sequences_have_their_lengths_and_are_restored_with_padding_or_without(density, mean_span):
    sentinels = np.arange(999, 499, -1)
    for length in [*range(2, 40), 133, 399, 512]:
        tokens = rng(length, 2).integers(1, 400, length)
        inputs, targets = corrupt(
            tokens, denoise.random_spans_mask(length, density, mean_span, rng(length)), sentinels, EOS
        )
        assert (len(inputs), len(targets)) == corrupted_lengths(length, density, mean_span)
        assert restore(inputs, targets, sentinels, EOS).tolist() == tokens.tolist()
        padded = np.append(inputs, [0, 0, 0]), np.append(targets, [0])
        assert restore(*padded, sentinels, EOS).tolist() == tokens.tolist()


def test_prefix_lm_predicts_the_end():  # 2.5 rounds to 2; at least one each
    for length, density, cut in [(8, 0.25, 6), (10, 0.25, 8), (2, 0.25, 1), (2, 0.9, 1), (100, 0.15, 85)]:
        tokens = np.arange(100, 100 + length)
        inputs, targets = denoise.prefix_lm(tokens, density, EOS)
        assert inputs.tolist() == [*tokens[:cut], 1] and targets.tolist() == [*tokens[cut:], 1]
        assert inputs.dtype == targets.dtype == np.int32
        assert restore(np.append(inputs, [0]), targets, S, EOS).tolist() == tokens.tolist()


def test_ul2_is_two_regular_four_extreme_and_one_sequential():
    assert [(d.mode, d.mean_span, d.density) for d in UL2] == [
        ("[NLU]", 3, 0.15), ("[NLU]", 8, 0.15), ("[NLG]", 3, 0.5), ("[NLG]", 8, 0.5), ("[NLG]", 64, 0.15),
        ("[NLG]", 64, 0.5), ("[S2S]", None, 0.25),
    ]  # fmt: skip
    for d in UL2[:-1]:  # the paper's verbal rule: extreme means spans of 12 or more, or at least 30 %
        assert (d.mode == "[NLG]") == (d.mean_span >= 12 or d.density >= 0.3)


@pytest.mark.parametrize("denoiser", [*UL2, SPAN_CORRUPTION])
def test_ul2_example_starts_with_its_mode_has_its_density_and_is_restored(denoiser):
    prefix = KIT.encode(denoiser.mode)
    assert len(prefix) == (1 if denoiser.mode else 0)
    for length in (2, 3, 9, 64, 150):
        tokens = rng(length).integers(300, 1900, length)
        inputs, targets = denoise.ul2_example(tokens, denoiser, rng(3), KIT)
        assert inputs.dtype == targets.dtype == np.int32
        assert inputs[: len(prefix)].tolist() == prefix and inputs[-1] == targets[-1] == KIT.eos_id
        assert (len(inputs), len(targets)) == denoiser.lengths(length, len(prefix))
        back = restore(inputs[len(prefix) :], targets, KIT.sentinel_ids, KIT.eos_id)
        assert back.tolist() == tokens.tolist()
        spans = np.isin(targets, KIT.sentinel_ids).sum()
        assert (spans > 0) == (denoiser.mean_span is not None)
        assert abs(len(targets) - 1 - spans - denoiser.density * length) <= 1
        np.testing.assert_array_equal(
            inputs, denoise.ul2_example(tokens, denoiser, rng(3), KIT)[0]
        )  # and is decided by rng


@pytest.mark.parametrize(("call", "message"), [
    (lambda: denoise.random_spans_mask(1, 0.15, 3, rng(0)), "length is 1; expected a whole number"),
    (lambda: denoise.random_spans_mask(10, 0.5, 0.5, rng(0)), "mean_span is 0.5"),
    (lambda: denoise.span_lengths(64, 1, 3), "density is 1"),
    (lambda: denoise.span_lengths(64, 0.15, 0.5), "mean_span is 0.5"),
    (lambda: denoise.span_lengths(2, 0.15, 3), "2 inputs are too few"),
    (lambda: UL2[0].raw_length(3, 1), "3 inputs are too few for Denoiser.* and 1 ids of mode"),
    (lambda: corrupt(np.arange(3), [True, False], S, EOS), r"tokens\[3\] and mask\[2\] differ"),
    (lambda: corrupt(np.arange(3), [False] * 3, S, EOS), "marks no token as noise"),
    (lambda: corrupt(np.arange(5), [0, 1, 0, 0, 1], S[:1], EOS), "2 spans need 2 sentinels, but there are 1"),
    (lambda: corrupt(np.arange(3), [0, 1, 0], S[:1], EOS), "1 spans need 2 sentinels, but there are 1"),
    (lambda: corrupt([10, 95, 11], [0, 1, 0], S, EOS), "There is a sentinel among the tokens"),
    # 400 tokens: 200 of noise in 67 spans.
    (lambda: denoise.ul2_example(np.arange(300, 700), UL2[2], rng(0), KIT), "67 spans need 67 sentinels"),
    (lambda: restore([10, 99, 1], [98, 11, 1], S, EOS), r"need sentinels \[99\].*then sentinels \[98\]"),
    (lambda: restore([10, 99, 1], [99, 11, 98, 12, 1], S, EOS), "do not belong together"),
    (lambda: restore([10, 99, 1], [99, 11, 98, 97, 1], S, EOS), "do not belong together"),
    (lambda: restore([10, 99, 1], [11, 99, 12, 1], S, EOS), "the targets have 1 tokens and then"),
    (lambda: restore([10, 99], [99, 11, 1], S, EOS), "The inputs do not end with eos 1"),
    (lambda: restore([10, 99, 1], [0, 0], S, EOS), "The targets do not end with eos 1"),
])  # fmt: skip
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
