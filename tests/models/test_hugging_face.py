"""kitlib.models.hugging_face: names as in transformers, a forward pass by PyTorch's conventions, there and back."""

import json
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from kitlib import configs
from kitlib.models import checkpoint, hugging_face, t5
from kitlib.models.checkpoint import CheckpointError
from kitlib.models.vit import ViT
from kitlib.training import classification

SIZE = {"width": 8, "mlp_dim": 12, "depth": 2, "num_heads": 2, "image_size": (4, 6), "channels": 3, "num_classes": 5}


def made(**fields):
    """(configuration, parameters, none of them zero)."""
    config = configs.vit("tiny/2", **SIZE | {"pool": "tok"} | fields)
    params = classification.init_params(ViT(config), (1, *config.image_size, config.channels), 0)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return config, tree.unflatten(
        leaf + 0.1 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)
    )


def test_names_and_shapes_are_those_of_transformers(tmp_path):
    """By hand from modeling_vit.py: D = 8, F = 12, P = 2, C = 3, N = 1 + 2 * 3, V = 5; a weight is [out, in]."""
    config, params = made(depth=1)
    hugging_face.save_vit(tmp_path, params, config)
    layer = "vit.encoder.layer.0"
    expected = {
        "vit.embeddings.cls_token": (1, 1, 8),
        "vit.embeddings.position_embeddings": (1, 7, 8),
        "vit.embeddings.patch_embeddings.projection.weight": (8, 3, 2, 2),
        "vit.embeddings.patch_embeddings.projection.bias": (8,),
        f"{layer}.intermediate.dense.weight": (12, 8),
        f"{layer}.intermediate.dense.bias": (12,),
        f"{layer}.output.dense.weight": (8, 12),
        f"{layer}.output.dense.bias": (8,),
        "vit.layernorm.weight": (8,),
        "vit.layernorm.bias": (8,),
        "classifier.weight": (5, 8),
        "classifier.bias": (5,),
    }
    for part in ("query", "key", "value"):
        expected |= {f"{layer}.attention.attention.{part}.weight": (8, 8)}
        expected |= {f"{layer}.attention.attention.{part}.bias": (8,)}
    expected |= {f"{layer}.attention.output.dense.weight": (8, 8), f"{layer}.attention.output.dense.bias": (8,)}
    for norm in ("layernorm_before", "layernorm_after"):
        expected |= {f"{layer}.{norm}.weight": (8,), f"{layer}.{norm}.bias": (8,)}
    found = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert {name: array.shape for name, array in found.items()} == expected
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="numpy") as opened:
        assert opened.metadata() == {"format": "pt"}  # without it, transformers refuses the file


