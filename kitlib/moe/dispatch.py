"""Copying tokens into the experts' buffers (dispatch) and summing the experts' outputs per token (combine).

    buffers = dispatch(x, assignment)                       # float[G, S, D] -> float[E, G * C, D]
    outputs = apply_experts(mlp_expert, params, buffers)    # see `experts`
    y = combine(outputs, assignment, num_tokens=S)          # float32[G, S, D], weighted; zero for tokens in no slot

Three methods compute the same function. *einsum* multiplies by one-hot matrices, as the papers write it and as TPUs
prefer; it needs arrays of G * S * E * C numbers and, in one group, S / F times the work of the experts. *gather*, the
default, copies rows by index and makes no array of that size. *dropless* has no capacity: choices are sorted by expert
and cut into blocks (`sort_into_blocks`), each block belongs to one expert, and both functions treat blocks as buffers.

Built in notebooks/04_dispatch_and_capacity.ipynb.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kitlib.moe.routing import Assignment, Choice


def dispatch(x: jax.Array, assignment: Assignment, method: str = "gather") -> jax.Array:
    """Copies tokens x float[G, S, D] into the slots: float[E, G * C, D]; empty slots are zero.

    method: "gather" or "einsum".
    """
    g, s, d = x.shape
    _, e, c = assignment.token.shape
    if method == "einsum":
        buffers = jnp.einsum("gsec,gsd->egcd", _one_hot(assignment, s).astype(x.dtype), x)
    else:
        buffers = x.reshape(g * s, d).at[_rows(assignment, s)].get(mode="fill", fill_value=0)
    return on_experts(buffers.reshape(e, g * c, d))


def combine(outputs: jax.Array, assignment: Assignment, num_tokens: int, method: str = "gather") -> jax.Array:
    """Sums the slots of each token, weighted: outputs float[E, G * C, D] -> float32[G, S, D].

    The sum is computed in float32, also for outputs in bfloat16. method: "gather" or "einsum".
    """
    g, e, c = assignment.token.shape
    outputs = on_experts(outputs).reshape(e, g, c, -1)  # [E, G, C, D]
    if method == "einsum":
        weights = _one_hot(assignment, num_tokens) * assignment.weight[:, None]  # [G, S, E, C]
        return jnp.einsum("gsec,egcd->gsd", weights, outputs.astype(jnp.float32))
    # Rows are flat: for three axes, XLA on a CPU takes 30 times as long for the gradient of the weights, a sum over D.
    weighted = assignment.weight.swapaxes(0, 1).reshape(-1, 1) * outputs.reshape(e * g * c, -1)  # [E * G * C, D]
    y = jnp.zeros((g * num_tokens, outputs.shape[-1]), jnp.float32)
    return y.at[_rows(assignment, num_tokens)].add(weighted, mode="drop").reshape(g, num_tokens, -1)


def on_experts(buffers: jax.Array) -> jax.Array:
    """Puts buffers [E, G * C, D] on the mesh axis that the rule for "expert" names; nothing else in the kit does.

    Without such a rule (`flax.linen.logical_axis_rules`) it has no effect. With one, XLA inserts the all-to-all between
    the devices that hold groups and those that hold experts.
    """
    return nn.with_logical_constraint(buffers, ("expert", None, None))


def _one_hot(assignment: Assignment, num_tokens: int) -> jax.Array:
    """float32[G, S, E, C]: 1 where token s is in slot c of expert e. An empty slot (token S) is all zeros."""
    return jax.nn.one_hot(assignment.token, num_tokens, axis=1)


def _rows(assignment: Assignment, num_tokens: int) -> jax.Array:
    """int32[E * G * C]: the row of each slot's token among the flattened tokens; G * S where the slot is empty."""
    g = assignment.token.shape[0]
    rows = assignment.token + num_tokens * jnp.arange(g)[:, None, None]
    return jnp.where(assignment.token < num_tokens, rows, g * num_tokens).swapaxes(0, 1).reshape(-1)


# ---------------------------------------------------------------------------------------------- dropless


class Blocks(NamedTuple):
    """Choices sorted by expert; those of each expert are cut into blocks of equal length, the last one padded."""

    slots: Assignment  # int32[1, R, block] and float32[1, R, block]: R blocks instead of E buffers
    expert: jax.Array  # int32[R], the expert of each block; R = ceil(choices / block) + E, for every routing


def sort_into_blocks(
    choice: Choice, num_experts: int, valid: jax.Array | None = None, block: int | None = None
) -> Blocks:
    """Sorts all choices of a single group (int32[1, S, K]) into blocks: nothing is dropped, no capacity is needed.

    At most one block per expert is partly empty, so R blocks always suffice; unused blocks at the end have no tokens.
    Small blocks waste fewer slots, large blocks load the experts' weights less often; by default a block is about a
    quarter of the mean number of choices per expert. valid bool[1, S]: real tokens; None: all are.
    """
    expert, gate = choice.expert[0].reshape(-1), choice.gate[0].reshape(-1)
    total, k = expert.size, choice.expert.shape[2]
    block = block or max(8, -(-total // (32 * num_experts)) * 8)
    if valid is not None:
        expert = jnp.where(jnp.repeat(valid[0], k), expert, num_experts)
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
