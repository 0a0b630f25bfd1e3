"""Dispatchers: they copy tokens into the experts' buffers (dispatch) and sum the experts' outputs per token (combine).

    dispatcher, loss = route(config, logits, noisy, valid)      # see `routing`
    buffers = dispatcher.dispatch(x)                            # float[G, S, D] -> float[E, G * C, D]; blocks [R, C, D]
    outputs = mlps(buffers, dispatcher.owner)                   # see `experts.Mlps`; the same shape
    y = dispatcher.combine(outputs)                             # float32[G, S, D], weighted; zero for tokens in no slot

`Slots` has a capacity, and two methods for the same function. *einsum* multiplies by one-hot matrices, as the papers
write it and as TPUs prefer; it needs arrays of G * S * E * C numbers and, in one group, S / F times the work of the
experts. *gather*, the default, copies rows by index and makes no array of that size. `Blocks` is *dropless*, the same
function with room for all: choices are sorted by expert and cut into blocks, each of which belongs to one expert.

Built in notebooks/04_dispatch_and_capacity.ipynb.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from kitlib.configs.arguments import one_of
from kitlib.parallel import mesh

METHODS = ("gather", "einsum")
EXCHANGED = "exchanged"  # what has travelled between devices: rematerialisation saves it rather than send it twice


class Choice(NamedTuple):
    """The K experts that every token selects, best first. The gates of padding are 0."""

    expert: jax.Array  # int32[G, S, K]
    gate: jax.Array  # float32[G, S, K], the probability of that expert, not renormalised


# ---------------------------------------------------------------------------------------------- with a capacity


class Slots(flax.struct.PyTreeNode):
    """The tokens that every expert gets: a buffer of C slots per expert and group."""

    token: jax.Array  # int32[G, E, C], a position in the group; S where the slot is empty
    weight: jax.Array  # float32[G, E, C], the combine weight; 0 where the slot is empty
    num_tokens: int = flax.struct.field(pytree_node=False)  # S
    method: str = flax.struct.field(pytree_node=False, default="gather")  # or "einsum"

    owner = None  # row e of the buffers belongs to expert e

    def __post_init__(self):
        one_of("method of dispatch", self.method, METHODS)

    def dispatch(self, x: jax.Array) -> jax.Array:
        """Tokens float[G, S, D] -> buffers float[E, G * C, D], on a mesh on the devices of the experts. Empty: zero."""
        g, e, c = self.token.shape
        if self.method == "einsum":
            buffers = jnp.einsum("gsec,gsd->gecd", self._one_hot().astype(x.dtype), x)
        else:
            # Index operations are mapped over groups: as one operation on the tokens of all groups, XLA would gather
            # the tokens of the whole batch on every device of a mesh.
            rows = jax.vmap(lambda x, token: x.at[token].get(mode="fill", fill_value=0))
            buffers = rows(x, self.token.reshape(g, e * c)).reshape(g, e, c, x.shape[-1])
        return to_experts(buffers)

    def combine(self, outputs: jax.Array) -> jax.Array:
        """float[E, G * C, D] -> float32[G, S, D], the weighted sum of each token's slots: float32, also of bfloat16."""
        g, e, c = self.token.shape
        outputs = to_tokens(outputs, g)  # [G, E, C, D]
        if self.method == "einsum":
            weights = self._one_hot() * self.weight[:, None]  # [G, S, E, C]
            return jnp.einsum("gsec,gecd->gsd", weights, outputs.astype(jnp.float32))
        # Rows are flat: of three axes, XLA on a CPU takes 30 times as long for the weights' gradient, a sum over D.
        weighted = self.weight.reshape(-1, 1) * outputs.reshape(g * e * c, -1)  # float32[G * E * C, D]
        empty = jnp.zeros((self.num_tokens, weighted.shape[-1]), jnp.float32)
        add = jax.vmap(lambda rows, token: empty.at[token].add(rows, mode="drop"))
        return add(weighted.reshape(g, e * c, -1), self.token.reshape(g, e * c))

    @property
    def combine_weights(self) -> jax.Array:
        """float32[G, S, E], the weights by token; 0 where expert e does not process token s."""
        num_experts = self.token.shape[1]
        experts = jnp.arange(num_experts)[:, None]
        empty = jnp.zeros((self.num_tokens, num_experts), self.weight.dtype)
        return jax.vmap(lambda token, w: empty.at[token, experts].add(w, mode="drop"))(self.token, self.weight)

    def _one_hot(self) -> jax.Array:
        """float32[G, S, E, C]: 1 where token s is in slot c of expert e. An empty slot (token S) is all zeros."""
        return jax.nn.one_hot(self.token, self.num_tokens, axis=1)


