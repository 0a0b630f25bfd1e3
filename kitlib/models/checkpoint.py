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
from kitlib.configs.arguments import flag, instance
from kitlib.layers.vit_layers import resize_positions
from kitlib.models import stacking
from kitlib.models.checkpoint_files import as_float32, read_json, read_npz, read_safetensors
from kitlib.models.checkpoint_names import T5_HEAD, T5_TABLE, CheckpointError, kit_config, kit_names, t5_names
from kitlib.models.t5 import T5
from kitlib.models.vit import ViT

# ---------------------------------------------------------------------------------------------- fitting


def fit_positions(table: np.ndarray, config: ViTConfig, path="The checkpoint") -> np.ndarray:
    """A public position table in the layout and resolution of `config`, float32[1, N, D].

    The stored grid is assumed to be square, as all published grids are. If the file has no row for the class token
    (big_vision adds the class token after the positions), a row of zeros is added. Raises CheckpointError for a table
    that is not a square grid of finite numbers, for one of a single patch, which would be the same everywhere in a
    picture of several, and for a row that would have to be dropped: that is another model. path: the file, for errors.
    """
    table = as_float32({"pos_embedding": table}, path)["pos_embedding"]
    if table.ndim != 3 or table.shape[0] != 1 or not table.shape[1] or table.shape[2] != config.width:
        raise CheckpointError(f"{path}: pos_embedding is {table.shape}, expected (1, positions, {config.width}).")
    n = table.shape[1]
    side = int(np.sqrt(n))
    extra = n - side * side
    if extra > 1 or (side == 1 and max(config.grid) > 1):
        raise CheckpointError(f"{path}: pos_embedding has {n} positions: no square grid, with or without class token.")
    table = np.asarray(resize_positions(jnp.asarray(table), (side, side), config.grid))
    if config.pool == "tok" and not extra:
        table = np.pad(table, ((0, 0), (1, 0), (0, 0)))
    if config.pool != "tok" and extra:
        raise CheckpointError(f"{path} has a position for a class token; use pool='tok', not {config.pool!r}.")
    return table


def load_vit(path, config: ViTConfig, *, new_head: bool = False) -> dict:
    """Parameters for `ViT(config)` from a public `.npz`, positions resized to config.image_size.

    `new_head=True` loads everything except the classifier, whatever is in it; the new one is zero (of a BatchEnsemble,
    but for its fast weights, which are 1): the start of a fine-tuning run.
    Raises CheckpointError naming every leaf that is missing, extra or misshapen.
    """
    check_kind(config, ViTConfig)
    flat = kit_names(read_npz(path, most_bytes(config)), path)
    if flag("new_head", new_head):
        flat = {name: leaf for name, leaf in flat.items() if not name.startswith("head/")}
    flat = as_float32(flat, path)
    if "pos_embedding" in flat and config.posemb == "learn":
        flat["pos_embedding"] = fit_positions(flat["pos_embedding"], config, path)
    if new_head:
        expected = flatten_dict(expected_shapes(config.replace(scan=False)), sep="/")
        heads = {name: leaf for name, leaf in expected.items() if name.startswith("head/")}
        flat |= {name: np.full(leaf.shape, float("fast_weight" in name), leaf.dtype) for name, leaf in heads.items()}
    return fitted(flat, config, path)


def load_t5(path, config: T5Config) -> dict:
    """Parameters for `T5(config)` from a `.safetensors` of Hugging Face, or from an `.npz` with the names of t5x.

    Hugging Face's config.json beside the file must agree with `config`. If it says that the logits come from the
    embedding table without being scaled, which `tied` does not mean, an untied head gets a copy of the table.
    Raises CheckpointError naming every leaf that is missing, extra or misshapen, or field that disagrees.
    """
    check_kind(config, T5Config)
    path = pathlib.Path(path)
    arrays = read_safetensors(path) if path.suffix == ".safetensors" else read_npz(path, most_bytes(config))
    flat = as_float32(t5_names(arrays, path), path)
    shared, beside = config.tied, path.with_name("config.json")
    if beside.is_file():
        stored = read_json(beside)
        stated = kit_config(stored, beside)
        if stated != config.replace(dropout=0.0, scan=False, remat="none", dtype="float32"):
            raise CheckpointError(f"{beside} states {stated}, got {config}: hugging_face.load takes what is stated.")
        shared = stored.get("tie_word_embeddings") is not False
    if shared and T5_TABLE in flat:
        head = flat.setdefault(T5_HEAD, flat[T5_TABLE].T)
        if config.tied and np.array_equal(head, flat[T5_TABLE].T):
            del flat[T5_HEAD]  # a copy
    return fitted(flat, config, path)


def check_kind(config, kind: type) -> None:
    """Raises ValueError unless `config` is a ViTConfig or T5Config, as `kind` says."""
    if not isinstance(config, kind):
        raise ValueError(f"Got a {type(config).__name__}, expected a {kind.__name__}; only load_t5 is for T5s.")


def fitted(flat: dict[str, np.ndarray], config: ViTConfig | T5Config, path) -> dict:
    """The parameters from unrolled leaves by the kit's names. Raises CheckpointError, see `compare`."""
    unrolled = flatten_dict(expected_shapes(config.replace(scan=False)), sep="/")
    compare(flat, unrolled, path)
    params = unflatten_dict({name: jnp.asarray(flat[name], leaf.dtype) for name, leaf in unrolled.items()}, sep="/")
    return stacking.stack(params, config)


def most_bytes(config: ViTConfig | T5Config) -> int:
    """More than any public file of this model has: twice its parameters in float32, and half a GiB for positions of a
    higher resolution, a larger head and the state of an optimiser that is left out."""
    leaves = jax.tree.leaves(expected_shapes(config.replace(scan=False)))
    return 8 * sum(leaf.size for leaf in leaves) + 2**29


@functools.cache
def expected_shapes(config: ViTConfig | T5Config) -> dict:
    """The tree of parameters of ViT(config) or T5(config), as shapes and dtypes; nothing is computed."""
    if isinstance(instance("config", config, ViTConfig, T5Config), T5Config):
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
