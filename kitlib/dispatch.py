"""Moving tokens into the experts' buffers and back, three ways that give the same numbers.

    buffers = dispatch(x, assignment)                  # float[G, S, D] -> float[E, G * C, D]
    outputs = apply_experts(mlp_expert, params, buffers)    # every expert works on its own buffer
    y = combine(outputs, assignment, num_tokens=S)     # float[G, S, D], weighted; zero where nobody worked

*einsum*: one-hot matrices, the way the papers write it and TPUs like it; needs [G, S, E, C] numbers and, in one group,
S / F times the work of the experts. *gather*: rows are copied by index, nothing of that size exists; the default.
*dropless*: no capacity; choices are sorted by expert and cut into blocks (`sort_into_blocks`), each block belongs to
one expert, and `dispatch` and `combine` treat blocks as they treat buffers.

Built in notebooks/04_dispatch_and_capacity.ipynb.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kitlib.routing import Assignment, Choice

# ---------------------------------------------------------------------------------------------- there and back


def dispatch(x: jax.Array, assignment: Assignment, method: str = "gather") -> jax.Array:
    """Copies tokens x float[G, S, D] into the slots: float[E, G * C, D]; empty slots are zero."""
    g, s, d = x.shape
    _, e, c = assignment.token.shape
    if method == "einsum":
        buffers = jnp.einsum("gsec,gsd->egcd", _one_hot(assignment, s).astype(x.dtype), x)
    else:
        buffers = x.reshape(g * s, d).at[_rows(assignment, s)].get(mode="fill", fill_value=0)
    return on_experts(buffers.reshape(e, g * c, d))


def combine(outputs: jax.Array, assignment: Assignment, num_tokens: int, method: str = "gather") -> jax.Array:
    """Sums the slots of each token, weighted: outputs float[E, G * C, D] -> float32[G, S, D].

    The sum is float32 even where the outputs come in bfloat16.
    """
    g, e, c = assignment.token.shape
    outputs = on_experts(outputs).reshape(e, g, c, -1)
    if method == "einsum":
        weights = _one_hot(assignment, num_tokens) * assignment.weight[:, None]
        return jnp.einsum("gsec,egcd->gsd", weights, outputs.astype(jnp.float32))
    # Flat rows: XLA's CPU takes 30 times as long for the weights' gradient, a sum over D, where rows have three axes.
    weighted = assignment.weight.swapaxes(0, 1).reshape(-1, 1) * outputs.reshape(e * g * c, -1)
    y = jnp.zeros((g * num_tokens, outputs.shape[-1]), jnp.float32)
    return y.at[_rows(assignment, num_tokens)].add(weighted, mode="drop").reshape(g, num_tokens, -1)


def on_experts(buffers: jax.Array) -> jax.Array:
    """The one place that says where buffers [E, G * C, D] live: on the mesh axis that the rule for "expert" names.

    A no-op without such a rule (`flax.linen.logical_axis_rules`). With one, XLA inserts the all-to-all between devices
    that hold groups and devices that hold experts.
    """
    return nn.with_logical_constraint(buffers, ("expert", None, None))


def _one_hot(assignment: Assignment, num_tokens: int) -> jax.Array:
    """float32[G, S, E, C]: 1 where token s is in slot c of expert e. An empty slot (token S) is all zeros."""
    return jax.nn.one_hot(assignment.token, num_tokens, axis=1)


def _rows(assignment: Assignment, num_tokens: int) -> jax.Array:
    """int32[E * G * C]: for every slot its row of the flattened tokens; beyond the last where the slot is empty."""
    g = assignment.token.shape[0]
    rows = assignment.token + num_tokens * jnp.arange(g)[:, None, None]
    return jnp.where(assignment.token < num_tokens, rows, g * num_tokens).swapaxes(0, 1).reshape(-1)


# ---------------------------------------------------------------------------------------------- dropless


class Blocks(NamedTuple):
    """Choices sorted by expert, each expert's run cut into blocks of equal length, the last one filled up."""

    slots: Assignment  # int32[1, R, block] and float32[1, R, block]: R blocks in the place of E buffers
    expert: jax.Array  # int32[R], whose block it is; R = ceil(choices / block) + E, whatever the router does


