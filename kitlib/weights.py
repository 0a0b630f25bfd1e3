"""The kit's own weight files: the parameters of a model by name, in 16 bits, in one `.npz`.

    save("palix_s.npz", params)
    params = load("palix_s.npz", expected)        # expected: a tree of the right shapes, such as jax.eval_shape gives

Half of the bytes, and nothing that a model would notice: float16 keeps 11 significant bits, a relative error of 1/2048
at most (below 6e-5 an absolute one of 3e-8). bfloat16, made for gradients, keeps 8. float16 ends at 65,504, and what is
beyond is refused, not made infinite. Files appear atomically and are read without unpickling; what does not fit is
refused by name.
"""

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from kitlib import checkpoint


def save(path: str | Path, params: dict) -> None:
    """Writes all parameters, as float16, under their names "a/b/c". Raises ValueError for one that does not fit."""
    path, arrays = Path(path), {}
    for name, value in flatten_dict(params, sep="/").items():
        value = np.asarray(value, np.float32)
        if not (np.abs(value) <= np.finfo(np.float16).max).all():
            raise ValueError(f"{name} holds {np.abs(value).max()}, which float16 cannot: it ends at 65,504.")
        arrays[name] = value.astype(np.float16)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial.npz")
    try:
        np.savez_compressed(partial, **arrays)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: str | Path, expected: dict) -> dict:
    """The parameters as float32, a tree like `expected`, whose leaves have a shape.

    Raises checkpoint.CheckpointError naming the file, and every leaf that is missing, extra or misshapen.
    """
    flat, shapes = checkpoint.read_npz(path), flatten_dict(expected, sep="/")
    checkpoint.compare(flat, shapes, path)
    return unflatten_dict({name: jnp.asarray(flat[name], jnp.float32) for name in shapes}, sep="/")
