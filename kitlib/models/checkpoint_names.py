"""Translates the names of leaves in public checkpoints into the kit's names: pure functions on flat dicts.

The kit's names are those of big_vision (ViT), V-MoE (experts) and t5x (T5).
"""

import re

import numpy as np


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit; the message names the file and the problem."""


def kit_names(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
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

    Raises CheckpointError if two leaves would get the same name.
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
            raise CheckpointError(f"Two leaves of the checkpoint are called {new!r} once renamed; one is {name!r}.")
        renamed[new] = leaf
    return renamed


def unstack_blocks(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """big_vision's scanned blocks, .../encoderblock/x with a leading L axis, by number: .../encoderblock_0/x."""
    prefix = "Transformer/encoderblock/"
    unstacked = {name: leaf for name, leaf in flat.items() if not name.startswith(prefix)}
    for name, leaf in flat.items():
        if name.startswith(prefix):
            if not leaf.ndim:
                raise CheckpointError(f"{name} is a single number, expected an axis of blocks.")
            rest = name.removeprefix(prefix)
            unstacked |= {f"Transformer/encoderblock_{i}/{rest}": block for i, block in enumerate(leaf)}
    return unstacked


# The sub-layers of a block of Hugging Face's T5: t5x's names of each and of the norm before it.
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

    - t5x: `target/...` are the parameters; `state/...`, the step and the optimiser's state, are left out.
    - Hugging Face (`shared.weight`, ...): kernels are stored transposed. Each stack may have a copy of the embedding
      table, embed_tokens; these copies are left out.

    Raises CheckpointError if two leaves would get the same name.
    """
    copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    renamed = {}
    for name, leaf in flat.items():
        if name in copies or name.startswith("state/"):
            continue
        huggings = "." in name
        new = _t5x_name(name) if huggings else name.removeprefix("target/")
        if new in renamed:
            raise CheckpointError(f"Two leaves of the checkpoint are called {new!r} once renamed; one is {name!r}.")
        renamed[new] = leaf.T if huggings and name != "shared.weight" else leaf
    return renamed


def _t5x_name(name: str) -> str:
    """encoder.block.0.layer.1.DenseReluDense.wo.weight -> encoder/layers_0/mlp/wo/kernel. Unknown names are kept."""
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
