"""The kit's own weight files: the parameters of a model by name, in 16 bits, in one `.npz`.

    save("palix_s.npz", params)
    params = load("palix_s.npz", expected)        # expected: a tree of the right shapes, e.g. from jax.eval_shape

This halves the bytes, with errors too small to matter: float16 keeps 11 significant bits, a relative error of at most
1/2048 (below 6e-5, an absolute error of at most 3e-8). bfloat16, which is made for gradients, keeps 8. The largest
float16 is 65,504; larger numbers are refused instead of becoming infinite. Files are written atomically and read
without unpickling; leaves that do not fit are refused by name.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from kitlib.data.files import write_npz
from kitlib.models import checkpoint
from kitlib.models.checkpoint_files import as_float32, read_npz


def save(path: str | Path, params: dict) -> None:
    """Writes all parameters as float16, by their names "a/b/c". Raises ValueError for one that float16 cannot hold."""
    arrays = {}
    for name, value in flatten_dict(params, sep="/").items():
        value = np.asarray(value, np.float32)
        if not (np.abs(value) <= np.finfo(np.float16).max).all():
            raise ValueError(f"{name} holds {np.abs(value).max()}, which float16 cannot: it ends at 65,504.")
        arrays[name] = value.astype(np.float16)
    write_npz(path, arrays, compress=True)


def load(path: str | Path, expected: dict) -> dict:
    """The parameters as float32, in a tree like `expected`, whose leaves have shapes.

    Raises checkpoint.CheckpointError naming the file and every leaf that is missing, extra or misshapen.
    """
    shapes = flatten_dict(expected, sep="/")
    most = 4 * sum(int(np.prod(leaf.shape)) for leaf in shapes.values()) + 2**20  # float32 would be twice the file
    flat = as_float32(read_npz(path, most), path)
    checkpoint.compare(flat, shapes, path)
    return unflatten_dict({name: jnp.asarray(flat[name], jnp.float32) for name in shapes}, sep="/")
