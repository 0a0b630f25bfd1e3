"""Copying tokens into the experts' buffers (dispatch) and summing the experts' outputs per token (combine).

    buffers = dispatch(x, assignment)                       # float[G, S, D] -> float[E, G * C, D]
    outputs = apply_experts(mlp_expert, params, buffers)    # see `experts`
    y = combine(outputs, assignment, num_tokens=S)          # float32[G, S, D], weighted; zero for tokens in no slot

Three methods compute the same function. *einsum* multiplies by one-hot matrices, as the papers write it and as TPUs
prefer; it needs arrays of G * S * E * C numbers and, in one group, S / F times the work of the experts. *gather*, the
default, copies rows by index and makes no array of that size. *dropless* has no capacity: choices are sorted by expert
and cut into blocks (`sort_into_blocks`), each block belongs to one expert, and both functions treat blocks as buffers.

A *plan* is routing and dispatch as one object; callers use every plan in the same way:

    plan = plan_token_choice(config, choice, valid)         # or plan_expert_choice(config, probabilities, valid)
    buffers = plan.dispatch(x)                              # float[G, S, D] -> float[E, G * C, D]; blocks [R, C, D]
    y = plan.combine(experts(buffers, plan.owner))          # the same shape -> float32[G, S, D]

Built in notebooks/04_dispatch_and_capacity.ipynb.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from kitlib.configs import MoEConfig
from kitlib.configs.arguments import instance, one_of, whole
from kitlib.moe import routing
from kitlib.moe.routing import Assignment, Choice
from kitlib.parallel import mesh

METHODS = ("gather", "einsum")
EXCHANGED = "exchanged"  # what has travelled between devices: rematerialisation saves it rather than send it twice


def dispatch(x: jax.Array, assignment: Assignment, method: str = "gather") -> jax.Array:
    """Copies tokens x float[G, S, D] into the slots: float[E, G * C, D]; empty slots are zero.

    method: "gather" or "einsum". On a mesh, the buffers end on the devices of their experts: see `to_experts`.
    """
    one_of("method of dispatch", method, METHODS)
    g, s, d = x.shape
    _, e, c = assignment.token.shape
    if method == "einsum":
        buffers = jnp.einsum("gsec,gsd->gecd", _one_hot(assignment, s).astype(x.dtype), x)
    else:
        # Index operations are mapped over groups: as one operation on the tokens of all groups, XLA would gather the
        # tokens of the whole batch on every device of a mesh.
        rows = jax.vmap(lambda x, token: x.at[token].get(mode="fill", fill_value=0))
        buffers = rows(x, assignment.token.reshape(g, e * c)).reshape(g, e, c, d)
    return to_experts(buffers)


def combine(outputs: jax.Array, assignment: Assignment, num_tokens: int, method: str = "gather") -> jax.Array:
    """Sums the slots of each token, weighted: outputs float[E, G * C, D] -> float32[G, S, D].

    The sum is computed in float32, also for outputs in bfloat16. method: "gather" or "einsum".
    """
    one_of("method of dispatch", method, METHODS)
    g, e, c = assignment.token.shape
    outputs = to_tokens(outputs, g)  # [G, E, C, D]
    if method == "einsum":
        weights = _one_hot(assignment, num_tokens) * assignment.weight[:, None]  # [G, S, E, C]
        return jnp.einsum("gsec,gecd->gsd", weights, outputs.astype(jnp.float32))
    # Rows are flat: for three axes, XLA on a CPU takes 30 times as long for the gradient of the weights, a sum over D.
    weighted = assignment.weight.reshape(-1, 1) * outputs.reshape(g * e * c, -1)  # float32[G * E * C, D]
    empty = jnp.zeros((num_tokens, weighted.shape[-1]), jnp.float32)
    add = jax.vmap(lambda rows, token: empty.at[token].add(rows, mode="drop"))
    return add(weighted.reshape(g, e * c, -1), assignment.token.reshape(g, e * c))


# ---------------------------------------------------------------------------------------------- between devices


def to_experts(buffers: jax.Array) -> jax.Array:
    """Buffers where the tokens are, float[G, E, C, D], to where the experts are, float[E, G * C, D].

    On a mesh, this is one all-to-all between the devices along `expert`: before it, each device has some groups and all
    experts' slots; after it, all groups of its row of the mesh and the slots of its own experts. Both sides are
    constrained, as in V-MoE's code: with one constraint alone, XLA gathers more. A single group is left to XLA.
    """
    g, e, c, d = buffers.shape
    if g > 1:
        buffers = mesh.constrain(buffers, "groups")
    buffers = buffers.swapaxes(0, 1)  # [E, G, C, D]
    if g > 1:
        buffers = mesh.constrain(buffers, "experts")
    return checkpoint_name(buffers, EXCHANGED).reshape(e, g * c, d)


def to_tokens(outputs: jax.Array, num_groups: int) -> jax.Array:
    """The way back, float[E, G * C, D] -> float[G, E, C, D]; the other all-to-all."""
    e, rows, d = outputs.shape
    outputs = outputs.reshape(e, num_groups, rows // num_groups, d)  # [E, G, C, D]
    if num_groups > 1:
        outputs = mesh.constrain(outputs, "experts")
    outputs = outputs.swapaxes(0, 1)  # [G, E, C, D]
    if num_groups > 1:
        outputs = mesh.constrain(outputs, "groups")
    return checkpoint_name(outputs, EXCHANGED)


def _one_hot(assignment: Assignment, num_tokens: int) -> jax.Array:
    """float32[G, S, E, C]: 1 where token s is in slot c of expert e. An empty slot (token S) is all zeros."""
    return jax.nn.one_hot(assignment.token, num_tokens, axis=1)


# ---------------------------------------------------------------------------------------------- dropless


class Blocks(NamedTuple):
    """Choices sorted by expert; those of each expert are cut into blocks of equal length, the last one padded."""

    slots: Assignment  # int32[1, R, block] and float32[1, R, block]: R blocks instead of E buffers
    expert: jax.Array  # int32[R], the expert of each block; R = ceil(choices / block) + E, for every routing


def block_size(num_choices: int, num_experts: int) -> int:
    """Rows per block: about a quarter of the mean number of choices per expert, a multiple of 8."""
    return max(8, -(-num_choices // (32 * num_experts)) * 8)


def sort_into_blocks(choice: Choice, num_experts: int, block: int | None = None) -> Blocks:
    """Sorts all choices of a single group (int32[1, S, K]) into blocks: nothing is dropped, no capacity is needed.

    At most one block per expert is partly empty, so R blocks always suffice; unused blocks at the end have no tokens.
    Small blocks waste fewer slots, large blocks load the experts' weights less often; None: `block_size`. Choices of
    expert E, as of padding, get no slot.
    """
    expert, gate = choice.expert[0].reshape(-1), choice.gate[0].reshape(-1)
    total, k = expert.size, choice.expert.shape[2]
    block = block or block_size(total, num_experts)
    order = jnp.argsort(expert, stable=True)  # choice i belongs to token i // K
    counts = jnp.zeros(num_experts, jnp.int32).at[expert].add(1, mode="drop")
    blocks_of = -(-counts // block)  # int32[E], the number of blocks of each expert
    num_blocks = -(-total // block) + num_experts  # R
    end = jnp.cumsum(blocks_of)  # one past the last block of each expert

    row = jnp.arange(num_blocks)
    owner = jnp.minimum(jnp.searchsorted(end, row, side="right"), num_experts - 1)
    # [R, block]: the position of each slot among the choices of its expert
    within = (row - (end - blocks_of)[owner])[:, None] * block + jnp.arange(block)[None]
    filled = (within < counts[owner][:, None]) & (row < end[-1])[:, None]
    start = jnp.cumsum(counts) - counts  # where each expert's choices start in `order`
    winner = order[jnp.where(filled, start[owner][:, None] + within, 0)]  # the choice in each slot
    token = jnp.where(filled, winner // k, choice.expert.shape[1])
    return Blocks(Assignment(token[None], jnp.where(filled, gate[winner], 0.0)[None]), owner)


# ---------------------------------------------------------------------------------------------- plans


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
        return dispatch(x.reshape(groups, -1, x.shape[-1]), self.slots, self.method)

    def combine(self, outputs: jax.Array) -> jax.Array:
        """Expert outputs, in the shape of `dispatch` -> float32[G, S, D], the weighted sum of each token's slots."""
        g, s, _ = self.combine_weights.shape
        groups = self.slots.token.shape[0]  # G, or 1
        return combine(outputs, self.slots, g * s // groups, self.method).reshape(g, s, -1)


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
    blocks = sort_into_blocks(Choice(*(x.reshape(1, -1, x.shape[-1]) for x in choice)), c.num_experts)
    return Plan(blocks.slots, blocks.expert, weights, "gather", choice)


def _plan(c: MoEConfig, slots: Assignment, num_tokens: int) -> Plan:
    if c.renormalize:
        slots = routing.renormalize(slots, num_tokens)
    return Plan(slots, None, routing.slots_to_tokens(slots, slots.weight, num_tokens), c.dispatch)
