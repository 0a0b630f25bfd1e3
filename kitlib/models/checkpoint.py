"""Checkpoints by the names of their leaves: public ones are read, of ViTs and T5s, and the kit's own written and read.

    params = checkpoint.load_vit("B_16-i21k-300ep.npz", configs.vit("B/16", num_classes=21843))     # Google, big_vision
    params = checkpoint.load_t5("model.safetensors", configs.t5("1.1-base"))                        # Hugging Face, t5x
    checkpoint.save("palix_s.safetensors", params)
    params = checkpoint.load("palix_s.safetensors", expected)       # a tree of the right shapes, as of jax.eval_shape

A public file is a flat list of named arrays. Loading takes four pure steps on that list: read; rename to the kit's
names, which are those of big_vision (ViT), V-MoE (experts) and t5x (T5); resize positions; compare with the names and
shapes of the configuration. (Blocks are stacked last, if the model is scanned.) Nothing is ever unpickled. A file that
does not fit is refused, with the names of the leaves that are missing, extra or misshapen; so is one where two leaves
would get one name, or where conventions are mixed so that nobody can say which leaf counts.

The kit's own files are `.safetensors` in float16, half the bytes: it keeps 11 significant bits, a relative error of at
most 1/2048 (below 6e-5, an absolute one of at most 3e-8); bfloat16, which is made for gradients, keeps 8. The largest
float16 is 65,504; larger numbers are refused instead of becoming infinite. Files are written atomically, and as the
format has no checksum of its own, the header carries one.

Built in notebooks/01_vit_from_pixels_to_logits.ipynb, T5 in notebooks/08_t5_and_upcycling.ipynb.
"""

import functools
import hashlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from kitlib.configs import T5Config, ViTConfig, vit
from kitlib.configs.arguments import flag, instance, one_of, whole
from kitlib.data.files import write_bytes
from kitlib.layers.vit_layers import resize_positions
from kitlib.models import stacking
from kitlib.models.checkpoint_files import CheckpointError, as_float32, read_json, read_npz, read_safetensors
from kitlib.models.t5 import T5
from kitlib.models.vit import ViT

# ---------------------------------------------------------------------- names; `path` is the file, for errors


def kit_names(flat: dict[str, np.ndarray], path="The checkpoint") -> dict[str, np.ndarray]:
    """Renames the leaves of a ViT from any of the public conventions to the kit's names, those of big_vision.

    - Google's ViT files (vision_transformer) are older than Linen and number all submodules of a block with one
      counter: LayerNorm_0, MultiHeadDotProductAttention_1, LayerNorm_2, MlpBlock_3; positions are under posembed_input.
    - big_vision's have the prefix `params/` (two-tower models: `params/img/`); before 2022, the positions are under
      Transformer; some have the parts of the MAP head at the top; scanned ones stack blocks under encoderblock.
    - BatchEnsemble ViTs (google/uncertainty-baselines, vit_batchensemble.py) number submodules as Google's do, and call
      the head batchensemble_head. V-MoE's trees (google-research/vmoe) have Encoder, SelfAttention and Mlp. The leaves
      of their own layers, fast weights and experts, have the kit's names.

    Raises CheckpointError if two leaves would get the same name, and for blocks both stacked and single.
    """
    renamed: dict[str, np.ndarray] = {}
    for name, leaf in flat.items():
        new = re.sub(r"^(opt/target/|target/)?(params/)?(img/)?", "", name)
        new = re.sub(r"^Encoder/", "Transformer/", new)
        new = re.sub(r"(/encoderblock_\d+)/SelfAttention/", r"\1/MultiHeadDotProductAttention_0/", new)
        new = re.sub(r"(/encoderblock_\d+)/Mlp/", r"\1/MlpBlock_0/", new)
        new = re.sub(r"^Transformer/(posembed_input/)?pos_embedding$", "pos_embedding", new)
        new = re.sub(r"^(probe$|(MultiHeadDotProductAttention|LayerNorm|MlpBlock)_0/)", r"MAPHead_0/\1", new)
        new = re.sub(r"^batchensemble_head/", "head/", new)
        new = new.replace("/MultiHeadDotProductAttention_1/", "/MultiHeadDotProductAttention_0/")
        new = new.replace("/LayerNorm_2/", "/LayerNorm_1/").replace("/MlpBlock_3/", "/MlpBlock_0/")
        if new in renamed:
            raise CheckpointError(f"{path} has two leaves called {new!r} once renamed; one is {name!r}.")
        renamed[new] = leaf
    return unstack_blocks(renamed, path)


