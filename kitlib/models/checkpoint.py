"""Reading public checkpoints by name, safely: ViTs of Google and big_vision (`.npz`), T5s of Hugging Face and t5x.

    params = checkpoint.load_vit("B_16-i21k-300ep.npz", configs.vit("B/16", num_classes=21843))
    params = checkpoint.load_t5("model.safetensors", configs.t5("1.1-base"))

A public file is a flat list of named arrays. Loading takes four pure steps on that list: read; rename to the kit's
names; resize positions; compare with the names and shapes of the configuration. (Blocks are stacked last, if the model
is scanned.) Nothing is ever unpickled. A file that does not fit is refused, with the names of the leaves that are
missing, extra or misshapen.

Built in notebooks/01_vit_from_pixels_to_logits.ipynb, T5 in notebooks/08_t5_and_upcycling.ipynb.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from kitlib.configs import T5Config, ViTConfig
from kitlib.layers.vit_layers import resize_positions
from kitlib.models import stacking
from kitlib.models.checkpoint_files import as_float32, read_npz, read_safetensors
from kitlib.models.checkpoint_names import CheckpointError, kit_names, t5_names, unstack_blocks
from kitlib.models.t5 import T5
from kitlib.models.vit import ViT

# ---------------------------------------------------------------------------------------------- fitting


def fit_positions(table: np.ndarray, config: ViTConfig) -> np.ndarray:
    """A public position table in the layout and resolution of `config`, float32[1, N, D].

    The stored grid is assumed to be square, as all published grids are. If the file has no row for the class token
    (big_vision adds the class token after the positions), a row of zeros is added. Raises CheckpointError for a table
    that is not a square grid, and for a row that would have to be dropped: that is another model.
    """
    if table.ndim != 3 or table.shape[0] != 1 or not table.shape[1] or table.shape[2] != config.width:
        raise CheckpointError(f"pos_embedding is {table.shape}, expected (1, positions, {config.width}).")
    n = table.shape[1]
    side, side_without_slot = int(np.sqrt(n)), int(np.sqrt(n - 1))
    if side * side == n:
        extra, side = 0, side
    elif side_without_slot**2 == n - 1:
        extra, side = 1, side_without_slot
    else:
        raise CheckpointError(f"pos_embedding has {n} positions: no square grid, with or without a class token.")
    table = np.asarray(resize_positions(jnp.asarray(table), (side, side), config.grid))
    if config.pool == "tok" and not extra:
        table = np.pad(table, ((0, 0), (1, 0), (0, 0)))
    if config.pool != "tok" and extra:
        raise CheckpointError(
            f"The checkpoint has a position for a class token, but the configuration pools by {config.pool!r}; "
            "use pool='tok'."
        )
    return table


def load_vit(path, config: ViTConfig, *, new_head: bool = False) -> dict:
    """Parameters for `ViT(config)` from a public `.npz`, positions resized to config.image_size.

    `new_head=True` loads everything except the classifier, which is set to zero: the start of a fine-tuning run.
    Raises CheckpointError naming every leaf that is missing, extra or misshapen.
    """
    flat = as_float32(kit_names(read_npz(path, most_bytes(config))), path)
    if any(name.startswith("Transformer/encoderblock/") for name in flat):
        flat = unstack_blocks(flat)
    if "pos_embedding" in flat and config.posemb == "learn":
        flat["pos_embedding"] = fit_positions(flat["pos_embedding"], config)
    unrolled = flatten_dict(expected_shapes(config.replace(scan=False)), sep="/")
    if new_head:
        flat = {name: leaf for name, leaf in flat.items() if not name.startswith("head/")}
        flat |= {name: np.zeros(s.shape, s.dtype) for name, s in unrolled.items() if name.startswith("head/")}
    compare(flat, unrolled, path)
    params = unflatten_dict({name: jnp.asarray(flat[name], unrolled[name].dtype) for name in unrolled}, sep="/")
    return stacking.stack(params, config)


def load_t5(path, config: T5Config) -> dict:
    """Parameters for `T5(config)` from a `.safetensors` of Hugging Face, or from an `.npz` with the names of t5x.

    Raises CheckpointError naming every leaf that is missing, extra or misshapen.
    """
    if pathlib.Path(path).suffix == ".safetensors":
        arrays = read_safetensors(path)
    else:
        arrays = read_npz(path, most_bytes(config))
    flat, unrolled = (
        as_float32(t5_names(arrays), path),
        flatten_dict(expected_shapes(config.replace(scan=False)), sep="/"),
    )
    compare(flat, unrolled, path)
    params = unflatten_dict({name: jnp.asarray(flat[name], unrolled[name].dtype) for name in unrolled}, sep="/")
    return stacking.stack(params, config)


def most_bytes(config: ViTConfig | T5Config) -> int:
    """More than any public file of this model has: twice its parameters in float32, and half a GiB for positions of a
    higher resolution, a larger head and the state of an optimiser that is left out."""
    leaves = jax.tree.leaves(expected_shapes(config.replace(scan=False)))
    return 8 * sum(leaf.size for leaf in leaves) + 2**29


@functools.cache
def expected_shapes(config: ViTConfig | T5Config) -> dict:
    """The tree of parameters of ViT(config) or T5(config), as shapes and dtypes; nothing is computed."""
    if isinstance(config, T5Config):
        tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
        return jax.eval_shape(T5(config).init, jax.random.key(0), tokens, tokens)["params"]
    images = jax.ShapeDtypeStruct((1, *config.image_size, config.channels), jnp.float32)
    return jax.eval_shape(ViT(config).init, jax.random.key(0), images)["params"]


def compare(flat: dict, expected: dict, path) -> None:
    """Raises CheckpointError unless `flat` has exactly the names and shapes of `expected` (both flat).

    path: the file, or what the leaves belong to, for the message.
    """
    missing = sorted(set(expected) - set(flat))
    extra = sorted(set(flat) - set(expected))
    misshapen = [
        f"{name} is {tuple(flat[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected
        if name in flat and tuple(flat[name].shape) != tuple(expected[name].shape)
    ]
    problems = [
        f"{kind}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
        for kind, names in (("missing", missing), ("extra", extra), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise CheckpointError(f"{path} does not fit the configuration; {'; '.join(problems)}.")
