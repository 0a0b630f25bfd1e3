"""Dispatch, experts and combine of one layer; on a mesh, with tokens travelling to the devices of their experts.

    y = dispatch_and_combine(config, mlps, x, plan)         # tokens float[G, S, D] -> float32[G, S, D]

With experts divided among devices (expert parallelism), a token has to reach the device of its expert and come back.
That is two all-to-alls forward, and two backward for the gradients: each moves every slot once, E * G * C * D numbers
over all devices, and nothing else has to move. Two forms of the same program:

*constraints*: `dispatch.to_experts` says how buffers are divided before and after, and XLA inserts the all-to-alls.
*shard_map*: below, each line is what one device does with its own part of the arrays, and the all-to-alls are written.

Built in notebooks/16_from_laptop_to_pod.ipynb.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from kitlib.configs import MoEConfig
from kitlib.moe.dispatch import EXCHANGED
from kitlib.moe.experts import Mlps, apply_experts
from kitlib.moe.plan import Plan
from kitlib.parallel import mesh


def dispatch_and_combine(c: MoEConfig, mlps: Mlps, x: jax.Array, plan: Plan) -> jax.Array:
    """Sends tokens x float[G, S, D] to their experts and sums the outputs, weighted: float32[G, S, D].

    Dispatch and combine move numbers of the dtype `c.transport` between devices.
    """
    by_hand = c.expert_parallel == "shard_map" and plan.owner is None and mesh.num_shards() > 1
    return (_shard_map if by_hand else _constraints)(c, mlps, x, plan)


def on_buffers(mlps: Mlps, buffers: jax.Array, owner: jax.Array | None = None) -> jax.Array:
    """Every expert on its own rows, in the shape of `Plan.dispatch`, which stays; owner as for `apply_experts`."""
    keys = None if mlps.key is None else jax.random.split(mlps.key, len(buffers))
    return apply_experts(mlps.expert, mlps.params, buffers, owner=owner, keys=keys)


def _constraints(c: MoEConfig, mlps: Mlps, x: jax.Array, plan: Plan) -> jax.Array:
    transport = jnp.dtype(c.transport)
    buffers = plan.dispatch(x.astype(transport)).astype(x.dtype)  # float[E, G * C, D], or blocks float[R, C, D]
    outputs = on_buffers(mlps, buffers, plan.owner).astype(transport)  # the same shape
    return plan.combine(outputs)  # float32[G, S, D]


def _shard_map(c: MoEConfig, mlps: Mlps, x: jax.Array, plan: Plan) -> jax.Array:
    axes = tuple(axis for axis in mesh.free_axes(mesh.current()) if axis in mesh.BATCH_AXES)
    transport = jnp.dtype(c.transport)

    def exchange(x, split_axis, concat_axis):
        x = jax.lax.all_to_all(x, "expert", split_axis, concat_axis, tiled=True)
        return checkpoint_name(x, EXCHANGED)

    def on_one_device(params, key, x, plan):
        # G' groups and E' experts are here, G' * n and E' * n in this row of n devices along "expert".
        buffers = plan.dispatch(x.astype(transport))  # [E, G' * C, D], the slots of all experts for the tokens here
        buffers = exchange(buffers, split_axis=0, concat_axis=1)  # [E', n * G' * C, D], of all tokens for experts here
        if key is not None:  # other rows of the mesh have other tokens, which need other random numbers
            key = jax.random.fold_in(key, jax.lax.axis_index(axes))
        outputs = on_buffers(Mlps(mlps.expert, params, key), buffers.astype(x.dtype)).astype(transport)
        outputs = exchange(outputs, split_axis=1, concat_axis=0)  # [E, G' * C, D]
        return plan.combine(outputs)  # float32[G', S, D]

    groups = P(axes)  # the first axis of tokens and of all leaves of the plan
    inputs = (P("expert"), P(), groups, groups)
    here = mesh.current()
    run = jax.shard_map(on_one_device, mesh=here, in_specs=inputs, out_specs=groups, axis_names=set(axes))
    return run(mlps.params, mlps.key, x, plan)
