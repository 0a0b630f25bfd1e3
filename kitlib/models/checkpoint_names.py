"""Translates the names of public checkpoints into the kit's: of leaves, in flat dicts, and of Hugging Face's fields.

The kit's names are those of big_vision (ViT), V-MoE (experts) and t5x (T5). Where two leaves would get one name, or two
conventions are mixed so that nobody can say which leaf counts, the checkpoint is refused. `path`: the file, for errors.
"""

import re

import numpy as np

from kitlib.configs import T5Config, ViTConfig, vit
from kitlib.configs.arguments import flag, whole
from kitlib.configs.nearest_name import one_of
from kitlib.models.checkpoint_files import CheckpointError


def kit_names(flat: dict[str, np.ndarray], path="The checkpoint") -> dict[str, np.ndarray]:
    """Renames the leaves of a ViT from any of the public conventions to the kit's names, those of big_vision.

    - Google's ViT files (vision_transformer) are older than Linen and number all submodules of a block with one
      counter: LayerNorm_0, MultiHeadDotProductAttention_1, LayerNorm_2, MlpBlock_3. Their positions are under
      Transformer/posembed_input.
    - big_vision's files have the prefix `params/` (two-tower models: `params/img/`).
    - big_vision before 2022 has the positions under Transformer; some models have the parts of the MAP head at the top.
    - Scanned big_vision models stack the blocks under Transformer/encoderblock, with a leading L axis.
    - BatchEnsemble ViTs (google/uncertainty-baselines, vit_batchensemble.py) number a block's submodules as Google's
      files do, and call the head batchensemble_head; the leaves of a layer have the kit's names.
    - V-MoE's trees (google-research/vmoe) use the names Encoder, SelfAttention and Mlp; the leaves of the experts,
      Moe/Mlp/... and Moe/Router/dense/kernel, have the kit's names.

    Raises CheckpointError if two leaves would get the same name, and for blocks both stacked and single.
    """
    renamed = {}
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