def unstack_blocks(flat: dict[str, np.ndarray], path="The checkpoint") -> dict[str, np.ndarray]:
    """big_vision's scanned blocks, .../encoderblock/x with a leading L axis, by number: .../encoderblock_0/x. Files
    without such blocks stay as they are. Raises CheckpointError for blocks in both forms."""
    prefix = "Transformer/encoderblock/"
    unstacked = {name: leaf for name, leaf in flat.items() if not name.startswith(prefix)}
    if len(unstacked) < len(flat) and (single := [name for name in unstacked if name.startswith(prefix[:-1])]):
        raise CheckpointError(f"{path} has stacked blocks ({prefix}) and single ones ({single[0]}), expected one kind.")
    for name, leaf in flat.items():
        if name.startswith(prefix):
            if not leaf.ndim:
                raise CheckpointError(f"{path}: {name} is a single number, expected an axis of blocks.")
            rest = name.removeprefix(prefix)
            unstacked |= {f"Transformer/encoderblock_{i}/{rest}": block for i, block in enumerate(leaf)}
    return unstacked


# The sub-layers of a block of Hugging Face's T5: its name of each, and t5x's of it and of the norm before it.
T5_SUBLAYERS = {
    "encoder.0": ("SelfAttention", "attention", "pre_attention_layer_norm"),
    "encoder.1": ("DenseReluDense", "mlp", "pre_mlp_layer_norm"),
    "decoder.0": ("SelfAttention", "self_attention", "pre_self_attention_layer_norm"),
    "decoder.1": ("EncDecAttention", "encoder_decoder_attention", "pre_cross_attention_layer_norm"),
    "decoder.2": ("DenseReluDense", "mlp", "pre_mlp_layer_norm"),
}
T5_KERNELS = {"q": "query", "k": "key", "v": "value", "o": "out"}
T5_TABLE, T5_HEAD = "token_embedder/embedding", "decoder/logits_dense/kernel"


def t5_names(flat: dict[str, np.ndarray], path="The checkpoint") -> dict[str, np.ndarray]:
    """Renames the leaves of a T5 to the kit's names, those of t5x.

    - t5x: `target/...` are the parameters; `state/...`, the step and the optimiser's state, are left out.
    - Hugging Face (`shared.weight`, ...): kernels are stored transposed. Each stack may have a copy of the embedding
      table, embed_tokens; these copies are left out.

    Raises CheckpointError if two leaves would get the same name and are no equal copies of the table, for names of both
    libraries, and for a T5 1.0, whose MLPs are not gated.
    """
    huggings, slashes = ([name for name in flat if mark in name] for mark in "./")
    if huggings and slashes:
        raise CheckpointError(f"{path} has names of Hugging Face ({huggings[0]}) and t5x ({slashes[0]}), expected one.")
    renamed = {}
    for name, leaf in flat.items():
        if name.startswith("state/"):
            continue
        new = _t5x_name(name) if huggings else name.removeprefix("target/")
        leaf = leaf.T if huggings and new != T5_TABLE else leaf
        if new in renamed and not (huggings and new == T5_TABLE and np.array_equal(renamed[new], leaf)):
            raise CheckpointError(f"{path} has two leaves called {new!r} once renamed that differ; one is {name!r}.")
        renamed[new] = leaf
    if "encoder/layers_0/mlp/wi/kernel" in renamed and "encoder/layers_0/mlp/wi_0/kernel" not in renamed:
        raise CheckpointError(f"{path} is a T5 1.0: its MLPs are not gated. The kit has T5 1.1, mT5 and UL2.")
    return renamed


def _t5x_name(name: str) -> str:
    """encoder.block.0.layer.1.DenseReluDense.wo.weight -> encoder/layers_0/mlp/wo/kernel. Unknown names are kept."""
    outside = {"shared.weight": T5_TABLE, "lm_head.weight": T5_HEAD}
    for stack in ("encoder", "decoder"):
        outside[f"{stack}.embed_tokens.weight"] = T5_TABLE
        outside[f"{stack}.final_layer_norm.weight"] = f"{stack}/{stack}_norm/scale"
        relative = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        outside[relative] = f"{stack}/relpos_bias/rel_embedding"
    match = re.fullmatch(r"(encoder|decoder)\.block\.(\d+)\.layer\.(\d)\.(?:(\w+)\.)?(\w+)\.weight", name)
    if name in outside or not match or f"{match[1]}.{match[3]}" not in T5_SUBLAYERS:
        return outside.get(name, name)
    module, layer, norm = T5_SUBLAYERS[f"{match[1]}.{match[3]}"]
    if match[4] != (None if match[5] == "layer_norm" else module):
        return name
    part = f"{norm}/scale" if match[5] == "layer_norm" else f"{layer}/{T5_KERNELS.get(match[5], match[5])}/kernel"
    return f"{match[1]}/layers_{match[2]}/{part}"