# ---------------------------------------------------------------------------------------------- dropless


class Blocks(flax.struct.PyTreeNode):
    """The choices of all groups sorted by expert; those of each expert are cut into blocks, the last one padded.

    Groups only limit how tokens share capacity. Without capacity, all tokens are one group: the blocks are its slots.
    """

    slots: Slots  # [1, R, block]: R blocks instead of E buffers; R = ceil(choices / block) + E, for every routing
    owner: jax.Array  # int32[R], ascending: the expert of each block
    choice: Choice  # [G, S, K], what the blocks are made of; padding chose expert E
    num_experts: int = flax.struct.field(pytree_node=False)  # E

    def dispatch(self, x: jax.Array) -> jax.Array:
        """Tokens float[G, S, D] -> blocks float[R, block, D]; empty slots are zero."""
        return self.slots.dispatch(x.reshape(1, -1, x.shape[-1]))

    def combine(self, outputs: jax.Array) -> jax.Array:
        """float[R, block, D] -> float32[G, S, D], the weighted sum of each token's slots."""
        return self.slots.combine(outputs).reshape(*self.choice.expert.shape[:2], -1)

    @property
    def combine_weights(self) -> jax.Array:
        """float32[G, S, E], the weights by token; 0 where expert e does not process token s."""
        return (jax.nn.one_hot(self.choice.expert, self.num_experts) * self.choice.gate[..., None]).sum(axis=2)


Dispatcher = Slots | Blocks


def block_size(num_choices: int, num_experts: int) -> int:
    """Rows per block: about a quarter of the mean number of choices per expert, a multiple of 8."""
    return max(8, -(-num_choices // (32 * num_experts)) * 8)


def sort_into_blocks(choice: Choice, num_experts: int, block: int | None = None) -> Blocks:
    """Sorts all choices [G, S, K] into blocks: nothing is dropped, no capacity is needed.

    At most one block per expert is partly empty, so R blocks always suffice; unused blocks at the end have no tokens.
    Small blocks waste fewer slots, large blocks load the experts' weights less often; None: `block_size`. Choices of
    expert E, as of padding, get no slot.
    """
    g, s, k = choice.expert.shape
    expert, gate = choice.expert.reshape(-1), choice.gate.reshape(-1)  # choice i belongs to token i // K
    block = block or block_size(expert.size, num_experts)
    order = jnp.argsort(expert, stable=True)
    counts = jnp.zeros(num_experts, jnp.int32).at[expert].add(1, mode="drop")
    blocks_of = -(-counts // block)  # int32[E], the number of blocks of each expert
    num_blocks = -(-expert.size // block) + num_experts  # R
    end = jnp.cumsum(blocks_of)  # one past the last block of each expert

    row = jnp.arange(num_blocks)
    owner = jnp.minimum(jnp.searchsorted(end, row, side="right"), num_experts - 1)
    # [R, block]: the position of each slot among the choices of its expert
    within = (row - (end - blocks_of)[owner])[:, None] * block + jnp.arange(block)[None]
    filled = (within < counts[owner][:, None]) & (row < end[-1])[:, None]
    start = jnp.cumsum(counts) - counts  # where each expert's choices start in `order`
    winner = order[jnp.where(filled, start[owner][:, None] + within, 0)]  # the choice in each slot
    token, weight = jnp.where(filled, winner // k, g * s), jnp.where(filled, gate[winner], 0.0)
    return Blocks(Slots(token[None], weight[None], g * s), owner, choice, num_experts)


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
