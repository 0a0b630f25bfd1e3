"""Routers: which expert works on which token, and with which weight.

Two families. *Token choice*: every token picks its K most probable experts (`top_k`), and the experts' buffers, C slots
each, are filled in order of priority (`assign`); a choice that finds its buffer full is dropped. *Expert choice*: every
expert picks its C most probable tokens (`expert_choice`). Both end in an `Assignment`, a table of slots; `dispatch`
moves the tokens there and back.

Logits, probabilities and selection are float32 throughout: a bfloat16 softmax over many experts reorders them.

Built in notebooks/03_routers.ipynb (token choice, losses) and notebooks/06_expert_choice_and_soft_moe.ipynb.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Choice(NamedTuple):
    """What every token wants, best first. A token that is only padding wants nothing: its gates are 0."""

    expert: jax.Array  # int32[G, S, K]
    gate: jax.Array  # float32[G, S, K], the probability of that expert, not renormalised


class Assignment(NamedTuple):
    """What every expert gets: its buffer of C slots in every group."""

    token: jax.Array  # int32[G, E, C], a place in the group; S where the slot is empty
    weight: jax.Array  # float32[G, E, C], the combine weight; 0 where the slot is empty


# ---------------------------------------------------------------------------------------------- capacity


def capacity_of_choices(
    num_tokens: int, num_experts: int, num_selected: int, factor: float, *, multiple_of: int = 1
) -> int:
    """Slots C an expert has in a group, as V-MoE and GShard count: ceil(factor * K * S / E), up to a multiple.

    Factor 1 has one slot for each of the K * S choices; from E / K on, nothing can be dropped. V-MoE's code rounds up
    to a multiple of 4 (multiple_of=4), which small groups feel: 20 slots where 16.8 were asked for.
    """
    slots = math.ceil(round(_slots(num_tokens * num_selected, num_experts, factor), 9))  # 1.1 * 10 is a bit over 11
    return min(num_tokens, -(-slots // multiple_of) * multiple_of)  # a token takes at most one slot of an expert


def capacity_of_tokens(num_tokens: int, num_experts: int, factor: float) -> int:
    """Slots C an expert has in a group, as Switch, Expert Choice and flaxformer count: round(factor * S / E), no K.

    Under expert choice, factor is the mean number of experts a token gets, and from E on every expert takes all tokens.
    For token choice it is K times less generous than `capacity_of_choices`. At least 1, so that a model of many experts
    also reads a prompt of three tokens, where each then gets more experts than the factor says.
    """
    return min(num_tokens, max(1, round(_slots(num_tokens, num_experts, factor))))


def _slots(wanted: int, num_experts: int, factor: float) -> float:
    if wanted < 1 or num_experts < 1:
        raise ValueError(f"Capacity needs at least one token and one expert, got {wanted} and {num_experts}.")
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"The capacity factor must be positive, got {factor}; 1.0 has a slot for everyone on average.")
    return factor * wanted / num_experts


# ---------------------------------------------------------------------------------------------- token choice


def add_noise(logits: jax.Array, key: jax.Array, noise_std: float = 1.0) -> jax.Array:
    """float32[G, S, E] -> the same plus normal noise of standard deviation noise_std / E (2106.05974, section 2)."""
    return logits + noise_std / logits.shape[-1] * jax.random.normal(key, logits.shape)


def top_k(probabilities: jax.Array, num_selected: int, valid: jax.Array | None = None) -> Choice:
    """Every token picks its K most probable experts; of equals, the first.

    probabilities float32[G, S, E]; valid bool[G, S], False on padding. The gates are the softmax values themselves
    (V-MoE: TOP_K(softmax)), so that the router has a gradient even for K=1; GShard's softmax(TOP_K) is constant there.
    """
    num_experts = probabilities.shape[-1]
    if not 1 <= num_selected <= num_experts:
        raise ValueError(f"A token can select 1 to E={num_experts} experts, got K={num_selected}.")
    gate, expert = jax.lax.top_k(probabilities, num_selected)
    if valid is not None:
        gate = jnp.where(valid[..., None], gate, 0.0)
    return Choice(expert, gate)


def assign(
    choice: Choice,
    num_experts: int,
    capacity: int,
    *,
    batch_priority: bool = False,
    valid: jax.Array | None = None,
) -> Assignment:
    """Fills the buffers: all first choices, then all second choices, ...; within one rank, token after token.

    batch_priority: within one rank, tokens with the largest top gate first instead (2106.05974, section 4: Batch
    Priority Routing), so that what overflows is what the router cares least about. Padding takes no slot.

    One sort does it. Choices are numbered by priority, i = rank * S + place in line; the sort key expert * K * S + i
    then lines every expert's choices up behind each other, and slot c of expert e is simply the c-th of its line.
    """
    if capacity < 1:
        raise ValueError(f"An expert needs at least one slot, got capacity {capacity}.")
    g, s, k = choice.expert.shape
    if (num_experts + 1) * k * s >= 2**31:
        raise ValueError(f"Groups of {s} tokens are too long for {num_experts} experts; use more groups.")
    line = jnp.broadcast_to(jnp.arange(s), (g, s))  # who stands where in line
    if batch_priority:
        line = jnp.argsort(-choice.gate[..., 0], axis=1, stable=True)
    expert, gate = choice
    if valid is not None:
        expert = jnp.where(valid[..., None], expert, num_experts)  # a queue of its own, behind all others
    ranked = jnp.take_along_axis(expert, line[..., None], axis=1).swapaxes(1, 2).reshape(g, k * s)
    keys = jnp.sort(ranked * (k * s) + jnp.arange(k * s)[None], axis=1)
    starts = jax.vmap(jnp.searchsorted, (0, None))(keys, jnp.arange(num_experts + 1) * (k * s))  # int32[G, E + 1]

    place = starts[:, :-1, None] + jnp.arange(capacity)[None, None]  # int32[G, E, C]
    filled = place < starts[:, 1:, None]
    winner = keys[jnp.arange(g)[:, None, None], jnp.minimum(place, k * s - 1)] % (k * s)
    rank, token = winner // s, line[jnp.arange(g)[:, None, None], winner % s]
    weight = gate[jnp.arange(g)[:, None, None], token, rank]
    return Assignment(jnp.where(filled, token, s), jnp.where(filled, weight, 0.0))


# ---------------------------------------------------------------------------------------------- expert choice


def expert_choice(probabilities: jax.Array, capacity: int, valid: jax.Array | None = None) -> Assignment:
    """Every expert picks its C most probable tokens (2202.09368; the router of 2212.05055): no overflow, no loss term.

    probabilities float32[G, S, E], the softmax over experts; valid bool[G, S], False on padding, which nobody picks.
    A token may be picked by several experts or by none, and whether it is depends on the other tokens, later ones too.
    """
    s = probabilities.shape[1]
    if not 1 <= capacity <= s:
        raise ValueError(f"An expert can choose 1 to S={s} tokens, got capacity {capacity}.")
    scores = probabilities.swapaxes(1, 2)
    if valid is not None:
        scores = jnp.where(valid[:, None], scores, -1.0)
    weight, token = jax.lax.top_k(scores, capacity)
    return Assignment(jnp.where(weight >= 0, token, s), jnp.maximum(weight, 0.0))


# ---------------------------------------------------------------------------------------------- combine weights


def by_token(assignment: Assignment, values: jax.Array, num_tokens: int) -> jax.Array:
    """The table turned over: values float32[G, E, C] of slots -> float32[G, S, E], 0 where e does not work on s."""
    g, e, _ = values.shape
    groups, experts = jnp.arange(g)[:, None, None], jnp.arange(e)[None, :, None]
    empty = jnp.zeros((g, num_tokens, e), values.dtype)
    return empty.at[groups, assignment.token, experts].add(values, mode="drop")


def renormalize(assignment: Assignment, num_tokens: int) -> Assignment:
    """Combine weights of each token divided by their sum over the experts that process it (2212.05055, appendix B.7).

    0.3, 0.2, 0.1 become 0.500, 0.333, 0.167; a token that one expert processes gets 1; one that nobody does stays 0.
    With identical experts the layer is then the dense MLP on every processed token, whatever the router says.
    """
    total = by_token(assignment, assignment.weight, num_tokens).sum(axis=-1)
    total = jnp.where(total > 0, total, 1.0)
    index = jnp.minimum(assignment.token, num_tokens - 1)
    return assignment._replace(weight=assignment.weight / total[jnp.arange(total.shape[0])[:, None, None], index])


# ---------------------------------------------------------------------------------------------- auxiliary losses


def importance_loss(probabilities: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Squared coefficient of variation over experts of their summed probabilities, mean over groups (2106.05974).

    0 when all experts matter equally, E - 1 when one has all the mass. Takes the noise-free probabilities [G, S, E].
    """
    return _squared_variation(_mask(probabilities, valid).sum(axis=1)).mean()


