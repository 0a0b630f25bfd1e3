"""kitlib.models.dinov2: names and layout from a small ONNX file made here, refusals, parity with ONNX Runtime."""

import functools
import math

import jax
import numpy as np
import plain_vit
import pytest

from kitlib import configs
from kitlib.data import captioned, download, files
from kitlib.models import checkpoint, dinov2, flops
from kitlib.models.checkpoint_files import CheckpointError
from kitlib.models.vit import ViT
from kitlib.upcycling import surgery

onnx = pytest.importorskip("onnx", reason="ONNX files are read by the package onnx, which is not installed")

REFERENCE = files.data_folder() / "dinov2_reference.npz"  # made by data/make_dinov2_reference.py
WIDTH, HEADS, HIDDEN = 12, 2, 20
SMALL = configs.vit("S/14", image_size=(28, 42), num_classes=0, layer_scale=1e-5, activation="gelu_exact").replace(
    width=WIDTH, depth=2, mlp_dim=HIDDEN, num_heads=HEADS
)


def backbone() -> dict[str, np.ndarray]:
    """The arrays of a small backbone by their names in PyTorch, linear weights (in, out) as an export has them."""
    name, d = "backbone.embeddings.patch_embeddings.projection", (WIDTH,)
    shapes = {"backbone.embeddings.cls_token": (1, 1, WIDTH), f"{name}.weight": (WIDTH, 3, 14, 14), f"{name}.bias": d}
    shapes |= {"position of the class": (1, 1, WIDTH), "positions": (1, 37 * 37, WIDTH)}
    shapes |= {"decoder.final_conv.weight": (1, 64, 1, 1)}
    linear = {f"attention.attention.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
    linear |= {"attention.output.dense": (WIDTH, WIDTH), "mlp.fc1": (WIDTH, HIDDEN), "mlp.fc2": (HIDDEN, WIDTH)}
    modules = {"backbone.layernorm": d}
    for layer in ("backbone.encoder.layer.0", "backbone.encoder.layer.1"):
        modules |= {f"{layer}.{part}": shape for part, shape in (linear | {"norm1": d, "norm2": d}).items()}
        shapes |= {f"{layer}.layer_scale{k}.lambda1": d for k in (1, 2)}
    for module, shape in modules.items():
        shapes |= {f"{module}.weight": shape, f"{module}.bias": shape[-1:]}
    rng = np.random.default_rng(0)
    return {n: rng.normal(0, 0.015 if len(s) == 4 else 0.3, s).astype(np.float32) for n, s in shapes.items()}


def graph(nodes, tensors) -> bytes:
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "made", [], [], tensors)).SerializeToString()


def export(arrays: dict[str, np.ndarray]) -> bytes:
    """An ONNX file as PyTorch writes it: weights of linear layers are numbered, and only their MatMul has the name."""
    tensors, nodes = [], []
    for i, (name, array) in enumerate(arrays.items()):
        if name.endswith(".weight") and array.ndim == 2:
            layer = "/" + name.removesuffix(".weight").replace("layer.", "layer#").replace(".", "/").replace("#", ".")
            name = f"onnx::MatMul_{i}"
            nodes.append(onnx.helper.make_node("MatMul", ["x", name], [f"y{i}"], name=f"{layer}/MatMul"))
        tensors.append(onnx.numpy_helper.from_array(array, name))
    return graph(nodes, tensors)


