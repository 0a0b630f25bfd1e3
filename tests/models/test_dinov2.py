"""kitlib.models.dinov2: names and layout from a small ONNX file made here, refusals, parity with ONNX Runtime."""

import math
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from kitlib import configs
from kitlib.data import captioned, download, files
from kitlib.models import checkpoint, dinov2, flops
from kitlib.models.checkpoint_names import CheckpointError
from kitlib.models.vit import ViT
from kitlib.upcycling import surgery

onnx = pytest.importorskip("onnx", reason="ONNX files are read by the package onnx, which is not installed")

REFERENCE = files.data_folder() / "dinov2_reference.npz"  # made by data/make_dinov2_reference.py
WIDTH, HEADS, HIDDEN = 12, 2, 20
SMALL = configs.vit("S/14", image_size=(28, 42), num_classes=0, layer_scale=1e-5, activation="gelu_exact").replace(
    width=WIDTH, depth=2, mlp_dim=HIDDEN, num_heads=HEADS
)


def backbone(seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays of a small backbone by their names in PyTorch, linear weights (in, out) as an export has them."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(0, 0.3, shape).astype(np.float32)

    arrays = {
        "backbone.embeddings.cls_token": draw(1, 1, WIDTH),
        "backbone.embeddings.patch_embeddings.projection.weight": draw(WIDTH, 3, 14, 14) / 20,
        "backbone.embeddings.patch_embeddings.projection.bias": draw(WIDTH),
        "backbone.layernorm.weight": draw(WIDTH),
        "backbone.layernorm.bias": draw(WIDTH),
        "position of the class": draw(1, 1, WIDTH),
        "positions": draw(1, 37 * 37, WIDTH),
        "decoder.final_conv.weight": draw(1, 64, 1, 1),
    }
    for i in range(2):
        layer = f"backbone.encoder.layer.{i}"
        for norm in ("norm1", "norm2"):
            arrays |= {f"{layer}.{norm}.weight": draw(WIDTH), f"{layer}.{norm}.bias": draw(WIDTH)}
        arrays |= {f"{layer}.layer_scale{k}.lambda1": draw(WIDTH) for k in (1, 2)}
        linear = {f"attention.attention.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
        linear |= {"attention.output.dense": (WIDTH, WIDTH), "mlp.fc1": (WIDTH, HIDDEN), "mlp.fc2": (HIDDEN, WIDTH)}
        for name, shape in linear.items():
            arrays |= {f"{layer}.{name}.weight": draw(*shape), f"{layer}.{name}.bias": draw(shape[1])}
    return arrays


def export(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """An ONNX file as PyTorch writes it: weights of linear layers are numbered, and only their MatMul has the name."""
    tensors, nodes = [], []
    for i, (name, array) in enumerate(arrays.items()):
        if name.endswith(".weight") and array.ndim == 2:
            layer = "/" + name.removesuffix(".weight").replace("layer.", "layer#").replace(".", "/").replace("#", ".")
            nodes.append(onnx.helper.make_node("MatMul", ["x", f"onnx::MatMul_{i}"], [f"y{i}"], name=f"{layer}/MatMul"))
            name = f"onnx::MatMul_{i}"
        tensors.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "made", [], [], tensors)), path)


