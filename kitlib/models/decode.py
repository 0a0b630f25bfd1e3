"""Generating text with an encoder-decoder: greedily, by sampling, by beam search, or from a list of given answers.

    tokens, log_probs = decode.greedy(model, params, inputs, max_length=64)
    tokens, log_probs = decode.sample(model, params, inputs, key, max_length=64, temperature=0.7, top_p=0.9)
    tokens, scores = decode.beam_search(model, params, inputs, max_length=64, num_beams=4)
    best = answers[decode.score(model, params, inputs, answers).argmax(-1)]       # the most probable of given answers

Each of them is one compiled program. The keys and values of generated tokens are kept in a cache of fixed length, so
that every token costs the same. The loop ends early once all texts of the batch have ended. A model is any object with
the methods `init_cache(inputs, length)`, `decode_step(tokens, position, cache)` and `for_generation()` of `t5.T5`.

Token 0 is both the start token and the padding after the end of a text, `eos`; -1: no text ends. max_length counts the
generated tokens, including eos, without the start token. inputs is int32[B, N], padded with 0, for a T5, and a dict for
a `palix.PaLIX`. Tokens outside the vocabulary are refused, a ValueError, unless a program around this one is traced.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from kitlib.configs.arguments import indices, number, whole

STATIC = ("model", "max_length", "eos")


def greedy(model, params, inputs, *, max_length: int, eos: int = 1) -> tuple[jax.Array, jax.Array]:
    """The most probable token at every step, on ties the first: (tokens int32[B, M], log_probs float32[B, M]).

    M = max_length. log_probs are the log-probabilities of the generated tokens, 0 after eos; their sum is that of the
    text. A text that has not ended after M tokens is cut off and has no eos.
    """
    _check(model, inputs, max_length, eos)
    return _write(model, params, inputs, None, max_length=max_length, eos=eos)


def sample(
    model,
    params,
    inputs,
    key: jax.Array,
    *,
    max_length: int,
    eos: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Draws tokens; returns (tokens int32[B, M], log_probs float32[B, M]) like `greedy`.

    temperature, top_k, top_p: see `restrict`; log_probs are those of the model before it. Deterministic in `key`. The
    limit of temperature 0 is `greedy`.
    """
    _check(model, inputs, max_length, eos)
    number("temperature", temperature, 1e-30)
    if top_k is not None:
        whole("top_k", top_k, 1)
    if top_p is not None:
        number("top_p", top_p, above=0.0, most=1.0)
    return _write(model, params, inputs, (key, temperature, top_p), max_length=max_length, eos=eos, top_k=top_k)


