"""Reading public checkpoints by name, safely: ViTs of Google and big_vision (`.npz`), T5s of Hugging Face and t5x.

    params = checkpoint.load_vit("B_16-i21k-300ep.npz", configs.vit("B/16", num_classes=21843))
    params = checkpoint.load_t5("model.safetensors", configs.t5("1.1-base"))

A public file is a flat list of named arrays. Loading is four pure steps on that list: read, rename to the kit's names,
reshape to the kit's layout (positions resized, blocks stacked for `scan`), compare with what the configuration expects.
Nothing is ever unpickled. A file that does not fit is refused with the names that are missing, extra or misshapen.

Built in notebooks/01_vit_from_pixels_to_logits.ipynb, T5 in notebooks/08_t5_and_upcycling.ipynb.
"""

import functools
import pathlib
import re
import zipfile
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from kitlib.configs import T5Config, ViTConfig
from kitlib.layers import resize_positions
from kitlib.t5 import T5
from kitlib.vit import ViT


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit; the message names the file and what is wrong with it."""


# ---------------------------------------------------------------------------------------------- reading


def read_npz(path) -> dict[str, np.ndarray]:
    """All arrays of an `.npz` by name. Raises CheckpointError for a missing, truncated or pickled file."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint file {path}; check the path.")
    try:
        with path.open("rb") as handle:
            file = np.load(handle, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise CheckpointError(f"{path} holds one bare array, not the named arrays of an .npz checkpoint.")
            arrays = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or not an .npz file ({error}); download it again.") from error
    except CheckpointError:
        raise
    except ValueError as error:  # numpy's word for "this would need unpickling", and for garbage
        raise CheckpointError(
            f"{path} is refused: it is a pickle or holds a pickled object array, which could run code when read, or it "
            f"is no .npz at all ({error}). Save plain arrays only."
        ) from error
    if others := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise CheckpointError(f"{path} is refused: it holds more than arrays ({others[0]}), as PyTorch's pickles do.")
    return arrays


def read_safetensors(path) -> dict[str, np.ndarray]:
    """All arrays of a `.safetensors` by name. Raises CheckpointError for a missing or truncated file, or another kind.

    The format holds plain arrays only: there is nothing in it that could be run.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint file {path}; check the path.")
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is truncated or not a .safetensors file ({error}).") from error


# ---------------------------------------------------------------------------------------------- names


def kit_names(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames the leaves of any of the public dialects to the kit's names (those of big_vision).

    - Google's ViT files (vision_transformer) come from before Linen, when one counter numbered all submodules of a
      block: LayerNorm_0, MultiHeadDotProductAttention_1, LayerNorm_2, MlpBlock_3; and keep the positions under
      Transformer/posembed_input.
    - big_vision's files carry a `params/` (two-tower models: `params/img/`) prefix.
    - big_vision before 2022 keeps the positions under Transformer; some models have the MAP head's parts at the top.
    - scanned big_vision models stack the blocks under Transformer/encoderblock, with a leading L axis.
    - V-MoE's trees (google-research/vmoe) say Encoder, SelfAttention and Mlp; the experts' leaves, Moe/Mlp/... and
      Moe/Router/dense/kernel, are called as the kit calls them.
    """
    renamed = {}
    for name, leaf in flat.items():
        new = re.sub(r"^(opt/target/|target/)?(params/)?(img/)?", "", name)
        new = re.sub(r"^Encoder/", "Transformer/", new)
        new = re.sub(r"(/encoderblock_\d+)/SelfAttention/", r"\1/MultiHeadDotProductAttention_0/", new)
        new = re.sub(r"(/encoderblock_\d+)/Mlp/", r"\1/MlpBlock_0/", new)
        new = re.sub(r"^Transformer/(posembed_input/)?pos_embedding$", "pos_embedding", new)
        new = re.sub(r"^(probe$|(MultiHeadDotProductAttention|LayerNorm|MlpBlock)_0/)", r"MAPHead_0/\1", new)
        new = new.replace("/MultiHeadDotProductAttention_1/", "/MultiHeadDotProductAttention_0/")
        new = new.replace("/LayerNorm_2/", "/LayerNorm_1/").replace("/MlpBlock_3/", "/MlpBlock_0/")
        if new in renamed:
            raise CheckpointError(f"Two leaves of the checkpoint are called {new!r} once renamed; one is {name!r}.")
        renamed[new] = leaf
    return renamed


def stack_blocks(flat: dict[str, np.ndarray], depth: int) -> dict[str, np.ndarray]:
    """Transformer/encoderblock_0/x ... encoderblock_{L-1}/x -> Transformer/encoderblock/x with a leading L axis."""
    first = "Transformer/encoderblock_0/"
    stacked = {name: leaf for name, leaf in flat.items() if "/encoderblock_" not in name}
    for name in flat:
        if name.startswith(first):
            blocks = [flat[f"Transformer/encoderblock_{i}/{name.removeprefix(first)}"] for i in range(depth)]
            stacked[f"Transformer/encoderblock/{name.removeprefix(first)}"] = np.stack(blocks)
    return stacked


def unstack_blocks(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `stack_blocks`."""
    prefix = "Transformer/encoderblock/"
    unstacked = {name: leaf for name, leaf in flat.items() if not name.startswith(prefix)}
    for name, leaf in flat.items():
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            unstacked |= {f"Transformer/encoderblock_{i}/{rest}": block for i, block in enumerate(leaf)}
    return unstacked


# The sub-layers of a block of Hugging Face's T5, and what t5x calls each and the norm before it.
T5_SUBLAYERS = {
    "encoder.0": ("attention", "pre_attention_layer_norm"),
    "encoder.1": ("mlp", "pre_mlp_layer_norm"),
    "decoder.0": ("self_attention", "pre_self_attention_layer_norm"),
    "decoder.1": ("encoder_decoder_attention", "pre_cross_attention_layer_norm"),
    "decoder.2": ("mlp", "pre_mlp_layer_norm"),
}
T5_KERNELS = {"q": "query", "k": "key", "v": "value", "o": "out"}


def t5_names(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames the leaves of a T5 to the kit's names, those of t5x.

    - t5x: `target/...` are the parameters, `state/...` the step and the optimiser's state, which is left out.
    - Hugging Face (`shared.weight`, ...): kernels are stored transposed. The embedding table may be there two more
      times, as each stack's embed_tokens; these copies are left out.
    """
    renamed = {}
    for name, leaf in flat.items():
        if "." in name:
            if name not in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
                renamed[_t5x_name(name)] = leaf if name == "shared.weight" else leaf.T
        elif not name.startswith("state/"):
            renamed[name.removeprefix("target/")] = leaf
    return renamed


def _t5x_name(name: str) -> str:
    """encoder.block.0.layer.1.DenseReluDense.wo.weight -> encoder/layers_0/mlp/wo/kernel. What is unknown stays."""
    outside = {"shared.weight": "token_embedder/embedding", "lm_head.weight": "decoder/logits_dense/kernel"}
    for stack in ("encoder", "decoder"):
        outside[f"{stack}.final_layer_norm.weight"] = f"{stack}/{stack}_norm/scale"
        relative = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        outside[relative] = f"{stack}/relpos_bias/rel_embedding"
    match = re.fullmatch(r"(encoder|decoder)\.block\.(\d+)\.layer\.(\d)\.(?:\w+\.)?(\w+)\.weight", name)
    if name in outside or not match or f"{match[1]}.{match[3]}" not in T5_SUBLAYERS:
        return outside.get(name, name)
    layer, norm = T5_SUBLAYERS[f"{match[1]}.{match[3]}"]
    part = f"{norm}/scale" if match[4] == "layer_norm" else f"{layer}/{T5_KERNELS.get(match[4], match[4])}/kernel"
    return f"{match[1]}/layers_{match[2]}/{part}"


# ---------------------------------------------------------------------------------------------- fitting


def fit_positions(table: np.ndarray, config: ViTConfig) -> np.ndarray:
    """A public position table in the layout and resolution of `config`, float32[1, N, D].

    The stored grid is taken to be square, as every published one is. A class-token slot is added as zeros when the
    file has none (big_vision adds the class token after the positions); dropping one is refused: another model.
    """
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

    `new_head=True` takes everything but the classifier and puts zeros there: the start of a fine-tuning run.
    Raises CheckpointError naming every leaf that is missing, extra or misshapen.
    """
    flat = kit_names(read_npz(path))
    if any(name.startswith("Transformer/encoderblock/") for name in flat):
        flat = unstack_blocks(flat)
    if "pos_embedding" in flat and config.posemb == "learn":
        flat["pos_embedding"] = fit_positions(flat["pos_embedding"], config)
    if config.scan and "Transformer/encoderblock_0/LayerNorm_0/scale" in flat:
        flat = stack_blocks(flat, config.depth)

    expected = flatten_dict(expected_shapes(config), sep="/")
    if new_head:
        flat = {name: leaf for name, leaf in flat.items() if not name.startswith("head/")}
        flat |= {name: np.zeros(s.shape, s.dtype) for name, s in expected.items() if name.startswith("head/")}
    compare(flat, expected, path)
    return unflatten_dict({name: jnp.asarray(flat[name], expected[name].dtype) for name in expected}, sep="/")


def load_t5(path, config: T5Config) -> dict:
    """Parameters for `T5(config)` from Hugging Face's `.safetensors` or, t5x's names flat in it, an `.npz`.

    Raises CheckpointError naming every leaf that is missing, extra or misshapen.
    """
    read = read_safetensors if pathlib.Path(path).suffix == ".safetensors" else read_npz
    flat, expected = t5_names(read(path)), flatten_dict(expected_shapes(config), sep="/")
    compare(flat, expected, path)
    return unflatten_dict({name: jnp.asarray(flat[name], expected[name].dtype) for name in expected}, sep="/")


@functools.cache
def expected_shapes(config: ViTConfig | T5Config) -> dict:
    """The parameter tree of ViT(config) or T5(config), as shapes and dtypes; nothing is computed."""
    if isinstance(config, T5Config):
        tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
        return jax.eval_shape(T5(config).init, jax.random.key(0), tokens, tokens)["params"]
    images = jax.ShapeDtypeStruct((1, *config.image_size, config.channels), jnp.float32)
    return jax.eval_shape(ViT(config).init, jax.random.key(0), images)["params"]


def compare(flat: dict, expected: dict, path) -> None:
    """Raises CheckpointError unless `flat` has exactly the names and shapes of `expected` (both flat)."""
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
