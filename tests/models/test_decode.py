"""Three oracles: texts that another library generates with the same weights (reference/make_t5.py), a model whose
probabilities are written down by hand, and searches that try all texts."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

from kitlib import configs
from kitlib.models import decode, t5
from kitlib.models.palix import PaLIX

TENSORS = np.load(zoo.REFERENCE / "t5.npz")
EOS = 1


class Markov:
    """A minimal model that can be decoded: its params are a table float32[V, V] of the logits after each last token.

    inputs float32[B, 1] shift the logits of token 2, so that rows differ. `history` depends on the whole text, which is
    kept in the cache as a real model keeps keys: a beam that is moved without its cache gives wrong logits.
    """

    def apply(self, variables, *args, method):
        return getattr(self, method)(variables["params"], *args)

    def for_generation(self):
        return self

    def init_cache(self, table, inputs, length):
        return {"self": jnp.zeros((len(inputs), length), jnp.int32), "inputs": inputs}

    def decode_step(self, table, tokens, position, cache):
        text = cache["self"].at[:, position].set(tokens)
        shift = cache["inputs"] * (jnp.arange(len(table)) == 2)[None]
        return table[tokens] + shift + history(text.sum(axis=1), len(table)), cache | {"self": text}


def history(total, vocabulary):
    """total int[B], the sum of all tokens so far, -> float[B, V] in [0, 1)."""
    return 0.1 * total[:, None] * np.arange(vocabulary)[None] % 1.0


MARKOV = Markov()


def markov_log_prob(table, row_input, text):
    """Sum of log-probabilities of a text, token by token, in plain numpy."""
    total, written = 0.0, [0]
    for token in text:
        logits = table[written[-1]] + row_input * (np.arange(len(table)) == 2)
        logits = logits + history(np.array([sum(written)]), len(table))[0]
        total += float(logits[token] - np.log(np.exp(logits).sum()))
        written.append(token)
    return total


def all_texts(vocabulary, length):
    """Every text that can be generated: up to its first eos, or `length` tokens without one."""
    others = [token for token in range(vocabulary) if token != EOS]
    for n in range(length):
        yield from ((*body, EOS) for body in itertools.product(others, repeat=n))
    yield from itertools.product(others, repeat=length)


def table_of(vocabulary, seed):
    return np.random.default_rng(seed).normal(scale=1.5, size=(vocabulary, vocabulary)).astype(np.float32)


def text_of(row):
    """The tokens up to eos, without the padding after it."""
    row = [int(token) for token in row]
    return tuple(row[: row.index(EOS) + 1] if EOS in row else row)


@pytest.mark.parametrize("case", zoo.T5_CASES)
def test_greedy_reference(case):
    """In a batch, and a single text without its padding."""
    model, params = zoo.reference_t5(case)
    inputs, want = TENSORS[f"{case}/inputs"], TENSORS[f"{case}/greedy"]
    tokens, log_probs = decode.greedy(model, params, inputs, max_length=12)
    np.testing.assert_array_equal(tokens, want)
    assert tokens.dtype == jnp.int32 and log_probs.shape == tokens.shape
    if case == "gelu":
        alone, _ = decode.greedy(model, params, inputs[1:2, :5], max_length=12)
        np.testing.assert_array_equal(alone, want[1:2])


@pytest.mark.slow
def test_log_probabilities_are_those_of_teacher_forcing_and_of_score():
    model, params = zoo.reference_t5("gelu")
    inputs = jnp.asarray(TENSORS["gelu/inputs"])
    tokens, log_probs = decode.greedy(model, params, inputs, max_length=12)
    logits = jax.jit(lambda: model.apply({"params": params}, inputs, t5.shift_right(tokens))[0])()
    expected = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
    written = np.arange(12) < np.array([len(text_of(row)) for row in tokens])[:, None]
    np.testing.assert_allclose(log_probs, np.where(written, expected, 0.0), atol=1e-4)
    ended = [i for i, row in enumerate(np.asarray(tokens)) if EOS in row]
    scores = decode.score(model, params, inputs, np.asarray(tokens)[ended])
    assert ended
    found = [scores[i, column] for column, i in enumerate(ended)]
    np.testing.assert_allclose(found, np.asarray(log_probs).sum(axis=1)[ended], atol=1e-4)


def test_greedy_by_hand():
    # 0 -> 2 -> 3 -> eos, for any probabilities of the other tokens; after eos there is padding of probability 1.
    table = np.zeros((4, 4), np.float32)
    table[0, 2] = table[2, 3] = table[3, EOS] = 5.0
    tokens, log_probs = decode.greedy(MARKOV, jnp.asarray(table), jnp.zeros((1, 1)), max_length=6)
    np.testing.assert_array_equal(tokens, [[2, 3, EOS, 0, 0, 0]])
    text = [markov_log_prob(table, 0.0, (2, 3, EOS)[:n]) for n in (1, 2, 3)]
    np.testing.assert_allclose(np.cumsum(log_probs[0]), [*text, text[-1], text[-1], text[-1]], rtol=1e-5)


def test_the_start_does_not_depend_on_the_length():
    model = MARKOV, jnp.asarray(table_of(6, 0)), jnp.array([[0.0], [2.0]])
    short, long = (decode.greedy(*model, max_length=length, eos=-1)[0] for length in (3, 8))
    np.testing.assert_array_equal(long[:, :3], short)


def test_restrict_by_hand():
    # Probabilities 1/2, 1/4, 1/8, 1/8 in another order.
    logits = jnp.log(jnp.array([[0.125, 0.5, 0.125, 0.25]]))

    def kept(**options):
        return np.isfinite(decode.restrict(logits, **options))[0].tolist()

    assert kept(top_k=1) == [False, True, False, False]
    assert kept(top_k=2) == [False, True, False, True]
    assert kept(top_k=3) == kept(top_k=9) == [True, True, True, True]  # the third and the fourth are equal
    assert kept(top_p=0.4) == kept(top_p=0.5) == [False, True, False, False]
    assert kept(top_p=0.6) == kept(top_p=0.75) == [False, True, False, True]
    assert kept(top_p=1.0) == [True, True, True, True]
    # Temperature first: squared and normalised they are 16/22, 4/22, 1/22, 1/22, and the first two have 20/22.
    np.testing.assert_allclose(
        jax.nn.softmax(decode.restrict(logits, temperature=0.5))[0], [1 / 22, 16 / 22, 1 / 22, 4 / 22], rtol=1e-5
    )
    assert kept(temperature=0.5, top_p=20 / 22 - 1e-3) == [False, True, False, True]
    # top_k before top_p: of two tokens, 2/3 and 1/3, the first alone has 0.6.
    assert kept(top_k=2, top_p=0.6) == [False, True, False, False]


def test_samples_have_the_frequencies_of_the_model():
    table, n = table_of(5, 3), 4000
    arguments = MARKOV, jnp.asarray(table), jnp.zeros((n, 1)), jax.random.key(0)
    tokens, log_probs = decode.sample(*arguments, max_length=2, temperature=2.0, eos=-1)
    first = np.exp(table[0] / 2.0) / np.exp(table[0] / 2.0).sum()
    share = np.bincount(tokens[:, 0], minlength=5) / n
    np.testing.assert_allclose(share, first, atol=4 * (0.25 / n) ** 0.5)  # four standard deviations
    # The log-probabilities are those of the model, at temperature 1.
    expected = [markov_log_prob(table, 0.0, row) for row in np.asarray(tokens[:20])]
    np.testing.assert_allclose(log_probs[:20].sum(axis=1), expected, rtol=1e-5)


@pytest.mark.slow
def test_sampling_is_deterministic_in_its_key_and_greedy_in_the_limit():
    model = MARKOV, jnp.asarray(table_of(6, 1)), jnp.array([[0.0], [2.0], [0.0]])

    def sample(seed, **options):
        return decode.sample(*model, jax.random.key(seed), max_length=8, eos=-1, **options)[0]

    one = sample(0)
    np.testing.assert_array_equal(one, sample(0))
    assert np.any(one != sample(1))
    assert np.any(one[0] != one[2])  # rows of a batch draw their own numbers
    greedy, _ = decode.greedy(*model, max_length=8, eos=-1)
    for options in ({"temperature": 1e-4}, {"top_k": 1}, {"top_p": 1e-6}):
        np.testing.assert_array_equal(sample(3, **options), greedy)


CALLS = {
    "greedy": functools.partial(decode.greedy, max_length=3),
    "sample": functools.partial(decode.sample, key=jax.random.key(0), max_length=3),
    "beams": functools.partial(decode.beam_search, max_length=3),
    "score": functools.partial(decode.score, answers=np.array([[5, EOS]])),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_tokens_that_there_are_not_are_refused(call):
    """V = 40. Out of range, the result would be NaN."""
    model, params = zoo.reference_t5("gelu")
    one, palix = np.ones((1, 3), int), PaLIX(configs.palix("XS"))
    for writer, inputs, options, message in (
        (model, np.array([[3, 40]]), {}, "inputs go from 3 to 40; expected whole numbers from 0 to 39"),
        (model, {"prompt_tokens": one}, {}, "inputs is dict; expected tokens for a T5"),
        (model, one, {"eos": 40}, "eos is 40; expected a whole number from -1 to 39"),
        (palix, one, {}, "a dictionary for a PaLIX"),
        (palix, {"prompt_tokens": np.full((1, 3), 512)}, {}, "go from 512 to 512"),
    ):
        with pytest.raises(ValueError, match=message):
            call(writer, params, inputs, **options)


@pytest.mark.parametrize(
    ("call", "option", "values"),
    [
        ("sample", "temperature", (0.0, np.nan, 1e-300, True)),
        ("sample", "top_k", (0, 1.5)),
        ("sample", "top_p", (0.0, 1.5, np.nan)),
        ("sample", "max_length", (0,)),
        ("beams", "num_beams", (41,)),
        ("score", "answers", ([[40, EOS]], [[2, 3]], [[2, EOS, 3]], [2, EOS], [[2, 0, EOS]])),
    ],
)
def test_impossible_options_are_refused(call, option, values):
    for value in values:
        with pytest.raises(ValueError, match=f"(?i){option}"):
            CALLS[call](*zoo.reference_t5("gelu"), np.ones((1, 3), int), **{option: value})


@pytest.mark.slow
def test_within_a_traced_program_nothing_is_checked_and_nothing_else_changes():
    (model, params), inputs = zoo.reference_t5("gelu"), TENSORS["gelu/inputs"]

    def both(p, x, penalty):
        greedy = decode.greedy(model, p, x, max_length=4)
        return greedy, decode.beam_search(model, p, x, max_length=4, num_beams=2, length_penalty=penalty)

    traced, alone = jax.jit(both)(params, inputs, 1.0), both(params, inputs, 1.0)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), traced, alone)
    compiled = decode._write._cache_size()
    decode.greedy(model, params, inputs[::-1], max_length=4)
    assert decode._write._cache_size() == compiled


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "num_beams", "length_penalty"),
    [
        *[("gelu", 3, 1.0), ("gelu", 4, 0.0), ("gelu", 4, 2.0), ("gelu", 2, -1.0)],
        *[(case, 4, penalty) for case in ("silu", "tied") for penalty in (0.0, 2.0)],
    ],
)
def test_beam_search_reference(case, num_beams, length_penalty):
    """All texts in their order, token by token, and their scores."""
    model, params = zoo.reference_t5(case)
    tokens, scores = decode.beam_search(
        model, params, TENSORS[f"{case}/inputs"], max_length=12, num_beams=num_beams, length_penalty=length_penalty
    )
    name = f"{case}/beams_{num_beams}_{length_penalty:g}"
    np.testing.assert_array_equal(tokens, TENSORS[name])
    # Float32 logits of 10 differ from the reference's float64 by up to 1e-4, and short texts have scores of about 1.
    np.testing.assert_allclose(scores, TENSORS[f"{name}/scores"], rtol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_one_beam_is_greedy(seed):
    table, inputs = jnp.asarray(table_of(6, seed)), jnp.array([[0.0], [2.0], [-1.0]])
    greedy, log_probs = decode.greedy(MARKOV, table, inputs, max_length=7)
    tokens, scores = decode.beam_search(MARKOV, table, inputs, max_length=7, num_beams=1, length_penalty=0.0)
    np.testing.assert_array_equal(tokens[:, 0], greedy)
    np.testing.assert_allclose(scores[:, 0], log_probs.sum(axis=1), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_with_beams_for_all_texts_the_search_is_exhaustive(seed, length_penalty):
    """V = 4, M = 3: at most 3 * 3 texts are open at any time, so 40 beams hold all open and all finished texts."""
    table, inputs = table_of(4, seed), np.array([[0.0], [1.5]], np.float32)
    options = {"max_length": 3, "num_beams": 40, "length_penalty": length_penalty}
    tokens, scores = decode.beam_search(MARKOV, jnp.asarray(table), jnp.asarray(inputs), **options)
    for row, row_input in enumerate(inputs[:, 0]):
        texts = {x: markov_log_prob(table, row_input, x) / len(x) ** length_penalty for x in all_texts(4, 3)}
        assert len(texts) == 1 + 3 + 9 + 27
        ranked = sorted(texts, key=texts.get, reverse=True)
        assert [text_of(x) for x in tokens[row]] == ranked
        np.testing.assert_allclose(scores[row], [texts[text] for text in ranked], rtol=1e-4)


def slow_beam_search(table, row_input, length, num_beams, length_penalty):
    """The definition for one row, with lists of texts."""
    score = functools.partial(markov_log_prob, table, row_input)
    open_texts, finished = [()], []
    for _ in range(length):
        texts = [(*text, token) for text in open_texts for token in range(len(table))]
        texts = sorted(texts, key=score, reverse=True)[: 2 * num_beams]
        ends = [text[-1] == EOS or len(text) == length for text in texts]
        finished += [text for text, end in zip(texts[:num_beams], ends, strict=False) if end]
        finished = sorted(finished, key=lambda x: score(x) / len(x) ** length_penalty, reverse=True)[:num_beams]
        open_texts = [text for text, end in zip(texts, ends, strict=True) if not end][:num_beams]
        if not open_texts:
            break
        best_open = score(open_texts[0]) / len(open_texts[0]) ** length_penalty
        if len(finished) == num_beams and best_open <= score(finished[-1]) / len(finished[-1]) ** length_penalty:
            break
    return finished


@pytest.mark.slow
@pytest.mark.parametrize(("num_beams", "length_penalty"), [(2, 0.0), (2, 1.0), (3, 2.0), (3, -1.0)])
def test_beam_search_by_definition(num_beams, length_penalty):
    inputs, options = np.array([[0.0], [1.0], [-1.0], [3.0]], np.float32), (6, num_beams, length_penalty)
    for seed in range(4):
        table = table_of(6, seed)
        table[:, EOS] += 1.0  # so that rows stop at different times
        named = dict(zip(("max_length", "num_beams", "length_penalty"), options, strict=True))
        tokens, _ = decode.beam_search(MARKOV, jnp.asarray(table), jnp.asarray(inputs), **named)
        for row, row_input in enumerate(inputs[:, 0]):
            assert [text_of(x) for x in tokens[row]] == slow_beam_search(table, row_input, *options)


def test_beam_search_finds_what_greedy_misses():
    # Token 2 has probability 0.6, but then three tokens have 1/3 each; token 3 has 0.4, and then eos is certain.
    table = np.full((4, 4), -20.0, np.float32)
    table[0, 2], table[0, 3] = math.log(0.6), math.log(0.4)
    table[2, [1, 2, 3]] = math.log(1 / 3)
    table[3, EOS] = 0.0
    table[EOS] = 0.0
    step = {"decode_step": lambda self, table, tokens, position, cache: (table[tokens], cache)}
    model = type("NoHistory", (Markov,), step)(), jnp.asarray(table), jnp.zeros((1, 1))
    assert decode.greedy(*model, max_length=2)[0][0, 0] == 2
    tokens, scores = decode.beam_search(*model, max_length=2, num_beams=2, length_penalty=0.0)
    np.testing.assert_array_equal(tokens[0, 0], [3, EOS])
    np.testing.assert_allclose(np.exp(scores[0]), [0.4, 0.2], rtol=1e-4)


def padded(texts):
    length = max(map(len, texts))
    return np.array([[*text, *[0] * (length - len(text))] for text in texts])


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_given_answers_by_definition(seed):
    """All texts of up to three tokens that end, and two longer ones, compared with numpy token by token."""
    table, shifts = table_of(4, seed), np.array([[0.0], [1.5]], np.float32)
    texts = [text for text in all_texts(4, 3) if text[-1] == EOS and 0 not in text]
    texts += [(2, 3, 2, 3, EOS), (3, 3, 2, 3, EOS)]
    got = decode.score(MARKOV, table, shifts, padded(texts))
    want = [[markov_log_prob(table, float(shift), text) for text in texts] for (shift,) in shifts]
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert np.exp(np.asarray(got)).sum(axis=1).max() < 1  # they are part of a distribution


def test_the_best_answer_of_a_list_need_not_have_the_most_probable_first_token():
    """2 is the more probable first token, but the answer that begins with 2 is less probable than the one with 3."""
    table = np.full((5, 5), -20.0, np.float32)
    table[0, [2, 3]] = 1.0, 0.0  # first: 2
    table[2, [EOS, 4]] = 0.0, 3.0  # after 2: rather 4 than the end
    table[3, EOS] = 0.0
    scores = decode.score(MARKOV, table, np.zeros((1, 1), np.float32), padded([(2, EOS), (3, EOS)]))
    assert scores[0].argmax() == 1