# ------------------------------------------------------------------------------- Hugging Face's config.json

VIT_ACTIVATIONS = {"gelu": "gelu_pytorch_tanh", "gelu_exact": "gelu"}  # the kit's name: that of transformers
VIT_FIELDS = {"width": "hidden_size", "depth": "num_hidden_layers", "num_heads": "num_attention_heads"}
VIT_FIELDS |= {"mlp_dim": "intermediate_size", "patch_size": "patch_size", "channels": "num_channels"}
T5_ACTIVATIONS = {"gelu": "gated-gelu", "silu": "gated-silu"}
T5_FIELDS = {"vocab_size": "vocab_size", "width": "d_model", "num_encoder_layers": "num_layers", "mlp_dim": "d_ff"}
T5_FIELDS |= {"num_decoder_layers": "num_decoder_layers", "num_heads": "num_heads", "head_dim": "d_kv"}
T5_FIELDS |= {"rel_buckets": "relative_attention_num_buckets", "rel_max_distance": "relative_attention_max_distance"}


def kit_config(stored: dict, path) -> ViTConfig | T5Config:
    """The configuration that a `config.json` of transformers states, for model_type "vit", "t5" or "mt5"; null and
    what is missing are transformers' defaults. Dropout, a matter of training, stays 0.

    Raises CheckpointError naming what is wrong in it, or what the kit's models cannot be.
    """
    stored = {name: value for name, value in stored.items() if value is not None}
    try:
        one_of("model_type", stored.get("model_type"), ("vit", "t5", "mt5"))
        return _vit_config(stored) if stored["model_type"] == "vit" else _t5_config(stored)
    except (ValueError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0].removesuffix(".")
        raise CheckpointError(f"{path} describes no model that the kit can read: {reason}.") from error


def _fields(stored: dict, names: dict[str, str], activations: dict[str, str], activation: str, default) -> dict:
    """Sizes and activation by the kit's names; default: a configuration with the sizes that a file may leave out."""
    one_of("activation", activation, activations.values())
    found: dict = {"activation": next(kit for kit, their in activations.items() if their == activation)}
    for kit, their in names.items():
        most = 1000 if their.endswith("layers") else 2**20  # a file may ask for anything
        found[kit] = whole(their, stored.get(their, getattr(default, kit, None)), 1, most)
    return found


def _vit_config(stored: dict) -> ViTConfig:
    # The kit's LayerNorms have 1e-6, as Google's code. 1e-12, transformers' default, stands in most files, also of
    # models trained with 1e-6; the two differ by a factor of 1 - 5e-7 / (variance of a token).
    if (epsilon := stored.get("layer_norm_eps", 1e-12)) not in (1e-6, 1e-12):
        raise ValueError(f"layer_norm_eps is {epsilon!r}; the kit's is 1e-6, which only 1e-12 may stand for")
    labels = stored.get("id2label")
    count = whole("num_labels", stored.get("num_labels", 2 if labels is None else len(labels)), 0, 2**20)
    if labels is not None and set(labels) != {str(i) for i in range(count)}:
        raise ValueError(f"the {len(labels)} keys of id2label are not 0 to V - 1, of V = {count} classes")
    side = stored.get("image_size", 224)
    sides = side if isinstance(side, list) else [side, side]
    return ViTConfig(
        **_fields(stored, VIT_FIELDS, VIT_ACTIVATIONS, stored.get("hidden_act", "gelu"), vit("B/16")),
        image_size=tuple(whole("image_size", n, 1, 2**20) for n in sides),
        num_classes=count,
        qkv_bias=flag("qkv_bias", stored.get("qkv_bias", True)),
    )


