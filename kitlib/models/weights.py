"""The kit's own weight files: the parameters of a model by name, in 16 bits, in one `.safetensors`.

    save("palix_s.safetensors", params)
    params = load("palix_s.safetensors", expected)   # expected: a tree of the right shapes, e.g. from jax.eval_shape

This halves the bytes, with errors too small to matter: float16 keeps 11 significant bits, a relative error of at most
1/2048 (below 6e-5, an absolute error of at most 3e-8). bfloat16, which is made for gradients, keeps 8. The largest
float16 is 65,504; larger numbers are refused instead of becoming infinite. Files are written atomically; leaves that do
not fit are refused by name. The format has no checksum of its own, so the header carries one.
"""

import hashlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from kitlib.data.files import write_bytes
from kitlib.models import checkpoint
from kitlib.models.checkpoint_files import CheckpointError, as_float32, read_safetensors


def save(path: str | Path, params: dict) -> None:
    """Writes all parameters as float16, by their names "a/b/c". Raises ValueError for one that float16 cannot hold."""
    arrays = {}
    for name, value in flatten_dict(params, sep="/").items():
        value = np.asarray(value, np.float32)
        if not (np.abs(value) <= np.finfo(np.float16).max).all():
            raise ValueError(f"{name} holds {np.abs(value).max()}, which float16 cannot: it ends at 65,504.")
        arrays[name] = value.astype(np.float16)
    write_bytes(path, safetensors.numpy.save(arrays, metadata={"sha256": _digest(arrays)}))


def load(path: str | Path, expected: dict) -> dict:
    """The parameters as float32, in a tree like `expected`, whose leaves have shapes.

    Raises checkpoint.CheckpointError naming the file and every leaf that is missing, extra or misshapen, and for a file
    whose numbers are not those that were saved.
    """
    shapes = flatten_dict(expected, sep="/")
    arrays = read_safetensors(path)
    with safetensors.safe_open(path, framework="numpy") as opened:
        saved = (opened.metadata() or {}).get("sha256")
    if saved != _digest(arrays):
        raise CheckpointError(
            f"{path} does not hold the numbers that were saved (its checksum is another): download or make it again."
        )
    flat = as_float32(arrays, path)
    checkpoint.compare(flat, shapes, path)
    return unflatten_dict({name: jnp.asarray(flat[name], jnp.float32) for name in shapes}, sep="/")


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """The sha256 of all names, types, shapes and numbers."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
        found.update(np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()
