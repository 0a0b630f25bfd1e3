"""Routers: which expert processes which token, and with which weight.

    dispatcher, loss = route(config, logits, noisy, valid)      # logits float32[G, S, E]

Two families. *Token choice*: every token picks its K most probable experts (`top_k`), and the experts' buffers, C slots
each, are filled in order of priority (`assign`); a choice that finds its buffer full is dropped. *Expert choice*: every
expert picks its C most probable tokens (`expert_choice`). Both end in a table of slots, the dispatcher (`dispatch`).

Logits, probabilities and selection are float32 throughout: a bfloat16 softmax over many experts reorders them.

Built in notebooks/03_routers.ipynb (token choice, losses) and notebooks/06_expert_choice_and_soft_moe.ipynb.
"""

import math
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from kitlib.configs import MoEConfig
from kitlib.configs.arguments import instance, number, whole
from kitlib.moe.dispatch import Choice, Dispatcher, Slots, sort_into_blocks

# ---------------------------------------------------------------------------------------------- capacity


def capacity(c: MoEConfig, num_tokens: int) -> int:
    """Slots C per expert in a group of `num_tokens`: as configured, or from the capacity factor."""
    if instance("c", c, MoEConfig).capacity is not None:
        return min(c.capacity, whole("num_tokens", num_tokens, 1))
    sizes, factor = (num_tokens, c.num_experts), c.capacity_factor
    if c.router == "top_k":
        return capacity_of_choices(*sizes, c.num_selected, factor, multiple_of=c.capacity_multiple_of)
    return capacity_of_tokens(*sizes, factor)


