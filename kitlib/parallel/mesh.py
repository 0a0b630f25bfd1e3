"""A mesh of devices with four named axes, and `constrain`, which divides activations along them.

    mesh = make(data=2, expert=4)                   # 8 devices
    with jax.set_mesh(mesh):
        state, metrics = step(state, batch)         # one program for all devices; XLA inserts the communication

    axis      what is divided along it                                        what moves
    data      the batch                                                       gradients: one all-reduce
    fsdp      the batch, and every parameter (ZeRO-3)                         parameters: gathered block by block
    tensor    heads, hidden units, the vocabulary                             activations: all-reduces in every block
    expert    the batch, and the experts                                      tokens: two all-to-alls per layer

Every mesh has all four axes; an axis of size 1 divides nothing. Eight devices as data=2, expert=4, drawn as matrix:

                  expert 0   1   2   3
        data 0           0   1   2   3      Each device has an eighth of the batch. Column e has the weights of the
        data 1           4   5   6   7      experts of slice e, so tokens travel along rows and gradients along columns.

The types of the axes are Auto: XLA decides how every intermediate result is divided, from the parameters' specs
(`rules`) and a few constraints. (`jax.make_mesh` defaults to Explicit, where every operation has to say it.)

`read_rows` reads a table that is divided, without gathering it.

Built in notebooks/16_from_laptop_to_pod.ipynb.
"""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kitlib.configs.arguments import one_of, whole

AXES = ("data", "fsdp", "tensor", "expert")
BATCH_AXES = ("data", "fsdp", "expert")  # every device along these has examples of its own

# How activations are divided. All other axes of an array, and further ones on the right, are whole on each device.
KINDS = {
    "tokens": P(BATCH_AXES),  # [B, ...], the edges of blocks
    "logits": P(BATCH_AXES, None, "tensor"),  # [B, M, V]: each device has a slice of the vocabulary
    "groups": P(BATCH_AXES),  # [G, E, C, D], buffers where the tokens are
    "experts": P("expert", ("data", "fsdp")),  # [E, G, C, D], buffers where the experts are
}

# ---------------------------------------------------------------------------------------------- making a mesh