def forward(arrays, config, images):
    """Logits by PyTorch's conventions, slowly: a Linear is x W^T + b, a Conv2d takes channels first."""

    def linear(x, name):
        return x @ arrays[f"{name}.weight"].T + arrays.get(f"{name}.bias", 0.0)

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return normal * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]

    def gelu(x):
        if config["hidden_act"] == "gelu":
            return np.vectorize(lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2))))(x)
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    p, heads = config["patch_size"], config["num_attention_heads"]
    kernel, bias = (arrays[f"vit.embeddings.patch_embeddings.projection.{part}"] for part in ("weight", "bias"))
    rows, columns = images.shape[1] // p, images.shape[2] // p
    tokens = [arrays["vit.embeddings.cls_token"][:, 0].repeat(len(images), 0)]
    for r in range(rows):
        for c in range(columns):
            patch = images[:, r * p : (r + 1) * p, c * p : (c + 1) * p].transpose(0, 3, 1, 2)
            tokens.append((patch[:, None] * kernel[None]).sum((2, 3, 4)) + bias)
    x = np.stack(tokens, axis=1) + arrays["vit.embeddings.position_embeddings"]
    for i in range(config["num_hidden_layers"]):
        layer = f"vit.encoder.layer.{i}"
        y = norm(x, f"{layer}.layernorm_before")
        q, k, v = (linear(y, f"{layer}.attention.attention.{part}") for part in ("query", "key", "value"))
        context = np.zeros_like(x)
        for h in range(heads):
            head = slice(h * x.shape[-1] // heads, (h + 1) * x.shape[-1] // heads)
            scores = q[..., head] @ k[..., head].transpose(0, 2, 1) / math.sqrt(x.shape[-1] // heads)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            context[..., head] = weights / weights.sum(-1, keepdims=True) @ v[..., head]
        x = x + linear(context, f"{layer}.attention.output.dense")
        y = gelu(linear(norm(x, f"{layer}.layernorm_after"), f"{layer}.intermediate.dense"))
        x = x + linear(y, f"{layer}.output.dense")
    return linear(norm(x, "vit.layernorm")[:, 0], "classifier")


@pytest.mark.parametrize("fields", [{}, {"activation": "gelu_exact"}, {"qkv_bias": False}], ids=str)
def test_the_arrays_compute_the_same_logits_by_pytorchs_conventions(fields, tmp_path):
    config, params = made(**fields)
    hugging_face.save_vit(tmp_path, params, config, class_names="abcde")
    images = np.random.default_rng(0).uniform(-1, 1, (3, 4, 6, 3)).astype(np.float32)
    stored = json.loads((tmp_path / "config.json").read_text())
    arrays = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    logits = ViT(config).apply({"params": params}, images)[0]
    np.testing.assert_allclose(forward(arrays, stored, images), logits, rtol=1e-4, atol=1e-5)
    assert stored["id2label"] == {"0": "a", "1": "b", "2": "c", "3": "d", "4": "e"} and stored["image_size"] == [4, 6]


@pytest.mark.parametrize("fields", [{}, {"activation": "gelu_exact", "qkv_bias": False, "image_size": (4, 4)}], ids=str)
def test_there_and_back_changes_nothing(fields, tmp_path):
    config, params = made(**fields)
    hugging_face.save_vit(tmp_path, params, config)
    again, loaded = hugging_face.load_vit(tmp_path)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_transformers_reads_it_and_computes_the_same_logits(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    for fields in ({}, {"activation": "gelu_exact"}):
        config, params = made(**fields)
        hugging_face.save_vit(tmp_path, params, config)
        images = np.random.default_rng(0).uniform(-1, 1, (3, 4, 6, 3)).astype(np.float32)
        model = transformers.ViTForImageClassification.from_pretrained(tmp_path).eval()
        with torch.no_grad():
            theirs = model(torch.tensor(images.transpose(0, 3, 1, 2))).logits.numpy()
        np.testing.assert_allclose(ViT(config).apply({"params": params}, images)[0], theirs, atol=1e-5)


def test_models_without_a_place_in_the_layout_are_refused_by_name(tmp_path):
    config, params = made()
    moe = configs.MoEConfig(num_experts=2)
    for fields, named in (
        ({"pool": "gap"}, "pool is 'gap', not 'tok'"),
        ({"moe": moe, "moe_blocks": (1,)}, "moe is MoEConfig"),
        ({"parallel": True, "qk_norm": True}, "parallel is True, not False; qk_norm is True, not False"),
        ({"num_classes": 0}, "num_classes is 0, a model without a head"),
    ):
        with pytest.raises(ValueError, match=r"Hugging Face's ViT has no place for this model: .*") as caught:
            hugging_face.save_vit(tmp_path / "refused", params, config.replace(**fields))
        assert named in str(caught.value)
    with pytest.raises(ValueError, match=r"The model does not fit .*extra: Transformer/encoderblock_1/"):
        hugging_face.save_vit(tmp_path / "refused", params, config.replace(depth=1))
    with pytest.raises(ValueError, match="There are 2 class names, 2 different; the model has 5 classes"):
        hugging_face.save_vit(tmp_path / "refused", params, config, class_names=("a", "b"))
    with pytest.raises(ValueError, match="There are 5 class names, 4 different"):  # label2id would have four
        hugging_face.save_vit(tmp_path / "refused", params, config, class_names="abcda")
    params["head"]["bias"] = params["head"]["bias"].at[1].set(jnp.nan)
    with pytest.raises(ValueError, match="The model is refused: head/bias holds nan"):
        hugging_face.save_vit(tmp_path / "refused", params, config)
    with pytest.raises(ValueError, match="Got a T5Config, expected a ViTConfig"):
        hugging_face.save_vit(tmp_path / "refused", params, configs.t5("tiny"))
    assert not (tmp_path / "refused").exists()


def test_damaged_folders_are_refused_by_name(tmp_path):
    config, params = made()
    hugging_face.save_vit(tmp_path, params, config)
    stored, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    good, arrays = stored.read_text(), weights.read_bytes()
    for text, reason in (
        (good.replace('"vit"', '"beit"'), "no model .*'beit'"),
        (good[:-20], "truncated or not a JSON file"),
        ("[1]", "a list"),
        ("[" * 100_000, "truncated or not a JSON file"),
        (good.replace("1e-06", "1e-05"), "layer_norm_eps is 1e-05"),
    ):
        stored.write_text(text)
        with pytest.raises(CheckpointError, match=rf"config\.json .*{reason}"):
            hugging_face.load_vit(tmp_path)
    huge = '"hidden_size": 1000000'  # a matrix of 4 TB, which must not be made to compare its shape
    for text in (good.replace('"hidden_size": 8', '"hidden_size": 16'), good.replace('"hidden_size": 8', huge)):
        stored.write_text(text)
        with pytest.raises(CheckpointError, match=r"model\.safetensors does not fit .*misshapen"):
            hugging_face.load_vit(tmp_path)
    stored.write_text(good)
    weights.write_bytes(arrays[:-8])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        hugging_face.load_vit(tmp_path)
    stored.unlink()
    with pytest.raises(CheckpointError, match=r"There is no checkpoint file .*config\.json"):
        hugging_face.load_vit(tmp_path)


# ---------------------------------------------------------------------------------------------- other folders


def headless(folder, params, config) -> None:
    """The folder as transformers writes a ViTModel: without the prefix and the classifier, with a pooler."""
    hugging_face.save_vit(folder, params, config)
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    arrays = {name.removeprefix("vit."): array for name, array in arrays.items() if name.startswith("vit.")}
    pooler = {"pooler.dense.weight": np.ones((8, 8), np.float32), "pooler.dense.bias": np.ones(8, np.float32)}
    safetensors.numpy.save_file(arrays | pooler, folder / "model.safetensors")


def test_a_vit_without_a_classifier_gives_the_normed_class_token(tmp_path):
    config, params = made()
    headless(tmp_path, params, config)
    found, loaded = hugging_face.load(tmp_path)
    assert found == config.replace(num_classes=0) and "head" not in loaded
    images = np.random.default_rng(0).uniform(-1, 1, (2, 4, 6, 3)).astype(np.float32)
    encoded = ViT(config).apply({"params": params}, images)[1]["encoded"]
    np.testing.assert_array_equal(ViT(found).apply({"params": loaded}, images)[0], encoded[:, 0])


def test_a_classifier_that_is_missing_is_not_left_out(tmp_path):
    config, params = made()
    hugging_face.save_vit(tmp_path, params, config)
    arrays = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    del arrays["classifier.weight"]
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing: classifier\.weight"):
        hugging_face.load(tmp_path)


REFERENCE = Path(__file__).parents[1] / "reference"  # what transformers computes: see make_t5.py
T5 = {"model_type": "t5", "vocab_size": 40, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_heads": 2, "num_layers": 3}
T5 |= {"num_decoder_layers": 2, "layer_norm_epsilon": 1e-6, "tie_word_embeddings": False}
UNSCALED = {"tie_word_embeddings": True, "scale_decoder_outputs": False}


@pytest.mark.parametrize(
    ("case", "stated", "factor"),
    [
        ("gelu", {}, 1),
        ("silu", {"feed_forward_proj": "gated-silu"}, 1),
        ("tied", {"tie_word_embeddings": True}, 1),
        ("tied", {"scale_decoder_outputs": True, "tie_word_embeddings": True}, 1),
        ("tied", UNSCALED, 4),  # logits that are not divided by sqrt(D), D = 16
        ("gelu", UNSCALED, 1),  # a head of its own, whatever is said of ties
    ],
)
def test_a_t5_folder_computes_what_transformers_does(case, stated, factor, tmp_path):
    shutil.copy(REFERENCE / f"t5_{case}.safetensors", tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(T5 | {"feed_forward_proj": "gated-gelu"} | stated))
    config, params = hugging_face.load(tmp_path)
    with np.load(REFERENCE / "t5.npz") as tensors:
        inputs, targets, expected = (tensors[f"{case}/{name}"] for name in ("inputs", "targets", "logits"))
    shifted = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
    logits, _ = t5.T5(config).apply({"params": params}, inputs, shifted)
    np.testing.assert_allclose(logits, factor * expected, rtol=1e-4, atol=2e-4)
    with pytest.raises(CheckpointError, match="holds a T5, expected a ViT"):
        hugging_face.load_vit(tmp_path)


def test_a_head_that_the_file_should_have_is_not_made_up(tmp_path):
    shutil.copy(REFERENCE / "t5_tied.safetensors", tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(T5 | {"feed_forward_proj": "gated-gelu"}))
    with pytest.raises(CheckpointError, match="missing: decoder/logits_dense/kernel"):
        hugging_face.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(T5 | {"feed_forward_proj": "gated-gelu"} | UNSCALED))
    tied = hugging_face.load(tmp_path)[0].replace(tied=True)
    with pytest.raises(CheckpointError, match=r"config\.json states T5Config.*got .*tied=True"):
        checkpoint.load_t5(tmp_path / "model.safetensors", tied)  # logits would be wrong by a factor of 4
