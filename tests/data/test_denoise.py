"""kitlib.data.denoise: T5's spans and lengths, UL2's mixture, batches and exact resume, bad input."""

import itertools
from collections import Counter

import numpy as np
import pytest
from resuming import check_exact_resume, same

from kitlib.data import denoise
from kitlib.data.denoise import (
    SPAN_CORRUPTION,
    UL2,
    Denoiser,
    Recipe,
    batches,
    corrupt,
    corrupted_lengths,
    evaluation_set,
    noise_counts,
    padded,
    restore,
    token_stream,
)
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


STREAM = np.arange(300, 1700, dtype=np.int32)  # token t is at position t - 300: 1,400 tokens, 20 chunks of 70
MIXTURES = pytest.mark.parametrize("denoisers", [(SPAN_CORRUPTION,), UL2], ids=["spans", "ul2"])


def restored(batch, modes=("[NLU]", "[NLG]", "[S2S]")):
    """The raw tokens of each example, and its mode."""
    prefixes = {KIT.encode(mode)[0]: mode for mode in modes}
    for inputs, targets in zip(batch["inputs"], batch["targets"], strict=True):
        mode = prefixes.get(int(inputs[0]))
        start = 1 if mode else 0
        yield restore(inputs[start:], targets, KIT.sentinel_ids, KIT.eos_id).tolist(), mode


def test_token_stream_is_every_text_and_its_end():
    texts = ["a cat", "", "हिन्दी"]
    stream = token_stream(texts, KIT)
    assert stream.dtype == np.int32 and (stream == KIT.eos_id).sum() == 3
    ends = np.flatnonzero(stream == KIT.eos_id) + 1
    assert [KIT.decode(part) for part in np.split(stream, ends)[:-1]] == texts
    assert token_stream([], KIT).shape == (0,)


def test_span_corruption_has_the_fixed_lengths_of_t5_and_no_padding():
    """64 inputs take 70 tokens: 10 of noise in 3 spans (round(10.5) = 10, 10 / 3 = 3.3): 60 + 3 + 1 and 10 + 3 + 1."""
    batch, same_seed, other = (next(batches(STREAM, KIT, 8, seed=seed)) for seed in (1, 1, 2))
    assert same(batch, same_seed) and not same(batch, other)
    assert batch["inputs"].shape == (8, 64) and batch["targets"].shape == (8, 14)
    for name, array in batch.items():
        assert array.dtype == np.int32 and (array != KIT.pad_id).all(), name
        assert (array[:, -1] == KIT.eos_id).all() and (array[:, :-1] != KIT.eos_id).all()
        assert np.isin(array, KIT.sentinel_ids).sum(axis=1).tolist() == [3] * 8


def test_mixture_has_common_lengths_and_padding_only_after_the_end():
    for batch in itertools.islice(batches(STREAM, KIT, 8, denoisers=UL2), 20):
        assert batch["inputs"].shape == (8, 64) == batch["targets"].shape
        for row in (*batch["inputs"], *batch["targets"]):
            (end,) = np.flatnonzero(row == KIT.eos_id)  # the stream of this test has no other
            assert (row[:end] != KIT.pad_id).all() and (row[end + 1 :] == KIT.pad_id).all()


@MIXTURES
def test_each_epoch_shows_disjoint_chunks_of_the_ring(denoisers):
    recipe = Recipe(KIT, 64, denoisers)
    count = len(STREAM) // recipe.chunk
    epochs = []
    iterator = batches(STREAM, KIT, 1, denoisers=denoisers)
    for _ in range(3):
        chunks = [chunk for batch in itertools.islice(iterator, count) for chunk, _ in restored(batch)]
        for chunk in chunks:  # a contiguous piece of the stream closed to a ring
            assert len(chunk) in recipe.raw_lengths
            assert {(b - a) % len(STREAM) for a, b in itertools.pairwise(chunk)} == {1}
        starts = [chunk[0] for chunk in chunks]
        # Cut at equal distances: relative to one of them, the starts are at 0, 1, 2, ... chunks along the ring.
        relative = [sorted((start - first) % len(STREAM) for start in starts) for first in starts]
        assert [recipe.chunk * k for k in range(count)] in relative
        tokens = [token for chunk in chunks for token in chunk]
        assert len(set(tokens)) == len(tokens)
        assert denoisers is UL2 or sorted(tokens) == STREAM.tolist()  # 70 divides 1,400
        epochs.append(starts)
    assert len({tuple(starts) for starts in epochs}) == 3
    stream = np.full(70, 400, np.int32)  # one chunk of equal tokens: only the positions of the sentinels can differ
    assert len({tuple(batch["inputs"][0]) for batch in batches(stream, KIT, 1, num_epochs=30)}) > 20
    assert len({starts[0] % recipe.chunk for starts in epochs}) > 1  # and from another position in another epoch


