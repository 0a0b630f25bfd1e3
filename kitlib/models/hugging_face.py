"""Folders in the layout of Hugging Face, with config.json and model.safetensors: ViTs and T5s are read, ViTs written.

    config, params = load("folder")                              # of a ViT, a T5 1.1 or an mT5, as its config.json says
    save_vit("mine", params, config, class_names=("cat", "dog"))
    ViTForImageClassification.from_pretrained("mine")            # of transformers; this module does not need it

What `transformers` calls a ViT is the first one (2010.11929): a class token, learned positions, GELU, a linear head.
All else that the kit's ViT can be (other pooling, experts, members, parallel blocks, ...) has no place in that layout
and is refused by name; so is, when read, what the kit's models cannot be (`checkpoint.kit_config`). PyTorch stores a
kernel [in, out] as a weight [out, in], and heads side by side.

Source: the module names of transformers' modeling_vit.py, compared in tests/models/test_hugging_face.py.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from kitlib.configs import T5Config, ViTConfig
from kitlib.data import files
from kitlib.models import checkpoint
from kitlib.models.checkpoint import VIT_ACTIVATIONS, VIT_FIELDS, kit_config
from kitlib.models.checkpoint_files import CheckpointError, as_float32, read_json, read_safetensors

ATTENTION = "MultiHeadDotProductAttention_0"
BLOCK = {  # of block i: the kit's module: that of transformers, under vit.encoder.layer.<i>
    "LayerNorm_0": "layernorm_before",
    f"{ATTENTION}/query": "attention.attention.query",
    f"{ATTENTION}/key": "attention.attention.key",
    f"{ATTENTION}/value": "attention.attention.value",
    f"{ATTENTION}/out": "attention.output.dense",
    "LayerNorm_1": "layernorm_after",
    "MlpBlock_0/Dense_0": "intermediate.dense",
    "MlpBlock_0/Dense_1": "output.dense",
}


def save_vit(folder: str | Path, params: dict, config: ViTConfig, class_names: Sequence[str] = ()) -> None:
    """Writes the folder; each file is written atomically.

    class_names: V names; default: "LABEL_0", ... The preprocessor's numbers are those of the kit's images: pixels in
    [-1, 1].

    Raises ValueError, and writes nothing, for a model that is no such ViT, for parameters of another or not finite, for
    another number of names than classes, and for equal names.
    """
    check(config)
    flat = as_float32({name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep="/").items()}, "The model")
    checkpoint.compare(flat, checkpoint.flat_shapes(config), "The model")
    labels = list(class_names) or [f"LABEL_{i}" for i in range(config.num_classes)]
    if not len(set(labels)) == len(labels) == config.num_classes:
        several = f"{len(labels)} class names, {len(set(labels))} different"
        raise ValueError(f"There are {several}; the model has {config.num_classes} classes.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / "config.json", json.dumps(_to_json(config, labels), indent=2))
    height, width = config.image_size
    prepared = {"do_resize": True, "size": {"height": height, "width": width}, "do_rescale": True}
    prepared |= {"rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * config.channels}
    prepared |= {"image_std": [0.5] * config.channels, "image_processor_type": "ViTImageProcessor"}
    files.write_text(folder / "preprocessor_config.json", json.dumps(prepared, indent=2))
    arrays = {new: np.ascontiguousarray(to_torch(name, flat[name])) for name, new in names(config).items()}
    content = safetensors.numpy.save(arrays, metadata={"format": "pt"})  # transformers asks for this entry
    files.write_bytes(folder / "model.safetensors", content)


def load(folder: str | Path) -> tuple[ViTConfig | T5Config, dict]:
    """The configuration that the folder states and its float32 parameters; T5s by `checkpoint.load_t5`.

    A ViT without a classifier (transformers' ViTModel) has num_classes=0: its output is the class token after the last
    norm. Its pooler, a tanh layer that is often untrained and that no classifier of transformers keeps, is left out.
    LayerNorms get the kit's epsilon of 1e-6 where the file says 1e-12, transformers' default.
    Raises CheckpointError for files that are missing, damaged or of another model.
    """
    stated, path = Path(folder) / "config.json", Path(folder) / "model.safetensors"
    config = kit_config(read_json(stated), stated)
    if isinstance(config, T5Config):
        return config, checkpoint.load_t5(path, config)
    arrays = as_float32(read_safetensors(path), path)
    if not any(name.startswith("vit.") for name in arrays):
        config = config.replace(num_classes=0)
        arrays = {f"vit.{name}": array for name, array in arrays.items() if not name.startswith("pooler.")}
    renamed, expected = names(config), checkpoint.flat_shapes(config)
    theirs = {renamed[n]: jax.eval_shape(functools.partial(to_torch, n), leaf) for n, leaf in expected.items()}
    checkpoint.compare(arrays, theirs, path)
    flat = {name: jnp.asarray(from_torch(name, arrays[renamed[name]], leaf.shape)) for name, leaf in expected.items()}
    return config, unflatten_dict(flat, sep="/")


def load_vit(folder: str | Path) -> tuple[ViTConfig, dict]:
    """`load` for a ViT. Raises CheckpointError, also for the folder of a T5."""
    config, params = load(folder)
    if not isinstance(config, ViTConfig):
        raise CheckpointError(f"{folder} holds a T5, expected a ViT; load reads both.")
    return config, params


# ---------------------------------------------------------------------------------------------- names and numbers


def names(config: ViTConfig) -> dict[str, str]:
    """By the kit's name of every leaf: its name in transformers."""
    modules = {"embedding": "vit.embeddings.patch_embeddings.projection"}
    modules |= {"Transformer/encoder_norm": "vit.layernorm"} | ({"head": "classifier"} if config.num_classes else {})
    for i in range(config.depth):
        kits, theirs = f"Transformer/encoderblock_{i}", f"vit.encoder.layer.{i}"
        modules |= {f"{kits}/{kit}": f"{theirs}.{their}" for kit, their in BLOCK.items()}
    found = {"cls": "vit.embeddings.cls_token", "pos_embedding": "vit.embeddings.position_embeddings"}
    for kit, their in modules.items():
        found[f"{kit}/{'scale' if 'norm' in their else 'kernel'}"] = f"{their}.weight"
        if config.qkv_bias or not kit.endswith(("query", "key", "value")):
            found[f"{kit}/bias"] = f"{their}.bias"
    return found


def to_torch(name: str, leaf: np.ndarray) -> np.ndarray:
    """A leaf of the kit as PyTorch stores it: [P, P, C, D] -> [D, C, P, P]; [in, out] -> [out, in], of attention with
    H and d as one axis; all else as it is."""
    if name == "embedding/kernel":
        return leaf.transpose(3, 2, 0, 1)
    if name.endswith("out/kernel"):
        return leaf.reshape(-1, leaf.shape[-1]).T  # [H d, D]
    if name.endswith("kernel"):
        return leaf.reshape(leaf.shape[0], -1).T  # [D, H d] of query, key and value
    return leaf.reshape(-1) if name.endswith("bias") else leaf


def from_torch(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_torch`; shape: the leaf's."""
    if name == "embedding/kernel":
        return array.transpose(2, 3, 1, 0)
    return (array.T if name.endswith("kernel") else array).reshape(shape)


# ---------------------------------------------------------------------------------------------- configurations


def check(config: ViTConfig) -> None:
    """Raises ValueError naming everything that a ViT of transformers cannot be."""
    checkpoint.check_kind(config, ViTConfig)
    needs = {"pool": "tok", "posemb": "learn", "representation_size": 0, "parallel": False, "qk_norm": False}
    needs |= {"norm_bias": True, "layer_scale": 0.0, "scan": False, "moe": None, "batch_ensemble": None}
    wrong = [f"{name} is {getattr(config, name)!r}, not {value!r}" for name, value in needs.items()
             if getattr(config, name) != value]  # fmt: skip
    if not config.num_classes:
        wrong.append("num_classes is 0, a model without a head")
    if wrong:
        raise ValueError(
            f"Hugging Face's ViT has no place for this model: {'; '.join(wrong)}. Train one with these values, as by "
            "kit train: --model.pool tok."
        )


def _to_json(config: ViTConfig, labels: list[str]) -> dict:
    height, width = config.image_size
    return {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        **{their: getattr(config, kit) for kit, their in VIT_FIELDS.items()},
        "hidden_act": VIT_ACTIVATIONS[config.activation],
        "image_size": height if height == width else [height, width],
        "qkv_bias": config.qkv_bias,
        "layer_norm_eps": 1e-6,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": 0.0,
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
