"""kitlib.data.denoise: the stream, contents and order of batches, exact resume, evaluation set, bad input."""

import itertools
from collections import Counter

import numpy as np
import pytest
from resuming import check_exact_resume, same

from kitlib.data.denoise import (
    SPAN_CORRUPTION,
    UL2,
    Denoiser,
    Recipe,
    batches,
    evaluation_set,
    padded,
    restore,
    token_stream,
)
from kitlib.data.tokenizer import Tokenizer

KIT = Tokenizer.load()
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
