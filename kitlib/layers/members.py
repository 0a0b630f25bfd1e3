"""The layout of an ensemble in one model: one copy of the batch per member, on the batch axis.

    x = tile(x, 2)                # [B, ...] -> [M * B, ...]
    x = split(x, 2)               # [M * B, ...] -> [M, B, ...]
    x = merge(x)                  # and back

On one device, members are outermost: a b c -> a b c a b c. On a mesh, each device holds the members of its own part of
the batch, so that copying a token moves nothing between devices: with two devices, a b | c d -> a b a b | c d c d.

Built in notebooks/10_e3.ipynb.
"""

import jax
import jax.numpy as jnp

from kitlib.parallel import mesh


def tile(x: jax.Array, num_members: int) -> jax.Array:
    """One copy of the batch per member: [B, ...] -> [M * B, ...]."""
    return merge(jnp.broadcast_to(x[None], (num_members, *x.shape)))


def split(x: jax.Array, num_members: int) -> jax.Array:
    """Gives members an axis of their own: [M * B, ...] -> [M, B, ...]. Raises ValueError for parts that are unequal."""
    check_members(x, num_members)
    parts = mesh.num_shards()
    x = x.reshape(parts, num_members, -1, *x.shape[1:]).swapaxes(0, 1)  # [M, parts, B / parts, ...]
    return x.reshape(num_members, -1, *x.shape[3:])


def merge(x: jax.Array) -> jax.Array:
    """The inverse of `split`: [M, B, ...] -> [M * B, ...]."""
    m, b = x.shape[:2]
    parts = mesh.num_shards()
    if b % parts:
        raise ValueError(f"A batch of {b} does not divide among the {parts} parts of the mesh.")
    x = x.reshape(m, parts, b // parts, *x.shape[2:]).swapaxes(0, 1)  # [parts, M, B / parts, ...]
    return x.reshape(m * b, *x.shape[3:])


def check_members(x: jax.Array, num_members: int) -> None:
    """Raises ValueError unless the first axis of x holds M members of equally many examples, on each part of a mesh."""
    parts = mesh.num_shards()
    if not x.shape or x.shape[0] % (parts * num_members):
        where = f" on each of {parts} parts of the mesh" if parts > 1 else ""
        raise ValueError(
            f"The first axis of {x.shape} does not hold {num_members} members of equally many examples{where}."
        )