def load_loss(
    logits: jax.Array, noisy_logits: jax.Array, num_selected: int, noise_std: float, valid: jax.Array | None = None
) -> jax.Array:
    """The same for the load, made smooth: P(e reaches the K-th best noisy logit, its noise drawn anew) (2106.05974).

    logits and noisy_logits float32[G, S, E]; noise_std as for `add_noise`. Needs noise: a count has no gradient.
    """
    if noise_std <= 0:
        raise ValueError(f"The load loss needs router noise, got noise_std {noise_std}.")
    threshold = jax.lax.top_k(noisy_logits, num_selected)[0][..., -1:]
    sigma = noise_std / logits.shape[-1]
    stays = 1.0 - jax.scipy.stats.norm.cdf((threshold - logits) / sigma)
    return _squared_variation(_mask(stays, valid).sum(axis=1)).mean()


def balance_loss(probabilities: jax.Array, expert: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """E * sum_e (share of tokens that chose e) * (mean probability of e), mean over groups (Switch, 2101.03961, eq. 4).

    expert int32[G, S, K]: K choices that are perfectly balanced give K. GShard counts first choices only:
    `expert[..., :1]`.
    """
    num_experts = probabilities.shape[-1]
    count = probabilities.shape[1] if valid is None else valid.sum(axis=1)[:, None]
    chosen = _mask(jax.nn.one_hot(expert, num_experts).sum(axis=2), valid).sum(axis=1) / count
    mean = _mask(probabilities, valid).sum(axis=1) / count
    return num_experts * (chosen * mean).sum(axis=-1).mean()


def z_loss(logits: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Mean of logsumexp(logits)^2 (ST-MoE, 2202.08906, eq. 5): keeps logits small. (log E)^2 at zero logits."""
    square = jax.nn.logsumexp(logits, axis=-1) ** 2
    return square.mean() if valid is None else jnp.where(valid, square, 0.0).sum() / valid.sum()


def _mask(x: jax.Array, valid: jax.Array | None) -> jax.Array:
    return x if valid is None else jnp.where(valid[..., None], x, 0.0)


def _squared_variation(total: jax.Array) -> jax.Array:
    # Not (std / mean)^2: the derivative of the square root is infinite at perfect balance, and the gradient NaN.
    return total.var(axis=-1) / jnp.square(total.mean(axis=-1))


# ---------------------------------------------------------------------------------------------- metrics


def metrics(
    processed: jax.Array,
    probabilities: jax.Array,
    *,
    num_selected: int | None = None,
    valid: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """What to watch in every router, over all groups. processed bool[G, S, E]: does expert e work on token s.

    "dropped": share of the K choices a token made (num_selected) that found no slot; 0 where the experts choose (None).
    "unprocessed": share of tokens that no expert works on. "experts_per_token": mean number that do.
    "load" float32[E]: share of all filled slots that each expert has. "entropy": of the probabilities, in nats.
    """
    valid = jnp.ones(processed.shape[:2], bool) if valid is None else valid
    count, slots = valid.sum(), processed.sum()
    entropy = jax.scipy.special.entr(probabilities).sum(axis=-1)
    return {
        "dropped": (num_selected * count - slots) / (num_selected * count) if num_selected else jnp.zeros(()),
        "unprocessed": jnp.sum(~processed.any(axis=-1) & valid) / count,
        "experts_per_token": slots / count,
        "load": processed.sum(axis=(0, 1)) / slots,
        "entropy": jnp.where(valid, entropy, 0.0).sum() / count,
    }