def sort_into_blocks(
    choice: Choice, num_experts: int, valid: jax.Array | None = None, block: int | None = None
) -> Blocks:
    """All choices of a single group (int32[1, S, K]) in blocks: nothing is dropped and no capacity is needed.

    At most one block an expert is partly empty, so R blocks always suffice; those left over at the end have no tokens.
    Small blocks waste few slots, large ones fetch the experts' weights less often; by default a block is about a
    quarter of an expert's fair share.
    """
    expert, gate = choice.expert[0].reshape(-1), choice.gate[0].reshape(-1)
    total, k = expert.size, choice.expert.shape[2]
    block = block or max(8, -(-total // (32 * num_experts)) * 8)
    if valid is not None:
        expert = jnp.where(jnp.repeat(valid[0], k), expert, num_experts)
    order = jnp.argsort(expert, stable=True)  # choice i belongs to token i // K
    counts = jnp.zeros(num_experts, jnp.int32).at[expert].add(1, mode="drop")
    blocks_of = -(-counts // block)
    num_blocks = -(-total // block) + num_experts
    last = jnp.cumsum(blocks_of)  # one past the last block of each expert

    row = jnp.arange(num_blocks)
    owner = jnp.minimum(jnp.searchsorted(last, row, side="right"), num_experts - 1)
    within = (row - (last - blocks_of)[owner])[:, None] * block + jnp.arange(block)[None]  # place in the expert's run
    filled = (within < counts[owner][:, None]) & (row < last[-1])[:, None]
    start = jnp.cumsum(counts) - counts
    winner = order[jnp.where(filled, start[owner][:, None] + within, 0)]
    token = jnp.where(filled, winner // k, choice.expert.shape[1])
    return Blocks(Assignment(token[None], jnp.where(filled, gate[winner], 0.0)[None]), owner)


# ---------------------------------------------------------------------------------------------- the experts


def apply_experts(
    expert: Callable,
    params,
    x: jax.Array,
    *,
    owner: jax.Array | None = None,
    keys: jax.Array | None = None,
    how: str | None = None,
) -> jax.Array:
    """Every expert on its own rows: x float[R, C, D] -> float[R, C, D'].

    Args:
      expert: (dense, params of one expert, x [C, D], key) -> [C, D'], with `dense(x, {"kernel", "bias"})` for its
        linear layers: see `moe.mlp_expert`.
      params: a tree of arrays with a leading E axis.
      x: buffers, R = E, or blocks.
      owner: int32[R], in ascending order, whose block it is; None: row e belongs to expert e.
      keys: one random key a row, for dropout, or None.
      how: "batched" matrix multiplications, for buffers; "ragged" ones (`jax.lax.ragged_dot`), for blocks; or a "loop"
        over blocks. None takes what fits x, and for blocks on a single CPU the loop: ragged multiplications compute
        every expert on every row there.
    """
    if how is None:
        how = "batched" if owner is None else "loop" if single_cpu() else "ragged"
    if how == "batched":
        params = params if owner is None else jax.tree.map(lambda p: p[owner], params)
        return jax.vmap(functools.partial(expert, dense))(params, x, keys)
    owner = jnp.arange(len(x)) if owner is None else owner
    if how == "loop":
        return _loop(expert, params, owner, x, keys)

    r, c, _ = x.shape
    num_experts = jax.tree.leaves(params)[0].shape[0]
    sizes = jnp.zeros(num_experts, jnp.int32).at[owner].add(c)

    def ragged_dense(x, layer):
        y = jax.lax.ragged_dot(x, layer["kernel"].astype(x.dtype), sizes)
        return y + jnp.repeat(layer["bias"][owner], c, axis=0).astype(x.dtype) if "bias" in layer else y

    key = None if keys is None else keys[0]
    return expert(ragged_dense, params, x.reshape(r * c, -1), key).reshape(r, c, -1)


def single_cpu() -> bool:
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def dense(x: jax.Array, layer: dict) -> jax.Array:
    """x float[..., D] times layer["kernel"] [D, D'], plus layer["bias"] [D'] where there is one, in x's type."""
    y = x @ layer["kernel"].astype(x.dtype)
    return y + layer["bias"].astype(x.dtype)[(None,) * (y.ndim - 1)] if "bias" in layer else y


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loop(expert: Callable, params, owner, x, keys):
    """Block after block, each with the weights of its owner.

    The backward pass is a loop too. It computes each hidden layer again instead of storing it, and adds each block's
    gradient to its owner's in place; what JAX derives from the forward loop adds a whole [E, ...] array a turn.
    """
    return jax.lax.map(lambda row: expert(dense, jax.tree.map(lambda p: p[row[0]], params), *row[1:]), (owner, x, keys))


def _loop_forward(expert, params, owner, x, keys):
    return _loop(expert, params, owner, x, keys), (params, owner, x, keys)


def _loop_backward(expert, residuals, cotangent):
    params, owner, x, keys = residuals

    def step(total, row):
        e, x, key, g = row
        _, vjp = jax.vjp(lambda p, x: expert(dense, p, x, key), jax.tree.map(lambda p: p[e], params), x)
        grad, dx = vjp(g)
        return jax.tree.map(lambda t, d: t.at[e].add(d), total, grad), dx

    grads, dx = jax.lax.scan(step, jax.tree.map(jnp.zeros_like, params), (owner, x, keys, cotangent))
    return grads, None, dx, None


_loop.defvjp(_loop_forward, _loop_backward)
