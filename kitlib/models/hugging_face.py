"""ViTs in the layout of Hugging Face: a folder with config.json, model.safetensors and preprocessor_config.json.

    save_vit("mine", params, config, class_names=("cat", "dog"))
    ViTForImageClassification.from_pretrained("mine")            # of transformers; this module does not need it
    config, params = load_vit("mine")                            # the kit's again, or of any such folder

What `transformers` calls a ViT is the first one (2010.11929): a class token, learned positions, GELU, a linear head.
All else that the kit's ViT can be (other pooling, experts, members, parallel blocks, ...) has no place in that layout
and is refused by name. PyTorch stores a kernel [in, out] as a weight [out, in], and heads side by side.

Source: the module names of transformers' modeling_vit.py, compared in tests/models/test_hugging_face.py.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from kitlib.configs import ViTConfig
from kitlib.data import files
from kitlib.models import checkpoint
from kitlib.models.checkpoint_files import CheckpointError, as_float32, read_safetensors

ACTIVATIONS = {"gelu": "gelu_pytorch_tanh", "gelu_exact": "gelu"}  # the kit's name: that of transformers
EPSILON = 1e-6  # of all LayerNorms, as in Google's own code; files that say 1e-12, PyTorch's habit, are read with it
DEEPEST = 1000  # blocks that a file may ask for
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

    Raises ValueError for a model that is no such ViT, for parameters of another, or another number of names than
    classes; then nothing is written.
    """
    check(config)
    flat = {name: np.asarray(leaf, np.float32) for name, leaf in flatten_dict(params, sep="/").items()}
    checkpoint.compare(flat, flatten_dict(checkpoint.expected_shapes(config), sep="/"), "The model")
    labels = list(class_names) or [f"LABEL_{i}" for i in range(config.num_classes)]
    if len(labels) != config.num_classes:
        raise ValueError(f"There are {len(labels)} class names; the model has {config.num_classes} classes.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / "config.json", json.dumps(_to_json(config, labels), indent=2))
    height, width = config.image_size
    prepared = {"do_resize": True, "size": {"height": height, "width": width}, "do_rescale": True}
    prepared |= {"rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * config.channels}
    prepared |= {"image_std": [0.5] * config.channels, "image_processor_type": "ViTImageProcessor"}
    files.write_text(folder / "preprocessor_config.json", json.dumps(prepared, indent=2))
    arrays = {new: to_torch(name, flat[name]) for name, new in names(config).items()}
    content = safetensors.numpy.save(arrays, metadata={"format": "pt"})  # transformers asks for this entry
    files.write_bytes(folder / "model.safetensors", content)


def load_vit(folder: str | Path) -> tuple[ViTConfig, dict]:
    """The configuration and float32 parameters of a ViT for classification in this layout.

    Raises CheckpointError for files that are missing, damaged or of another model.
    """
    path = Path(folder) / "model.safetensors"
    config = _from_json(Path(folder) / "config.json")
    arrays = as_float32(read_safetensors(path), path)
    renamed = names(config)
    expected = checkpoint.expected_shapes(config)
    shapes = {renamed[name]: _torch_shape(name, leaf.shape) for name, leaf in flatten_dict(expected, sep="/").items()}
    checkpoint.compare(arrays, {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}, path)
    flat = {}
    for name, leaf in flatten_dict(expected, sep="/").items():
        flat[name] = jnp.asarray(from_torch(name, arrays[renamed[name]], leaf.shape))
    return config, unflatten_dict(flat, sep="/")


# ---------------------------------------------------------------------------------------------- names and numbers


def names(config: ViTConfig) -> dict[str, str]:
    """By the kit's name of every leaf: its name in transformers."""
    modules = {"embedding": "vit.embeddings.patch_embeddings.projection"}
    modules |= {"Transformer/encoder_norm": "vit.layernorm", "head": "classifier"}
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
        return np.ascontiguousarray(leaf.transpose(3, 2, 0, 1))
    if name.endswith(("query/kernel", "key/kernel", "value/kernel")):
        leaf = leaf.reshape(leaf.shape[0], -1)  # [D, H d]
    elif name.endswith("out/kernel"):
        leaf = leaf.reshape(-1, leaf.shape[-1])  # [H d, D]
    elif name.endswith(("query/bias", "key/bias", "value/bias")):
        leaf = leaf.reshape(-1)
    return np.ascontiguousarray(leaf.T) if name.endswith("kernel") else leaf


def from_torch(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_torch`; shape: the leaf's."""
    if name == "embedding/kernel":
        return array.transpose(2, 3, 1, 0)
    return (array.T if name.endswith("kernel") else array).reshape(shape)


def _torch_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of `to_torch`'s result, by arithmetic: a file may claim to be of any size."""
    if name == "embedding/kernel":
        return tuple(shape[axis] for axis in (3, 2, 0, 1))
    if name.endswith(("query/kernel", "key/kernel", "value/kernel")):
        shape = (shape[0], math.prod(shape[1:]))
    elif name.endswith("out/kernel"):
        shape = (math.prod(shape[:-1]), shape[-1])
    elif name.endswith(("query/bias", "key/bias", "value/bias")):
        shape = (math.prod(shape),)
    return shape[::-1] if name.endswith("kernel") else shape


# ---------------------------------------------------------------------------------------------- configurations


def check(config: ViTConfig) -> None:
    """Raises ValueError naming everything that a ViT of transformers cannot be."""
    needs = {"pool": "tok", "posemb": "learn", "representation_size": 0, "parallel": False, "qk_norm": False}
    needs |= {"norm_bias": True, "layer_scale": 0.0, "scan": False, "moe": None, "batch_ensemble": None}
    wrong = [f"{name} is {getattr(config, name)!r}, not {value!r}" for name, value in needs.items()
             if getattr(config, name) != value]  # fmt: skip
    if not config.num_classes:
        wrong.append("num_classes is 0, a model without a head")
    if wrong:
        raise ValueError(f"Hugging Face's ViT has no place for this model: {'; '.join(wrong)}.")


def _to_json(config: ViTConfig, labels: list[str]) -> dict:
    height, width = config.image_size
    return {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": ACTIVATIONS[config.activation],
        "image_size": height if height == width else [height, width],
        "patch_size": config.patch_size,
        "num_channels": config.channels,
        "qkv_bias": config.qkv_bias,
        "layer_norm_eps": EPSILON,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": 0.0,
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def _from_json(path: Path) -> ViTConfig:
    """The configuration; the defaults are those of transformers' ViTConfig, which leaves them out of files."""
    if not path.is_file():
        raise CheckpointError(f"There is no {path}; expected a folder in the layout of Hugging Face.")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored.get("model_type") != "vit":
            raise ValueError(f"its model_type is {stored.get('model_type')!r}, not 'vit'")
        if not 1 <= stored.get("num_hidden_layers", 12) <= DEEPEST:
            raise ValueError(f"num_hidden_layers is {stored['num_hidden_layers']}; expected 1 to {DEEPEST}")
        kits = {their: kit for kit, their in ACTIVATIONS.items()}
        if (activation := stored.get("hidden_act", "gelu")) not in kits:
            raise ValueError(f"hidden_act is {activation!r}; known: {', '.join(kits)}")
        side = stored.get("image_size", 224)
        return ViTConfig(
            width=stored.get("hidden_size", 768),
            depth=stored.get("num_hidden_layers", 12),
            mlp_dim=stored.get("intermediate_size", 3072),
            num_heads=stored.get("num_attention_heads", 12),
            patch_size=stored.get("patch_size", 16),
            image_size=(side, side) if isinstance(side, int) else tuple(side),
            channels=stored.get("num_channels", 3),
            num_classes=len(stored.get("id2label", ("LABEL_0", "LABEL_1"))),
            qkv_bias=stored.get("qkv_bias", True),
            activation=kits[activation],
        )
    except (ValueError, TypeError, AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} is not the configuration of a ViT that the kit can read: {reason}.") from error
