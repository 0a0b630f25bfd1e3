"""Reading rows of an embedding table that is divided among devices, without gathering the table.

    x = read_rows(table, tokens)            # float[V, D], int[B, N] -> float[B, N, D]

Along `fsdp`, the table is divided by its columns, and a device has the tokens of its own part of the batch. XLA may
gather the table to read a few rows of it: 250,112 x 4,096 numbers for a PaLI-X of 55B. Instead, the devices of a group
exchange their tokens, which are small; each reads its columns for all of them; one all-to-all brings the columns of a
token together. The gradient goes the same way back, and is then complete along `fsdp`.

Built in notebooks/16_from_laptop_to_pod.ipynb.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from kitlib.parallel import mesh


def read_rows(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """table float[V, D], tokens int[B, N] -> float[B, N, D]; on a mesh, tokens and result are divided along B."""
    here = mesh.current()
    sizes = mesh.free_axes(here)
    if sizes.get("fsdp", 1) == 1:
        return mesh.constrain(jnp.take(table, tokens, axis=0), "tokens")
    axes = tuple(axis for axis in mesh.BATCH_AXES if axis in sizes)

    def on_one_device(columns, tokens):  # float[V, D / n], int[B', N]; n devices along "fsdp"
        tokens = jax.lax.all_gather(tokens, "fsdp", axis=0, tiled=True)  # [n * B', N], of the whole group
        rows = jnp.take(columns, tokens, axis=0)  # [n * B', N, D / n]
        return jax.lax.all_to_all(rows, "fsdp", split_axis=0, concat_axis=2, tiled=True)  # [B', N, D]

    read = jax.shard_map(
        on_one_device, mesh=here, in_specs=(P(None, "fsdp"), P(axes)), out_specs=P(axes), axis_names=set(axes)
    )
    return read(table, tokens)