def make(*, devices=None, **axes: int) -> Mesh:
    """A mesh over all devices, or over these: make(data=2, expert=4); axes not named have size 1.

    Raises ValueError for an unknown axis, and unless the product of the sizes is the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    return jax.make_mesh(sizes_of(axes, len(devices)), AXES, (AxisType.Auto,) * len(AXES), devices=devices)


def sizes_of(axes: dict[str, int], num_devices: int) -> tuple[int, ...]:
    """The sizes of all four axes, in their order; raises ValueError as `make` does."""
    for name, size in axes.items():
        one_of("mesh axis", name, AXES)
        whole(f"Mesh axis {name}", size, 1)
    wanted = math.prod(axes.values())
    if wanted != num_devices:
        product = " x ".join(f"{name}={size}" for name, size in axes.items()) or "data=1"
        one = num_devices == 1
        raise ValueError(
            f"The mesh {product} has {wanted} devices, here {'is' if one else 'are'} {num_devices}: change an axis, so "
            "that the product of all axes is the number of devices."
            + " Or install JAX for your accelerators, or simulate devices (kit train: --devices)."
            * one
        )
    return tuple(axes.get(name, 1) for name in AXES)


def parse(text: str) -> dict[str, int]:
    """{"data": 2, "expert": 4} from "data=2,expert=4"; "" is {}. Raises ValueError for anything else."""
    sizes = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        name, _, size = part.partition("=")
        if name not in AXES:
            wrong = f"an axis is one of {', '.join(AXES)}"
        elif name in sizes:
            wrong = f"{name} is there twice"
        elif not size.isdecimal() or int(size) < 1:
            wrong = f"the size of {name} must be a whole number of at least 1"
        else:
            sizes[name] = int(size)
            continue
        raise ValueError(f"A mesh is written like 'data=2,expert=4'; got {text!r}: {wrong}.")
    return sizes


# ---------------------------------------------------------------------------------------------- inside a program


def current():
    """The mesh of the surrounding `jax.set_mesh(mesh)` or, deprecated in JAX, `with mesh:`; an empty one if none."""
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        return mesh
    with warnings.catch_warnings():  # only this deprecated name knows of `with mesh:`
        warnings.simplefilter("ignore", DeprecationWarning)
        from jax.interpreters import pxla

        resources = getattr(pxla, "thread_resources", None)
    return mesh if resources is None else resources.env.physical_mesh


def free_axes(mesh) -> dict[str, int]:
    """{axis: size} of the axes along which XLA divides: all of the mesh but those of a surrounding `jax.shard_map`."""
    manual = getattr(mesh, "manual_axes", ())
    return {name: size for name, size in mesh.shape.items() if name not in manual}


def num_shards() -> int:
    """The number of parts into which the batch is divided here; 1 without a mesh."""
    return parts_of(free_axes(current()))


def parts_of(sizes) -> int:
    """The number of parts into which a mesh with axes of these sizes, {name: size}, divides the batch."""
    return math.prod(sizes.get(axis, 1) for axis in BATCH_AXES)


def constrain(x: jax.Array, kind: str) -> jax.Array:
    """x, divided among devices as `KINDS[kind]` says. The same array; without a mesh, this does nothing.

    XLA derives most divisions from those of the parameters, but not always well: without a constraint between blocks, a
    ViT-22B with fsdp and tensor axes all-reduces the activations of the whole batch. Raises ValueError for an axis that
    does not divide: XLA would pad it, or copy the whole array to every device.
    """
    sizes = free_axes(current())
    if all(sizes.get(axis, 1) == 1 for axis in AXES):
        return x
    spec = [_free(axes, sizes) for axes in KINDS[kind]]
    for i, axes in enumerate(spec):
        parts = math.prod(sizes[axis] for axis in axes)
        if x.shape[i] % parts:
            raise ValueError(
                f"Axis {i} of {kind} {x.shape} has {x.shape[i]} rows, which do not divide among {parts} devices "
                f"({', '.join(f'{axis}={sizes[axis]}' for axis in axes)}): change the batch size or the mesh."
            )
    return jax.lax.with_sharding_constraint(x, P(*(axes or None for axes in spec)))


def _free(axes, sizes: dict[str, int]) -> tuple[str, ...]:
    """The names of an entry of a spec that are axes of the mesh."""
    names = () if axes is None else (axes,) if isinstance(axes, str) else axes
    return tuple(name for name in names if name in sizes)


# ---------------------------------------------------------------------------------------------- batches


def global_batch(mesh: Mesh, batch):
    """One array over all devices per leaf, from the rows that this process has read.

    batch: a tree of arrays [B / P, ...] on each of P processes; the result has [B, ...]. Every process passes its own
    rows. Raises ValueError for a batch that does not divide among the devices.
    """
    sharding, shards = NamedSharding(mesh, P(BATCH_AXES)), parts_of(mesh.shape)

    def put(x):
        x = np.asarray(x)
        rows = x.shape[0] * jax.process_count()
        if rows % shards:
            raise ValueError(
                f"A batch of {rows} does not divide among the {shards} parts of the mesh "
                f"({', '.join(f'{axis}={mesh.shape[axis]}' for axis in BATCH_AXES)}); use a multiple of {shards}."
            )
        return jax.make_array_from_process_local_data(sharding, x, (rows, *x.shape[1:]))

    return jax.tree.map(put, batch)


# ---------------------------------------------------------------------------------------------- a divided table


def read_rows(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """table float[V, D], tokens int[B, N] -> float[B, N, D]; on a mesh, tokens and result are divided along B.

    Along `fsdp`, the table is divided by its columns, and a device has the tokens of its own part of the batch. XLA may
    gather the table to read a few rows: 250,112 x 4,096 numbers for a PaLI-X of 55B. Instead, the devices of a group
    exchange their tokens, which are small; each reads its columns for all of them; one all-to-all brings the columns of
    a token together. The gradient goes the same way back, and is then complete along `fsdp`.
    """
    here = current()
    sizes = free_axes(here)
    if sizes.get("fsdp", 1) == 1:
        return constrain(jnp.take(table, tokens, axis=0), "tokens")
    axes = tuple(axis for axis in BATCH_AXES if axis in sizes)

    def on_one_device(columns, tokens):  # float[V, D / n], int[B', N]; n devices along "fsdp"
        tokens = jax.lax.all_gather(tokens, "fsdp", axis=0, tiled=True)  # [n * B', N], of the whole group
        rows = jnp.take(columns, tokens, axis=0)  # [n * B', N, D / n]
        return jax.lax.all_to_all(rows, "fsdp", split_axis=0, concat_axis=2, tiled=True)  # [B', N, D]

    read = jax.shard_map(
        on_one_device, mesh=here, in_specs=(P(None, "fsdp"), P(axes)), out_specs=P(axes), axis_names=set(axes)
    )
    return read(table, tokens)