def oracle(arrays: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """DINOv2 in plain numpy; images [n, 28, 42, 3] -> [n, 7, D]."""
    names = {"backbone.": "vit.", "norm1": "layernorm_before", "norm2": "layernorm_after"}
    names |= {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
    grid, found = cubic_by_hand(arrays["positions"][0].reshape(37, 37, -1)), {}
    found["vit.embeddings.position_embeddings"] = np.concatenate([arrays["position of the class"][0], grid])
    for name, array in arrays.items():
        for theirs, transformers in names.items():
            name = name.replace(theirs, transformers)
        found[name] = array.astype(np.float64).T if array.ndim == 2 else array.astype(np.float64)
    return plain_vit.encoded(found, images, HEADS, depth=2)


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
    (tmp_path / "small.onnx").write_bytes(export(arrays))
    read = dinov2.read_onnx(tmp_path / "small.onnx")
    assert {name: array.shape for name, array in read.items()} == {name: a.shape for name, a in arrays.items()}
    params = dinov2.params(read, SMALL, "small.onnx")
    images = np.random.default_rng(1).normal(0, 1, (2, 28, 42, 3)).astype(np.float32)
    _, out = ViT(SMALL).apply({"params": params}, images)
    np.testing.assert_allclose(out["encoded"], oracle(arrays, images), atol=2e-5)


def test_leaves_that_do_not_fit_are_named():
    layer, zeros = "backbone.encoder.layer", functools.partial(np.zeros, dtype=np.float32)
    for name, array, message in (
        (f"{layer}.1.norm1.bias", None, r"missing: Transformer/encoderblock_1/LayerNorm_0/bias"),
        (f"{layer}.2.norm1.bias", zeros(WIDTH), r"extra: Transformer/encoderblock_2/LayerNorm_0"),
        ("backbone.mask", zeros(3), r"extra: backbone\.mask"),
        (f"{layer}.0.mlp.fc1.weight", zeros((WIDTH, 8)), r"misshapen: .*Dense_0/kernel is \(12, 8\)"),
        (f"{layer}.0.mlp.fc1.bias", zeros(HIDDEN) * np.nan, r"MlpBlock_0/Dense_0/bias holds nan"),
        ("positions", zeros((1, 16, WIDTH)), r"expected one array each of the shapes .*1369"),
        ("more positions", zeros((1, 1369, WIDTH)), r"expected one array each of the shapes"),
    ):
        arrays = {n: a for n, a in (backbone() | {name: array}).items() if a is not None}
        with pytest.raises(CheckpointError, match=message):
            dinov2.params(arrays, SMALL, "small.onnx")


def test_files_that_are_no_such_model(tmp_path):
    path, whole = tmp_path / "small.onnx", export(backbone())
    with pytest.raises(CheckpointError, match=r"There is no file .*small\.onnx; get it with: kit weights fetch"):
        dinov2.load(path)
    outside, *named = (
        onnx.numpy_helper.from_array(np.zeros((3, 3), np.float32), name)
        for name in ("backbone.x", "onnx::1", "backbone.x.weight")
    )
    onnx.external_data_helper.set_external_data(outside, "/etc/passwd")
    product = onnx.helper.make_node("MatMul", ["x", "onnx::1"], ["y"], name="/backbone/x/MatMul")
    for content, reason in (
        (whole[: len(whole) // 2], "truncated or not"),
        (b"\xff" * 100, "truncated or not"),
        (graph([product], named), r"two arrays called 'backbone\.x\.weight'"),
        (graph([], named), "expected one array"),
        (graph([], [outside]), r"it keeps backbone\.x in another file"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"small\.onnx is .*{reason}"):
            dinov2.load(path)


def test_the_published_size_and_normalized_pictures_by_hand():
    """22,056,576 parameters in the release for 518 x 518 pixels, 384 of them a mask that only pretraining uses."""
    config = dinov2.config((518, 518))
    assert sum(flops.vit_parameters(config).values()) == 22_056_576 - 384
    assert sum(leaf.size for leaf in jax.tree.leaves(checkpoint.expected_shapes(config))) == 22_056_576 - 384
    grey = dinov2.normalize(np.full((1, 2, 2, 3), 127, np.uint8))
    want = [(127 / 255 - 0.485) / 0.229, (127 / 255 - 0.456) / 0.224, (127 / 255 - 0.406) / 0.225]
    assert grey.dtype == np.float32
    np.testing.assert_allclose(grey[0, 0, 0], want, atol=1e-4)


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
