"""The plan of a routed layer: which token goes into which slot of which expert, and how outputs are summed.

    plan = plan_token_choice(config, choice, valid)         # or plan_expert_choice(config, probabilities, valid)
    buffers = plan.dispatch(x)                              # float[G, S, D] -> float[E, G * C, D]; blocks [R, C, D]
    y = plan.combine(experts(buffers, plan.owner))          # the same shape -> float32[G, S, D]

Callers use every plan in the same way: einsum, gather and dropless dispatch differ only in this module.

Built in notebooks/04_dispatch_and_capacity.ipynb.
"""

import flax.struct
import jax
import jax.numpy as jnp

from kitlib.configs import MoEConfig
from kitlib.configs.arguments import instance, whole
from kitlib.moe import dispatch, routing
from kitlib.moe.routing import Assignment, Choice


@flax.struct.dataclass
class Plan:
    """Slots for tokens, with everything that dispatch and combine need."""

    slots: Assignment  # [G, E, C], one buffer per expert and group; dropless: [1, R, C], R blocks for all groups
    owner: jax.Array | None  # int32[R], the expert of each block; None: row e belongs to expert e
    combine_weights: jax.Array  # float32[G, S, E]; 0 where an expert does not process a token
    method: str = flax.struct.field(pytree_node=False)  # "gather" or "einsum"
    choice: Choice | None = None  # dropless: the choices [G, S, K] that the blocks are made of; padding chose expert E

    def dispatch(self, x: jax.Array) -> jax.Array:
        """Tokens float[G, S, D] -> buffers float[E, G * C, D], one row per expert; dropless: blocks float[R, C, D]."""
        groups = self.slots.token.shape[0]  # G, or 1
        return dispatch.dispatch(x.reshape(groups, -1, x.shape[-1]), self.slots, self.method)

    def combine(self, outputs: jax.Array) -> jax.Array:
        """Expert outputs, in the shape of `dispatch` -> float32[G, S, D], the weighted sum of each token's slots."""
        g, s, _ = self.combine_weights.shape
        groups = self.slots.token.shape[0]  # G, or 1
        return dispatch.combine(outputs, self.slots, g * s // groups, self.method).reshape(g, s, -1)


def capacity(c: MoEConfig, num_tokens: int) -> int:
    """Slots C per expert in a group of `num_tokens`: as configured, or from the capacity factor (see `routing`)."""
    if instance("c", c, MoEConfig).capacity is not None:
        return min(c.capacity, whole("num_tokens", num_tokens, 1))
    if c.router == "top_k":
        multiple = c.capacity_multiple_of
        return routing.capacity_of_choices(
            num_tokens, c.num_experts, c.num_selected, c.capacity_factor, multiple_of=multiple
        )
    return routing.capacity_of_tokens(num_tokens, c.num_experts, c.capacity_factor)


def plan_expert_choice(c: MoEConfig, probabilities: jax.Array, valid: jax.Array | None) -> Plan:
    """Every expert picks its C most probable tokens: probabilities float32[G, S, E], valid bool[G, S] or None."""
    num_tokens = probabilities.shape[1]
    slots = routing.expert_choice(probabilities, capacity(c, num_tokens), valid)
    return _plan(c, slots, num_tokens)


def plan_token_choice(c: MoEConfig, choice: Choice, valid: jax.Array | None, num_slots: int | None = None) -> Plan:
    """Every token has K choices, [G, S, K]: slots are filled in order of priority, or all choices fit (dropless).

    valid bool[G, S]: real tokens; None: all are. num_slots: slots per expert and group; None: `capacity` of the group.
    """
    num_tokens = choice.expert.shape[1]
    if c.dispatch != "dropless":
        num_slots = num_slots or capacity(c, num_tokens)
        slots = routing.assign(choice, c.num_experts, num_slots, batch_priority=c.batch_priority, valid=valid)
        return _plan(c, slots, num_tokens)
    if c.renormalize:
        total = choice.gate.sum(axis=-1, keepdims=True)
        choice = choice._replace(gate=choice.gate / jnp.where(total > 0, total, 1.0))
    if valid is not None:
        choice = choice._replace(expert=jnp.where(valid[..., None], choice.expert, c.num_experts))
    weights = (jax.nn.one_hot(choice.expert, c.num_experts) * choice.gate[..., None]).sum(axis=2)  # [G, S, E]
    # Groups only limit how tokens share capacity. Without capacity, all tokens are one group.
    blocks = dispatch.sort_into_blocks(Choice(*(x.reshape(1, -1, x.shape[-1]) for x in choice)), c.num_experts)
    return Plan(blocks.slots, blocks.expert, weights, "gather", choice)


def _plan(c: MoEConfig, slots: Assignment, num_tokens: int) -> Plan:
    if c.renormalize:
        slots = routing.renormalize(slots, num_tokens)
    return Plan(slots, None, routing.slots_to_tokens(slots, slots.weight, num_tokens), c.dispatch)