def capacity_of_choices(num_tokens: int, num_experts: int, num_selected: int, factor: float, *, multiple_of=1) -> int:
    """Slots C per expert and group, as V-MoE and GShard count: ceil(factor * K * S / E), rounded up to a multiple.

    With factor 1 there is one slot for each of the K * S choices; from E / K on, nothing can be dropped. V-MoE's code
    rounds up to a multiple of 4 (multiple_of=4), which matters for small groups: 20 slots instead of 16.8.
    """
    whole("multiple_of", multiple_of, 1)
    slots = math.ceil(round(_slots(num_tokens, num_experts, num_selected, factor), 9))  # in binary, 1.1 * 10 > 11
    return min(num_tokens, -(-slots // multiple_of) * multiple_of)  # a token takes at most one slot per expert


def capacity_of_tokens(num_tokens: int, num_experts: int, factor: float) -> int:
    """Slots C per expert and group, as Switch, Expert Choice and flaxformer count: round(factor * S / E), no K.

    Under expert choice, factor is the mean number of experts per token, and from E on every expert takes all tokens.
    For token choice, this gives 1 / K of the slots of `capacity_of_choices`. At least 1, so that a model with many
    experts can also read a prompt of three tokens; each token then gets more experts than the factor.
    """
    return min(num_tokens, max(1, round(_slots(num_tokens, num_experts, 1, factor))))


def _slots(num_tokens: int, num_experts: int, num_selected: int, factor: float) -> float:
    for name, value in (("num_tokens", num_tokens), ("num_experts", num_experts), ("num_selected", num_selected)):
        whole(name, value, 1)
    return number("factor", factor, above=0.0) * (num_tokens * num_selected) / num_experts


# ---------------------------------------------------------------------------------------------- token choice


def add_noise(logits: jax.Array, key: jax.Array, noise_std: float = 1.0) -> jax.Array:
    """float32[G, S, E] -> the same plus normal noise of standard deviation noise_std / E (2106.05974, section 2)."""
    return logits + noise_std / logits.shape[-1] * jax.random.normal(key, logits.shape)


def top_k(probabilities: jax.Array, num_selected: int, valid: jax.Array | None = None) -> Choice:
    """Every token picks its K most probable experts; ties go to the first.

    probabilities float32[G, S, E]; valid bool[G, S], False on padding. The gates are the softmax values themselves
    (V-MoE: TOP_K(softmax)), so that the router has a gradient even for K=1; GShard's softmax(TOP_K) is constant there.
    """
    num_experts = probabilities.shape[-1]
    whole("num_selected", num_selected, 1, num_experts)
    gate, expert = jax.lax.top_k(probabilities, num_selected)
    if valid is not None:
        gate = jnp.where(valid[..., None], gate, 0.0)
    return Choice(expert, gate)


def assign(
    choice: Choice, num_experts: int, capacity: int, *, batch_priority: bool = False, valid: jax.Array | None = None
) -> Slots:
    """Fills the buffers: all first choices, then all second choices, ...; within one rank, in the order of tokens.

    batch_priority: within one rank, in decreasing order of the tokens' top gates instead (2106.05974, section 4: Batch
    Priority Routing), so that the dropped choices are those of the least certain tokens. Padding takes no slot.

    A single sort is enough. Choices are numbered by priority, i = rank * S + position of the token in the order. Sorted
    by the key expert * K * S + i, the choices of each expert are contiguous, and slot c of expert e holds its c-th.
    """
    if capacity < 1:
        raise ValueError(f"An expert needs at least one slot, got capacity {capacity}.")
    g, s, k = choice.expert.shape
    if not isinstance(choice.expert, jax.core.Tracer):
        largest = int(np.asarray(choice.expert).max(initial=-1))
        if largest >= num_experts:
            raise ValueError(
                f"A token chose expert {largest}, but they are 0 to {num_experts - 1}: E is {num_experts}."
            )
    if (num_experts + 1) * k * s >= 2**31:
        raise ValueError(f"Groups of {s} tokens are too long for {num_experts} experts; use more groups.")
    order = jnp.broadcast_to(jnp.arange(s), (g, s))  # int32[G, S], tokens in order of priority
    if batch_priority:
        order = jnp.argsort(-choice.gate[..., 0], axis=1, stable=True)
    expert, gate = choice
    if valid is not None:
        expert = jnp.where(valid[..., None], expert, num_experts)  # padding is sorted behind the choices of all experts
    ranked = jnp.take_along_axis(expert, order[..., None], axis=1).swapaxes(1, 2).reshape(g, k * s)  # [G, K * S]
    keys = jnp.sort(ranked * (k * s) + jnp.arange(k * s)[None], axis=1)  # [G, K * S]
    starts = jax.vmap(jnp.searchsorted, (0, None))(keys, jnp.arange(num_experts + 1) * (k * s))  # int32[G, E + 1]

    slot = starts[:, :-1, None] + jnp.arange(capacity)[None, None]  # int32[G, E, C], an index into the sorted keys
    filled = slot < starts[:, 1:, None]
    # Index operations are mapped over groups, so that no group needs another device's tokens on a mesh.
    take = jax.vmap(lambda values, index: values[index])
    winner = take(keys, jnp.minimum(slot, k * s - 1)) % (k * s)
    rank, token = winner // s, take(order, winner % s)  # [G, E, C] both
    weight = take(gate.reshape(g, s * k), token * k + rank)  # [G, E, C]
    return Slots(jnp.where(filled, token, s), jnp.where(filled, weight, 0.0), s)


# ---------------------------------------------------------------------------------------------- expert choice


def expert_choice(probabilities: jax.Array, capacity: int, valid: jax.Array | None = None) -> Slots:
    """Every expert picks its C most probable tokens (2202.09368; the router of 2212.05055): no overflow, no loss term.

    probabilities float32[G, S, E], the softmax over experts; valid bool[G, S], False on padding, which is not picked.
    A token may be picked by several experts or by none. This depends on all other tokens, including later ones.
    """
    s = probabilities.shape[1]
    if not 1 <= capacity <= s:
        raise ValueError(f"An expert can choose 1 to S={s} tokens, got capacity {capacity}.")
    scores = probabilities.swapaxes(1, 2)  # [G, E, S]
    if valid is not None:
        scores = jnp.where(valid[:, None], scores, -1.0)
    weight, token = jax.lax.top_k(scores, capacity)  # [G, E, C] both
    return Slots(jnp.where(weight >= 0, token, s), jnp.maximum(weight, 0.0), s)


# ---------------------------------------------------------------------------------------------- from logits to slots

Weights = TypeVar("Weights", Slots, Choice)


def route(c: MoEConfig, logits: jax.Array, noisy, valid) -> tuple[Dispatcher, jax.Array]:
    """(the dispatcher, the weighted auxiliary loss float32[]) from the router's logits float32[G, S, E].

    noisy: the logits with noise, by which tokens are routed; None: no noise. valid bool[G, S]: real tokens; None: all.
    """
    probabilities = jax.nn.softmax(logits if noisy is None else noisy)  # float32[G, S, E]
    if c.router == "top_k":
        choice = top_k(probabilities, c.num_selected, valid)  # [G, S, K]
        return dispatcher_of(c, choice, valid), auxiliary_loss(c, logits, noisy, choice, valid)
    loss = c.z_weight * z_loss(logits, valid) if c.z_weight else jnp.zeros(())
    slots = expert_choice(probabilities, capacity(c, logits.shape[1]), valid).replace(method=c.dispatch)
    return (renormalize(slots) if c.renormalize else slots), loss


def dispatcher_of(c: MoEConfig, choice: Choice, valid: jax.Array | None, num_slots: int | None = None) -> Dispatcher:
    """Gives the choices [G, S, K] of all tokens their slots, in order of priority; dropless: room for all of them.

    valid bool[G, S]: real tokens; None: all are. num_slots: slots per expert and group; None: `capacity` of the group.
    """
    if c.dispatch == "dropless":
        choice = renormalize(choice) if c.renormalize else choice
        if valid is not None:
            choice = choice._replace(expert=jnp.where(valid[..., None], choice.expert, c.num_experts))
        return sort_into_blocks(choice, c.num_experts)
    num_slots = num_slots or capacity(c, choice.expert.shape[1])
    slots = assign(choice, c.num_experts, num_slots, batch_priority=c.batch_priority, valid=valid)
    slots = slots.replace(method=c.dispatch)
    return renormalize(slots) if c.renormalize else slots


def renormalize(weights: Weights) -> Weights:
    """Combine weights of each token divided by their sum over the experts that process it (2212.05055, appendix B.7).

    0.3, 0.2, 0.1 become 0.500, 0.333, 0.167; the weight of a single expert becomes 1; a token without experts keeps 0.
    With identical experts, the layer is then the dense MLP on every processed token, for any router. Of a `Choice`, all
    K experts process the token (dropless).
    """
    by_token = weights.gate if isinstance(weights, Choice) else weights.combine_weights  # [G, S, K] or [G, S, E]
    total = by_token.sum(axis=-1)  # [G, S]
    total = jnp.where(total > 0, total, 1.0)
    if isinstance(weights, Choice):
        return weights._replace(gate=weights.gate / total[..., None])
    index = jnp.minimum(weights.token, weights.num_tokens - 1)
    return weights.replace(weight=weights.weight / jax.vmap(lambda t, i: t[i])(total, index))


# ---------------------------------------------------------------------------------------------- auxiliary losses


def auxiliary_loss(c: MoEConfig, logits, noisy, choice: Choice, valid) -> jax.Array:
    """The weighted sum of the router's losses, float32[]. A term of weight 0 is not computed: it adds no NaN gradient.

    logits float32[G, S, E]; noisy the same with router noise, or None; choice [G, S, K]; valid bool[G, S] or None.
    """
    probabilities = jax.nn.softmax(logits)
    total = jnp.zeros(())
    if c.importance_weight:
        total += c.importance_weight * importance_loss(probabilities, valid)
    if c.load_weight and noisy is not None:  # without noise, as at test time, the load has no gradient
        total += c.load_weight * load_loss(logits, noisy, c.num_selected, c.noise_std, valid)
    if c.balance_weight:
        total += c.balance_weight * balance_loss(probabilities, choice.expert, valid)
    if c.z_weight:
        total += c.z_weight * z_loss(logits, valid)
    return total


def importance_loss(probabilities: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Squared coefficient of variation over experts of their summed probabilities, mean over groups (2106.05974).

    0 if all experts have the same sum, E - 1 if one has all of it. probabilities float32[G, S, E], without noise. As in
    all losses here, groups of padding alone are left out of the mean, which is 0 if there is no other.
    """
    return _over_groups(_squared_variation(_mask(probabilities, valid).sum(axis=1)), valid)


def load_loss(logits: jax.Array, noisy_logits, num_selected: int, noise_std: float, valid=None) -> jax.Array:
    """Squared coefficient of variation over experts of their load, mean over groups (2106.05974).

    The load of expert e is the sum over tokens of the probability that e, with its noise drawn again, reaches the K-th
    largest noisy logit: unlike a count of tokens, it has a gradient. logits and noisy_logits float32[G, S, E];
    noise_std as for `add_noise`. Raises ValueError without noise.
    """
    if noise_std <= 0:
        raise ValueError(f"The load loss needs router noise, got noise_std {noise_std}.")
    threshold = jax.lax.top_k(noisy_logits, num_selected)[0][..., -1:]
    sigma = noise_std / logits.shape[-1]
    selected = 1.0 - jax.scipy.stats.norm.cdf((threshold - logits) / sigma)  # the probabilities, [G, S, E]
    return _over_groups(_squared_variation(_mask(selected, valid).sum(axis=1)), valid)


def balance_loss(probabilities: jax.Array, expert: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """E * sum_e (share of tokens that chose e) * (mean probability of e), mean over groups (Switch, 2101.03961, eq. 4).

    expert int32[G, S, K]: K choices that are perfectly balanced give K. GShard counts first choices only:
    `expert[..., :1]`.
    """
    num_experts = probabilities.shape[-1]
    count = probabilities.shape[1] if valid is None else jnp.maximum(valid.sum(axis=1)[:, None], 1)
    chosen = _mask(jax.nn.one_hot(expert, num_experts).sum(axis=2), valid).sum(axis=1) / count
    mean = _mask(probabilities, valid).sum(axis=1) / count
    return num_experts * _over_groups((chosen * mean).sum(axis=-1), valid)


def z_loss(logits: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Mean of logsumexp(logits)^2 (ST-MoE, 2202.08906, eq. 5): keeps logits small. (log E)^2 at zero logits."""
    square = jax.nn.logsumexp(logits, axis=-1) ** 2
    return square.mean() if valid is None else jnp.where(valid, square, 0.0).sum() / jnp.maximum(valid.sum(), 1)


def _mask(x: jax.Array, valid: jax.Array | None) -> jax.Array:
    return x if valid is None else jnp.where(valid[..., None], x, 0.0)


def _squared_variation(total: jax.Array) -> jax.Array:
    # Not (std / mean)^2: at perfect balance the derivative of the square root is infinite and the gradient is NaN.
    mean = total.mean(axis=-1)
    return total.var(axis=-1) / jnp.square(jnp.where(mean > 0, mean, 1.0))


def _over_groups(losses: jax.Array, valid: jax.Array | None) -> jax.Array:
    """Mean of float32[G] over the groups with a real token."""
    if valid is None:
        return losses.mean()
    real = valid.any(axis=1)
    return jnp.where(real, losses, 0.0).sum() / jnp.maximum(real.sum(), 1)


# ---------------------------------------------------------------------------------------------- metrics


def metrics(processed: jax.Array, probabilities: jax.Array, *, num_selected=None, valid=None) -> dict[str, jax.Array]:
    """The metrics of one router, over all groups; 0 if all is padding. processed bool[G, S, E]: whether expert e
    processes token s.

    "dropped": share of the tokens' K choices (num_selected) that got no slot; 0 under expert choice (None).
    "unprocessed": share of tokens without an expert. "experts_per_token": mean number of experts per token.
    "load" float32[E]: each expert's share of all filled slots. "entropy": mean entropy of the probabilities, in nats.
    """
    valid = jnp.ones(processed.shape[:2], bool) if valid is None else valid
    tokens, slots = valid.sum(), processed.sum()
    count = jnp.maximum(tokens, 1)
    entropy = jax.scipy.special.entr(probabilities).sum(axis=-1)
    return {
        "dropped": (num_selected * tokens - slots) / (num_selected * count) if num_selected else jnp.zeros(()),
        "unprocessed": jnp.sum(~processed.any(axis=-1) & valid) / count,
        "experts_per_token": slots / count,
        "load": processed.sum(axis=(0, 1)) / jnp.maximum(slots, 1),
        "entropy": jnp.where(valid, entropy, 0.0).sum() / count,
    }


def router_metrics(out: dict) -> dict[str, jax.Array]:
    """From a model's intermediates: "auxiliary_loss" and, for the routers of its L' sparse blocks in their order,
    "dropped" and "unprocessed" float32[L'] and "load" float32[L', E], see `metrics`, and "busiest" float32[L'], the
    largest load over an equal one (1: balanced, E: one expert has all). Soft MoE has only the first."""
    blocks = [value for name, value in sorted(out.items()) if name.startswith("block") and "moe" in value]
    routers = [block["moe"]["metrics"] for block in blocks if "metrics" in block["moe"]]
    stacked = {name: jnp.stack([m[name] for m in routers]) for name in ("dropped", "unprocessed", "load") if routers}
    if routers:
        stacked["busiest"] = stacked["load"].shape[-1] * stacked["load"].max(axis=-1)
    return {"auxiliary_loss": out["auxiliary_loss"], **stacked}
