"""Dispatch, experts and combine of one layer; on a mesh, with tokens travelling to the devices of their experts.

    y = dispatch_and_combine(config, mlps, x, dispatcher)   # tokens float[G, S, D] -> float32[G, S, D]

With experts divided among devices (expert parallelism), a token has to reach the device of its expert and come back.
That is two all-to-alls forward, and two backward for the gradients: each moves every slot once, E * G * C * D numbers
over all devices, and nothing else has to move. Two forms of the same program:

*constraints*: `dispatch.to_experts` says how buffers are divided before and after, and XLA inserts the all-to-alls.
(Dropless, XLA sorts the choices of all devices together.) *shard_map*: below, each line is what one device does with
its own part of the arrays, and the all-to-alls are written.

Built in notebooks/16_from_laptop_to_pod.ipynb.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from kitlib.configs import MoEConfig
from kitlib.moe.dispatch import EXCHANGED, Blocks, Choice, Dispatcher, block_size, sort_into_blocks
from kitlib.moe.experts import Mlps
from kitlib.moe.routing import assign
from kitlib.parallel import mesh


def dispatch_and_combine(c: MoEConfig, mlps: Mlps, x: jax.Array, dispatcher: Dispatcher) -> jax.Array:
    """Sends tokens x float[G, S, D] to their experts and sums the outputs, weighted: float32[G, S, D].

    Dispatch and combine move numbers of the dtype `c.transport` between devices.
    """
    if c.expert_parallel == "shard_map" and mesh.num_shards() > 1:
        return _shard_map(c, mlps, x, dispatcher)
    buffers = dispatcher.dispatch(x.astype(c.transport)).astype(x.dtype)
    return dispatcher.combine(mlps(buffers, dispatcher.owner).astype(c.transport))


def _shard_map(c: MoEConfig, mlps: Mlps, x: jax.Array, dispatcher: Dispatcher) -> jax.Array:
    here = mesh.current()
    axes = tuple(axis for axis in mesh.free_axes(here) if axis in mesh.BATCH_AXES)
    if c.num_experts % here.shape["expert"]:
        devices = f"{here.shape['expert']} devices along the axis 'expert'"
        raise ValueError(f"{c.num_experts} experts do not divide among the {devices}: change one of the numbers.")

    def on_one_device(params, key, x, table):
        # G' groups and E' experts are here, G' * n and E' * n in this row of n devices along "expert".
        if key is not None:  # other rows of the mesh have other tokens, which need other random numbers
            key = jax.random.fold_in(key, jax.lax.axis_index(axes))
        own = Mlps(mlps.expert, params, key)
        if isinstance(table, Choice):
            return _choices_exchanged(c, own, x, table)
        buffers = table.dispatch(x.astype(c.transport))  # [E, G' * C, D], the slots of all experts for the tokens here
        buffers = _to_experts(buffers).astype(x.dtype)  # [E', n * G' * C, D], of all tokens for the experts here
        return table.combine(_to_tokens(own(buffers).astype(c.transport)))  # float32[G', S, D]

    table = dispatcher.choice if isinstance(dispatcher, Blocks) else dispatcher
    groups = P(axes)  # the first axis of tokens and of all leaves of the table
    specs = {"in_specs": (P("expert"), P(), groups, groups), "out_specs": groups}
    # JAX 0.10's searchsorted, which sorting into blocks needs, fails where it is checked what varies among devices.
    check = not isinstance(table, Choice)
    run = jax.shard_map(on_one_device, mesh=here, **specs, axis_names=set(axes), check_vma=check)
    return run(mlps.params, mlps.key, x, table)


def _choices_exchanged(c: MoEConfig, mlps: Mlps, x: jax.Array, choice: Choice) -> jax.Array:
    """Dropless, on one device: its tokens x float[G', S, D], their choices [G', S, K] -> float32[G', S, D].

    How many choices go to which device is known only when the program runs, but arrays have fixed shapes. So there is
    room for all T = G' * S * K choices on every device, and none can be lost: n times the numbers that gather sends
    with a capacity factor of 1. Tokens are sorted twice: by device before they leave, by expert where they arrive.
    """
    g, s, d = x.shape
    k = choice.expert.shape[2]
    n, here = jax.lax.axis_size("expert"), c.num_experts // jax.lax.axis_size("expert")  # E' experts on every device
    expert, gate = (a.reshape(1, -1, 1) for a in choice)  # [1, T, 1]: every choice for itself
    leaving = assign(Choice(expert // here, gate), n, expert.size)  # [1, n, T], one "expert" per device
    number = (expert[0, :, 0] % here).at[leaving.token[0]].get(mode="fill", fill_value=here)  # int32[n, T]; empty: E'
    leaving = leaving.replace(token=leaving.token // k, num_tokens=g * s)  # of tokens, not of choices; empty: G' * S
    sent = leaving.dispatch(x.reshape(1, -1, d).astype(c.transport))  # [n, T, D]
    rows, number = _to_experts(sent), _to_experts(number)  # [1, n * T, D] and int32[1, n * T]

    # The mean number of choices that arrive is T: blocks as if there were no more.
    arrived = Choice(number[..., None], jnp.ones((*number.shape, 1)))
    blocks = sort_into_blocks(arrived, here, block_size(expert.size, here))
    outputs = mlps(blocks.dispatch(rows).astype(x.dtype), blocks.owner)
    back = blocks.combine(outputs).astype(c.transport)  # [1, n * T, D], not yet weighted
    return leaving.combine(_to_tokens(back)).reshape(g, s, d)


def _to_experts(buffers: jax.Array) -> jax.Array:
    """[E, rows, ...] of the tokens here, in n equal parts, -> [E', n * rows, ...] of all tokens of n devices."""
    return checkpoint_name(jax.lax.all_to_all(buffers, "expert", 0, 1, tiled=True), EXCHANGED)


def _to_tokens(outputs: jax.Array) -> jax.Array:
    """The way back: [E', n * rows, ...] -> [E, rows, ...]."""
    return checkpoint_name(jax.lax.all_to_all(outputs, "expert", 1, 0, tiled=True), EXCHANGED)