def _t5_config(stored: dict) -> T5Config:
    t5 = stored["model_type"] == "t5"
    if (projection := stored.get("feed_forward_proj", "relu" if t5 else "gated-gelu")) == "relu":
        raise ValueError("feed_forward_proj is 'relu', a T5 1.0, whose MLPs are not gated; the kit has T5 1.1 and mT5")
    if (epsilon := stored.get("layer_norm_epsilon", 1e-6)) != 1e-6:
        raise ValueError(f"layer_norm_epsilon is {epsilon!r}; the kit's is 1e-6")
    # The default of scale_decoder_outputs; mT5s are scaled only by versions of transformers before 5.
    scaled = flag("tie_word_embeddings", stored.get("tie_word_embeddings", True))
    scaled = scaled and (t5 or stored.get("transformers_version", "5") < "5")
    sizes = {"num_decoder_layers": stored.get("num_layers")} | stored
    return T5Config(
        **_fields(sizes, T5_FIELDS, T5_ACTIVATIONS, projection, T5Config),
        tied=flag("scale_decoder_outputs", stored.get("scale_decoder_outputs", scaled)),
    )


# ---------------------------------------------------------------------------------------------- fitting


def fit_positions(table: np.ndarray, config: ViTConfig, path="The checkpoint") -> np.ndarray:
    """A public position table in the layout and resolution of `config`, float32[1, N, D].

    Stored grids are square, as all published ones. If the file has no row for the class token (big_vision adds the
    class token after the positions), a row of zeros is added. Raises CheckpointError for a table that is not a square
    grid of finite numbers, for one of a single patch, which would be the same everywhere in a picture of several, and
    for a row that would have to be dropped: that is another model.
    """
    table = as_float32({"pos_embedding": table}, path)["pos_embedding"]
    if table.ndim != 3 or table.shape[0] != 1 or not table.shape[1] or table.shape[2] != config.width:
        raise CheckpointError(f"{path}: pos_embedding is {table.shape}, expected (1, positions, {config.width}).")
    side = int(np.sqrt(n := table.shape[1]))
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
        shapes = flat_shapes(config.replace(scan=False))
        heads = {name: leaf for name, leaf in shapes.items() if name.startswith("head/")}
        flat |= {name: np.full(leaf.shape, float("fast_weight" in name), leaf.dtype) for name, leaf in heads.items()}
    return fitted(flat, config, path)


def load_t5(path, config: T5Config) -> dict:
    """Parameters for `T5(config)` from a `.safetensors` of Hugging Face, or from an `.npz` with the names of t5x.

    Hugging Face's config.json beside the file must agree with `config`. If it says that the logits come from the
    embedding table without being scaled, which `tied` does not mean, an untied head gets a copy of the table.
    Raises CheckpointError naming every leaf that is missing, extra or misshapen, or field that disagrees.
    """
    check_kind(config, T5Config)
    path = Path(path)
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
    unrolled = flat_shapes(config.replace(scan=False))
    compare(flat, unrolled, path)
    params = unflatten_dict({name: jnp.asarray(flat[name], leaf.dtype) for name, leaf in unrolled.items()}, sep="/")
    return stacking.stack(params, config)


def most_bytes(config: ViTConfig | T5Config) -> int:
    """More than any public file of this model has: twice its parameters in float32, and half a GiB for positions of a
    higher resolution, a larger head and the state of an optimiser that is left out."""
    return 8 * sum(leaf.size for leaf in flat_shapes(config.replace(scan=False)).values()) + 2**29


@functools.cache
def expected_shapes(config: ViTConfig | T5Config) -> dict:
    """The tree of parameters of ViT(config) or T5(config), as shapes and dtypes; nothing is computed."""
    if isinstance(instance("config", config, ViTConfig, T5Config), T5Config):
        tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
        return jax.eval_shape(T5(config).init, jax.random.key(0), tokens, tokens)["params"]
    images = jax.ShapeDtypeStruct((1, *config.image_size, config.channels), jnp.float32)
    return jax.eval_shape(ViT(config).init, jax.random.key(0), images)["params"]


def flat_shapes(config: ViTConfig | T5Config) -> dict[str, jax.ShapeDtypeStruct]:
    """`expected_shapes` by name "a/b/c"."""
    return flatten_dict(expected_shapes(config), sep="/")


def compare(flat: dict, expected: dict, path) -> None:
    """Raises CheckpointError unless `flat` has exactly the names and shapes of `expected` (both flat). path: the file,
    or what the leaves belong to."""
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


# ---------------------------------------------------------------------------------------------- the kit's own files


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

    Raises CheckpointError naming the file and every leaf that is missing, extra or misshapen, and for a file
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
    compare(flat, shapes, path)
    return unflatten_dict({name: jnp.asarray(flat[name], jnp.float32) for name in shapes}, sep="/")


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """The sha256 of all names, types, shapes and numbers."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
        found.update(np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()