def oracle(arrays: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """DINOv2 in plain numpy, token by token and head by head; images [n, 28, 42, 3] -> [n, 7, D]."""
    a = {name.removeprefix("backbone."): array.astype(np.float64) for name, array in arrays.items()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * a[f"{name}.weight"] + a[f"{name}.bias"]

    def linear(x, name):
        return x @ a[f"{name}.weight"] + a[f"{name}.bias"]

    kernel = a["embeddings.patch_embeddings.projection.weight"]
    positions = np.concatenate([a["position of the class"][0], cubic_by_hand(a["positions"][0].reshape(37, 37, -1))])
    out = []
    for image in images:
        patches = [
            np.einsum("dcij,ijc->d", kernel, image[14 * r : 14 * r + 14, 14 * c : 14 * c + 14])
            for r in range(2)
            for c in range(3)
        ]
        patches = np.stack(patches) + a["embeddings.patch_embeddings.projection.bias"]
        x = np.concatenate([a["embeddings.cls_token"][0], patches]) + positions
        for i in range(2):
            layer = f"encoder.layer.{i}"
            y = norm(x, f"{layer}.norm1")
            q, k, v = (linear(y, f"{layer}.attention.attention.{part}") for part in ("query", "key", "value"))
            d, mixed = WIDTH // HEADS, np.zeros_like(q)
            for h in range(HEADS):
                part = slice(h * d, (h + 1) * d)
                scores = np.exp(q[:, part] @ k[:, part].T / math.sqrt(d))
                mixed[:, part] = scores / scores.sum(-1, keepdims=True) @ v[:, part]
            x = x + a[f"{layer}.layer_scale1.lambda1"] * linear(mixed, f"{layer}.attention.output.dense")
            h = linear(norm(x, f"{layer}.norm2"), f"{layer}.mlp.fc1")
            h = h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
            x = x + a[f"{layer}.layer_scale2.lambda1"] * linear(h, f"{layer}.mlp.fc2")
        out.append(norm(x, "layernorm"))
    return np.stack(out)


def cubic_by_hand(grid: np.ndarray) -> np.ndarray:
    """[37, 37, D] -> [6, D]: every new position from its 4 x 4 neighbours, by PyTorch's bicubic weights."""

    def weight(x, a=-0.75):
        x = abs(x)
        return (a + 2) * x**3 - (a + 3) * x**2 + 1 if x <= 1 else a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a

    rows = []
    for r in range(2):
        for c in range(3):
            y, x, total = (r + 0.5) * 37 / 2 - 0.5, (c + 0.5) * 37 / 3 - 0.5, 0.0
            for j in range(math.floor(y) - 1, math.floor(y) + 3):
                for i in range(math.floor(x) - 1, math.floor(x) + 3):
                    total = total + weight(y - j) * weight(x - i) * grid[min(max(j, 0), 36), min(max(i, 0), 36)]
            rows.append(total)
    return np.stack(rows)


@pytest.mark.slow
def test_a_small_backbone_computes_what_plain_numpy_does(tmp_path):
    arrays = backbone()
    export(tmp_path / "small.onnx", arrays)
    read = dinov2.read_onnx(tmp_path / "small.onnx")
    assert {name: array.shape for name, array in read.items()} == {name: a.shape for name, a in arrays.items()}
    params = dinov2.params(read, SMALL, "small.onnx")
    images = np.random.default_rng(1).normal(0, 1, (2, 28, 42, 3)).astype(np.float32)
    _, out = ViT(SMALL).apply({"params": params}, images)
    np.testing.assert_allclose(out["encoded"], oracle(arrays, images), atol=2e-5)


def test_leaves_that_do_not_fit_are_named(tmp_path):
    for change, message in (
        ({"backbone.encoder.layer.1.norm1.bias": None}, r"missing: Transformer/encoderblock_1/LayerNorm_0/bias"),
        ({"backbone.encoder.layer.2.norm1.bias": np.zeros(WIDTH)}, r"extra: Transformer/encoderblock_2/LayerNorm_0"),
        ({"backbone.mask": np.zeros(3, np.float32)}, r"extra: backbone\.mask"),
        (
            {"backbone.encoder.layer.0.mlp.fc1.weight": np.zeros((WIDTH, 8))},
            r"misshapen: .*Dense_0/kernel is \(12, 8\)",
        ),
        ({"backbone.encoder.layer.0.mlp.fc1.bias": np.full(HIDDEN, np.nan)}, r"MlpBlock_0/Dense_0/bias holds nan"),
        ({"positions": np.zeros((1, 16, WIDTH), np.float32)}, r"expected one array each of the shapes .*1369"),
        ({"more positions": np.zeros((1, 1369, WIDTH), np.float32)}, r"expected one array each of the shapes"),
    ):
        arrays = {name: array for name, array in (backbone() | change).items() if array is not None}
        with pytest.raises(CheckpointError, match=message):
            dinov2.params(arrays, SMALL, "small.onnx")


def test_files_that_are_no_such_model(tmp_path):
    path = tmp_path / "small.onnx"
    with pytest.raises(CheckpointError, match=r"There is no file .*small\.onnx; get it with: kit weights fetch"):
        dinov2.load(path)
    export(path, backbone())
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"small\.onnx"):
            dinov2.load(path)
    named = [
        onnx.numpy_helper.from_array(np.zeros((3, 3), np.float32), name) for name in ("onnx::1", "backbone.x.weight")
    ]
    for inputs, reason in (
        (["x", "onnx::1"], r"two arrays called 'backbone\.x\.weight'"),
        (["x"], "expected one array"),
    ):
        node = onnx.helper.make_node("MatMul", inputs, ["y"], name="/backbone/x/MatMul")
        path.write_bytes(
            onnx.helper.make_model(onnx.helper.make_graph([node], "made", [], [], named)).SerializeToString()
        )
        with pytest.raises(CheckpointError, match=rf"small\.onnx is refused: .*{reason}"):
            dinov2.load(path)
    tensor = onnx.numpy_helper.from_array(np.zeros(3, np.float32), "backbone.x")
    onnx.external_data_helper.set_external_data(tensor, "/etc/passwd")
    graph = onnx.helper.make_graph([], "made", [], [], [tensor])
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(CheckpointError, match=r"refused: it keeps backbone\.x in another file"):
        dinov2.load(path)


def test_the_published_size():
    """22,056,576 parameters in the release for 518 x 518 pixels, 384 of them a mask that only pretraining uses."""
    config = dinov2.config((518, 518))
    assert sum(flops.vit_parameters(config).values()) == 22_056_576 - 384
    shapes = flatten_dict(checkpoint.expected_shapes(config))
    assert sum(int(np.prod(leaf.shape)) for leaf in shapes.values()) == 22_056_576 - 384


def test_normalized_pictures_by_hand():
    grey = dinov2.normalize(np.full((1, 2, 2, 3), 127, np.uint8))
    assert grey.dtype == np.float32
    np.testing.assert_allclose(
        grey[0, 0, 0],
        [(127 / 255 - 0.485) / 0.229, (127 / 255 - 0.456) / 0.224, (127 / 255 - 0.406) / 0.225],
        atol=1e-4,
    )


@pytest.fixture
def real_weights():
    try:
        return download.weights_file("dinov2-s14")
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.mark.slow
def test_the_real_weights_agree_with_onnx_runtime(real_weights):
    """After three blocks and the last norm, at four tokens of two pictures, to 1e-4 (numbers up to 27)."""
    config, params = dinov2.load(real_weights)
    pictures = captioned.emoji("train").images[:2].repeat(7, axis=1).repeat(7, axis=2)
    _, out = jax.jit(ViT(config).apply)({"params": params}, dinov2.normalize(pictures))
    with np.load(REFERENCE) as reference:
        assert set(reference.files) == {"block00", "block05", "block11", "encoded"}
        for name in reference.files:
            found = out["encoded"] if name == "encoded" else out[name]["+mlp"]
            np.testing.assert_allclose(found[:, [0, 1, 100, 256]], reference[name], atol=1e-4)


@pytest.mark.slow
def test_the_real_model_upcycled_equals_itself_at_step_0(real_weights):
    """Experts in the last half of the blocks; at C = E with renormalised weights no token misses anything."""
    config, params = dinov2.load(real_weights, image_size=(56, 56))
    sparse = surgery.vision_recipe(config, num_experts=3, capacity_factor=3.0)
    upcycled = surgery.apply(surgery.plan(params, sparse), params, jax.random.key(0))
    images = dinov2.normalize(captioned.emoji("train").images[:4].repeat(2, axis=1).repeat(2, axis=2)[:, 4:60, 4:60])
    whole, sparse_out = (ViT(c).apply({"params": p}, images)[0] for c, p in ((config, params), (sparse, upcycled)))
    np.testing.assert_allclose(sparse_out, whole, atol=1e-4)