def restrict(logits: jax.Array, temperature=1.0, top_k: int | None = None, top_p=None) -> jax.Array:
    """logits float32[B, V] -> logits / temperature float32[B, V], -inf for tokens that must not be drawn.

    top_k keeps the K most probable tokens (and those equal to the last of them). Of these, top_p keeps the fewest whose
    probabilities sum to at least top_p (nucleus sampling, 1904.09751), and at least one.
    """
    logits = logits / temperature
    if top_k is not None:
        least = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if top_p is not None:
        ordered = -jnp.sort(-logits, axis=-1)
        before = jnp.cumsum(jax.nn.softmax(ordered), axis=-1) - jax.nn.softmax(ordered)  # mass of more probable tokens
        least = jnp.min(jnp.where(before < top_p, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


@functools.partial(jax.jit, static_argnames=(*STATIC, "top_k"))
def _write(model, params, inputs, draw: tuple | None, *, max_length: int, eos: int, top_k: int | None = None):
    """The loop of `greedy` (draw: None) and `sample` (draw: its key, temperature and top_p)."""

    def choose(logits, t):  # float32[B, V] -> int32[B]
        if draw is None:
            return jax.lax.top_k(logits, 1)[1][:, 0]  # argmax, three times as fast on a CPU
        key, temperature, top_p = draw
        return jax.random.categorical(jax.random.fold_in(key, t), restrict(logits, temperature, top_k, top_p))

    cache = _init_cache(model, params, inputs, max_length)
    b = jax.tree.leaves(cache)[0].shape[0]

    def step(carry):
        t, last, ended, cache, tokens, log_probs = carry
        logits, cache = _decode_step(model, params, last, t, cache)
        token = jnp.where(ended, 0, choose(logits, t)).astype(jnp.int32)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=-1)[:, 0]
        tokens = tokens.at[:, t].set(token)
        log_probs = log_probs.at[:, t].set(jnp.where(ended, 0.0, log_prob))
        return t + 1, token, ended | (token == eos), cache, tokens, log_probs

    start = jnp.int32(0), jnp.zeros(b, jnp.int32), jnp.zeros(b, bool)
    empty = jnp.zeros((b, max_length), jnp.int32), jnp.zeros((b, max_length))

    def go_on(carry):
        return (carry[0] < max_length) & ~carry[2].all()

    return jax.lax.while_loop(go_on, step, (*start, cache, *empty))[-2:]


def beam_search(
    model, params, inputs, *, max_length: int, num_beams: int = 4, length_penalty: float = 1.0, eos: int = 1
) -> tuple[jax.Array, jax.Array]:
    """The best texts of a search with R = num_beams, best first: (tokens int32[B, R, M], scores float32[B, R]).

    The score of a text is the sum of its log-probabilities divided by length ** length_penalty, where the length
    includes eos. At every step, the 2 R best continuations of the R open texts are ranked by that sum. Those that end
    (with eos, or at max_length) and are among the R best become finished texts, of which the R with the best scores are
    kept. The R best that do not end stay open. A row of the batch stops once it has R finished texts and its best open
    text, if it ended now, would not score higher than the worst of them, although with length_penalty > 0 a longer text
    might. All of this is as in `transformers` (generate with early_stopping=False), so the texts are the same, token by
    token. One beam is `greedy`; there are no more beams than tokens.
    """
    whole("num_beams", num_beams, 1, _check(model, inputs, max_length, eos))
    if not isinstance(length_penalty, jax.core.Tracer):
        number("length_penalty", length_penalty, -10.0, 10.0)
    return _beam_search(
        model, params, inputs, max_length=max_length, num_beams=num_beams, length_penalty=length_penalty, eos=eos
    )


@functools.partial(jax.jit, static_argnames=(*STATIC, "num_beams"))
def _beam_search(model, params, inputs, *, max_length, num_beams, length_penalty, eos):
    r = num_beams
    cache = jax.tree.map(lambda x: jnp.repeat(x, r, axis=0), _init_cache(model, params, inputs, max_length))
    b = jax.tree.leaves(cache)[0].shape[0] // r

    def step(carry):
        t, is_open, tokens, scores, finished, finished_scores, cache = carry
        last = jnp.where(t == 0, 0, tokens[:, :, t - 1]).reshape(-1)
        logits, cache = _decode_step(model, params, last, t, cache)
        v = logits.shape[-1]
        totals = jax.nn.log_softmax(logits).reshape(b, r, v) + scores[:, :, None]  # [B, R, V]
        totals, index = jax.lax.top_k(totals.reshape(b, r * v), 2 * r)  # [B, 2 R] both
        beam, token = index // v, (index % v).astype(jnp.int32)
        candidates = _pick(tokens, beam).at[:, :, t].set(token)  # [B, 2 R, M]
        ends = (token == eos) | (t + 1 == max_length)

        normalised = jnp.where(ends & (jnp.arange(2 * r) < r)[None] & is_open[:, None], totals, -jnp.inf)
        pool = jnp.concatenate([finished_scores, normalised / (t + 1.0) ** length_penalty], axis=1)
        finished_scores, kept = jax.lax.top_k(pool, r)
        finished = _pick(jnp.concatenate([finished, candidates], axis=1), kept)

        scores, kept = jax.lax.top_k(jnp.where(ends, -jnp.inf, totals), r)
        tokens, beam = _pick(candidates, kept), _pick(beam, kept)
        rows = (jnp.arange(b)[:, None] * r + beam).reshape(-1)
        cache = cache | {"self": jax.tree.map(lambda x: x[rows], cache["self"])}
        is_open &= scores[:, 0] / (t + 1.0) ** length_penalty > finished_scores[:, -1]  # not finished: -inf
        return t + 1, is_open, tokens, scores, finished, finished_scores, cache

    # All beams start as the same empty text, so only the first is ranked.
    scores = jnp.where(jnp.arange(r) == 0, 0.0, -jnp.inf)[None].repeat(b, axis=0)
    empty = jnp.zeros((b, r, max_length), jnp.int32)
    carry = jnp.int32(0), jnp.ones(b, bool), empty, scores, empty, jnp.full((b, r), -jnp.inf), cache
    _, _, _, _, finished, finished_scores, _ = jax.lax.while_loop(
        lambda carry: (carry[0] < max_length) & carry[1].any(), step, carry
    )
    return finished, finished_scores


def score(model, params, inputs, answers, *, eos: int = 1) -> jax.Array:
    """Log-probability float32[B, A] of each given answer int32[A, M]; answers end with eos and are padded.

    This finds the best of a list exactly. Greedy generation that allows only these answers does not: its first tokens
    may lead to an improbable answer. Raises ValueError for an answer without eos, with tokens after it, or
    with padding before it.
    """
    vocab_size = _check(model, inputs, 1, eos)
    answers = indices("answers", answers, vocab_size, (None, None))
    ended = np.cumsum(answers == eos, axis=-1) - (answers == eos)
    if not (answers == eos).any(axis=-1).all() or ((answers != 0) == (ended > 0)).any():
        raise ValueError(f"Answers must be int[A, M], each with its end {eos} and then 0, got {answers.tolist()}.")
    return _score(model, params, inputs, jnp.asarray(answers, jnp.int32))


@functools.partial(jax.jit, static_argnames=("model",))
def _score(model, params, inputs, answers):
    a, m = answers.shape
    cache = jax.tree.map(lambda x: jnp.repeat(x, a, axis=0), _init_cache(model, params, inputs, m))
    b = jax.tree.leaves(cache)[0].shape[0] // a
    tokens = jnp.tile(answers, (b, 1))  # [B * A, M]

    def step(carry, t):
        cache, total = carry
        last = jnp.where(t == 0, 0, tokens[:, t - 1])
        logits, cache = _decode_step(model, params, last, t, cache)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, t][:, None], axis=-1)[:, 0]
        return (cache, total + jnp.where(tokens[:, t] == 0, 0.0, log_prob)), None

    (_, total), _ = jax.lax.scan(step, (cache, jnp.zeros(b * a)), jnp.arange(m))
    return total.reshape(b, a)