def test_mixture_is_uniform_and_a_denoiser_listed_twice_is_drawn_twice_as_often():
    """7 denoisers, 2,800 examples: 400 each, standard deviation sqrt(2800 * 1/7 * 6/7) = 18.5."""

    def modes(denoisers, count, stream=STREAM):
        found = itertools.islice(batches(stream, KIT, 10, denoisers=denoisers), count // 10)
        counts = Counter(mode for batch in found for _, mode in restored(batch))
        return np.array([counts[mode] for mode in ("[NLU]", "[NLG]", "[S2S]")])

    uniform = modes(UL2, 2800, np.arange(1230, dtype=np.int32) % 1000 + 300)
    assert np.abs(uniform - [800, 1600, 400]).max() < 5 * np.sqrt(2800 * 4 / 7 * 3 / 7)
    assert abs(modes([UL2[0], UL2[0], UL2[6]], 900)[0] - 600) < 5 * np.sqrt(900 * 2 / 9)


@MIXTURES
def test_examples_do_not_depend_on_the_batch_size(denoisers):
    """Example i of an epoch is the same in batches of 1, 2 and 5; an epoch of 11 or 20 chunks starts with these."""

    def rows(size):
        made = itertools.islice(batches(STREAM, KIT, size, denoisers=denoisers, seed=4), 10 // size)
        return np.concatenate([np.concatenate([batch["inputs"], batch["targets"]], axis=1) for batch in made])

    np.testing.assert_array_equal(rows(1), rows(2))
    np.testing.assert_array_equal(rows(1), rows(5))


@MIXTURES
@pytest.mark.parametrize("stop", [0, 1, 4, 5, 7])  # an epoch has 5 batches of spans, 2 of the mixture
def test_resume_continues_with_the_very_next_batch(denoisers, stop):
    check_exact_resume(lambda: batches(STREAM, KIT, 4, denoisers=denoisers, seed=3), stop)


def test_a_resumed_run_drops_incomplete_batches_and_ends_where_it_should():
    iterator, resumed = (batches(STREAM, KIT, 6, num_epochs=2) for _ in range(2))
    next(iterator)
    resumed.set_state(iterator.get_state())
    assert len(list(resumed)) == 2 * (20 // 6) - 1


@MIXTURES
def test_evaluation_set_is_the_first_chunks_by_one_denoiser_after_the_other(denoisers):
    recipe = Recipe(KIT, 64, denoisers)
    got = evaluation_set(STREAM, KIT, 10, denoisers=denoisers)
    assert got["denoiser"].tolist() == [i % len(denoisers) for i in range(10)]
    assert got["inputs"].shape == (10, 64) and got["targets"].shape == (10, recipe.targets_length)
    assert {array.dtype for array in got.values()} == {np.dtype(np.int32)}
    for i, (chunk, mode) in enumerate(restored(got)):
        start, k = i * recipe.chunk, got["denoiser"][i]
        assert chunk == STREAM[start : start + recipe.raw_lengths[k]].tolist()
        assert (mode or "") == denoisers[k].mode
    small, other = (evaluation_set(STREAM, KIT, 5, denoisers=denoisers, seed=seed) for seed in (0, 1))
    assert same(small, {key: value[:5] for key, value in got.items()}) and not same(small, other)


def test_other_lengths_and_a_mode_of_several_ids():
    """'[R] ' is not one piece: the text has that many ids fewer, and the batch has the same shape. A tokenizer without
    padding gets an id for it that is not 0."""
    batch = next(batches(STREAM, KIT, 2, inputs_length=128))
    assert batch["inputs"].shape == (2, 128) and batch["targets"].shape == (2, 29)
    batch = next(batches(STREAM, KIT, 2, inputs_length=16, denoisers=[Denoiser("[NLG]", 0.8, 3)]))
    assert batch["inputs"].shape == (2, 16) and batch["targets"].shape[1] > 16
    prefix, batch = KIT.encode("[R] "), next(batches(STREAM, KIT, 4, denoisers=[Denoiser("[R] ", 0.15, 3)]))
    assert len(prefix) > 1 and batch["inputs"].shape == (4, 64)
    assert (batch["inputs"][:, : len(prefix)] == prefix).all() and (batch["inputs"][:, -1] == KIT.eos_id).all()
    found = padded([[5, 6], [7], []], 3, 9)
    assert found.dtype == np.int32 and found.tolist() == [[5, 6, 9], [7, 9, 9], [9, 9, 9]]


BAD = [
    ({"count": 2.5}, "is 2.5"), ({"count": 0}, "is 0"), ({"seed": -1}, "seed is -1"),
    ({"count": 21}, "The stream of 1400 tokens has 20 chunks of 70, fewer"),
    ({"inputs_length": 2}, "2 inputs are too few"), ({"denoisers": ()}, "There is no denoiser in the list"),
    ({"stream": STREAM[:0]}, "The stream of 0 tokens has 0 chunks"), ({"stream": ["a text"]}, "not one array"),
    ({"stream": STREAM.reshape(2, -1)}, "not one array"), ({"stream": STREAM.astype(float)}, "make it by token_stream"),
]  # fmt: skip


@pytest.mark.parametrize("make", [batches, evaluation_set])
@pytest.mark.parametrize(("kwargs", "message"), BAD)
def test_bad_arguments_are_named(kwargs, message, make):
    kwargs = {"stream": STREAM, "count": 4} | kwargs
    with pytest.raises((ValueError, TypeError), match=message):
        make(kwargs.pop("stream"), KIT, kwargs.pop("count"), **kwargs)