def _check(model, inputs, max_length: int, eos: int) -> int | None:
    """V, None for a model without a configuration. Raises ValueError for what would give NaN, or nothing."""
    config = getattr(model, "config", None)
    vocab_size = getattr(getattr(config, "text", config), "vocab_size", None)
    if vocab_size and isinstance(inputs, dict) != hasattr(config, "text"):
        raise ValueError(f"inputs is {type(inputs).__name__}; expected tokens for a T5, a dictionary for a PaLIX.")
    whole("max_length", max_length, 1)
    whole("eos", eos, -1, vocab_size and vocab_size - 1)
    tokens = inputs.get("prompt_tokens") if isinstance(inputs, dict) else inputs
    traced = isinstance(tokens, jax.core.Tracer)
    if vocab_size and not traced and getattr(tokens, "is_fully_addressable", True):
        shape = (None,) * (3 if np.ndim(tokens) == 3 and isinstance(inputs, dict) else 2)  # a few-shot prompt has 3
        indices("inputs", tokens, vocab_size, shape)
    return vocab_size


def _pick(x: jax.Array, index: jax.Array) -> jax.Array:
    """x [B, R, ...], index int[B, R'] -> [B, R', ...]."""
    return jax.vmap(lambda x, i: x[i])(x, index)


def _init_cache(model, params, inputs, max_length: int):
    return model.for_generation().apply({"params": params}, inputs, max_length, method="init_cache")


def _decode_step(model, params, tokens, position, cache):
    return model.for_generation().apply({"params": params}, tokens, position, cache, method="decode_step")
