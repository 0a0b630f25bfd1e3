"""kitlib.models.hugging_face: names as in transformers, a forward pass by PyTorch's conventions, there and back."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import plain_vit
import pytest
import safetensors.numpy
import zoo
from trees import random_params

from kitlib import configs
from kitlib.models import checkpoint, hugging_face, t5
from kitlib.models.checkpoint import CheckpointError
from kitlib.models.vit import ViT

SIZE = {"width": 8, "mlp_dim": 12, "depth": 2, "num_heads": 2, "image_size": (4, 6), "channels": 3, "num_classes": 5}


IMAGES = np.random.default_rng(0).uniform(-1, 1, (3, 4, 6, 3)).astype(np.float32)


def made(folder=None, **fields):
    """(configuration, parameters, none of them zero), written to the folder."""
    config = configs.vit("tiny/2", **SIZE | {"pool": "tok"} | fields)
    params = jax.tree.map(jnp.asarray, random_params(config))
    if folder:
        hugging_face.save_vit(folder, params, config)
    return config, params


def arrays_of(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def logits(config, params, images=IMAGES):
    return zoo.applied(ViT(config))(params, images)[0]


def test_names_and_shapes_are_those_of_transformers(tmp_path):
    """By hand from modeling_vit.py: D = 8, F = 12, P = 2, C = 3, N = 1 + 2 * 3, V = 5; a weight is [out, in]."""
    made(tmp_path, depth=1)
    layer = {f"attention.attention.{part}": (8, 8) for part in ("query", "key", "value")}
    layer |= {"attention.output.dense": (8, 8), "intermediate.dense": (12, 8), "output.dense": (8, 12)}
    layer |= {"layernorm_before": (8,), "layernorm_after": (8,)}
    modules = {f"vit.encoder.layer.0.{name}": shape for name, shape in layer.items()}
    modules |= {"vit.embeddings.patch_embeddings.projection": (8, 3, 2, 2), "vit.layernorm": (8,), "classifier": (5, 8)}
    expected = {"vit.embeddings.cls_token": (1, 1, 8), "vit.embeddings.position_embeddings": (1, 7, 8)}
    for name, shape in modules.items():
        expected |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    found = arrays_of(tmp_path)
    assert {name: array.shape for name, array in found.items()} == expected
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="numpy") as opened:
        assert opened.metadata() == {"format": "pt"}  # without it, transformers refuses the file


@pytest.mark.parametrize("fields", [{}, {"activation": "gelu_exact"}, {"qkv_bias": False}], ids=str)
def test_the_arrays_compute_the_same_logits_by_pytorchs_conventions(fields, tmp_path):
    config, params = made(**fields)
    hugging_face.save_vit(tmp_path, params, config, class_names="abcde")
    stored = json.loads((tmp_path / "config.json").read_text())
    arrays, exact = arrays_of(tmp_path), stored["hidden_act"] == "gelu"
    tokens = plain_vit.encoded(arrays, IMAGES, stored["num_attention_heads"], stored["num_hidden_layers"], exact)
    found = tokens[:, 0] @ arrays["classifier.weight"].T + arrays["classifier.bias"]
    np.testing.assert_allclose(found, logits(config, params), rtol=1e-4, atol=1e-5)
    assert stored["id2label"] == {"0": "a", "1": "b", "2": "c", "3": "d", "4": "e"} and stored["image_size"] == [4, 6]


@pytest.mark.parametrize("fields", [{}, {"activation": "gelu_exact", "qkv_bias": False, "image_size": (4, 4)}], ids=str)
def test_there_and_back_changes_nothing(fields, tmp_path):
    config, params = made(tmp_path, **fields)
    again, loaded = hugging_face.load_vit(tmp_path)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_transformers_reads_it_and_computes_the_same_logits(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    for fields in ({}, {"activation": "gelu_exact"}):
        config, params = made(tmp_path, **fields)
        model = transformers.ViTForImageClassification.from_pretrained(tmp_path).eval()
        with torch.no_grad():
            theirs = model(torch.tensor(IMAGES.transpose(0, 3, 1, 2))).logits.numpy()
        np.testing.assert_allclose(logits(config, params), theirs, atol=1e-5)


def test_models_without_a_place_in_the_layout_are_refused_by_name(tmp_path):
    config, params = made()
    experts = {"moe": configs.MoEConfig(num_experts=2), "moe_blocks": (1,)}
    broken = params | {"head": params["head"] | {"bias": np.array([0, np.nan, 0, 0, 0], np.float32)}}
    for changes, tree, names, reason in (
        ({"pool": "gap"}, params, (), "no place for this model: pool is 'gap', not 'tok'"),
        (experts, params, (), "moe is MoEConfig"),
        ({"parallel": True, "qk_norm": True}, params, (), "parallel is True, not False; qk_norm is True, not False"),
        ({"num_classes": 0}, params, (), "num_classes is 0, a model without a head"),
        ({"depth": 1}, params, (), r"The model does not fit .*extra: Transformer/encoderblock_1/"),
        ({}, params, "ab", "There are 2 class names, 2 different; the model has 5 classes"),
        ({}, params, "abcda", "There are 5 class names, 4 different"),  # label2id would have four
        ({}, broken, (), "The model is refused: head/bias holds nan"),
    ):
        with pytest.raises(ValueError, match=reason):
            hugging_face.save_vit(tmp_path / "refused", tree, config.replace(**changes), class_names=names)
    with pytest.raises(ValueError, match="Got a T5Config, expected a ViTConfig"):
        hugging_face.save_vit(tmp_path / "refused", params, configs.t5("tiny"))
    assert not (tmp_path / "refused").exists()


def test_damaged_folders_are_refused_by_name(tmp_path):
    made(tmp_path)
    stored, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    good, whole = stored.read_text(), weights.read_bytes()
    for old, new, reason in (
        ('"vit"', '"beit"', r"config\.json .*no model .*'beit'"),
        ("{", "[", r"config\.json .*truncated or not a JSON file"),
        ('"hidden_size": 8', '"hidden_size": 16', r"model\.safetensors does not fit .*misshapen"),
        # A matrix of 4 TB, which must not be made to compare its shape.
        ('"hidden_size": 8', '"hidden_size": 1000000', r"model\.safetensors does not fit .*misshapen"),
    ):
        stored.write_text(good.replace(old, new))
        with pytest.raises(CheckpointError, match=reason):
            hugging_face.load_vit(tmp_path)
    stored.write_text(good)
    arrays = arrays_of(tmp_path)
    del arrays["classifier.weight"]  # not left out with the bias alone
    safetensors.numpy.save_file(arrays, weights)
    with pytest.raises(CheckpointError, match=r"missing: classifier\.weight"):
        hugging_face.load(tmp_path)
    weights.write_bytes(whole[:-8])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        hugging_face.load_vit(tmp_path)


def test_a_vit_without_a_classifier_gives_the_normed_class_token(tmp_path):
    """The folder as transformers writes a ViTModel: without the prefix and the classifier, with a pooler."""
    config, params = made(tmp_path)
    arrays = {n.removeprefix("vit."): array for n, array in arrays_of(tmp_path).items() if n.startswith("vit.")}
    pooler = {"pooler.dense.weight": np.ones((8, 8), np.float32), "pooler.dense.bias": np.ones(8, np.float32)}
    safetensors.numpy.save_file(arrays | pooler, tmp_path / "model.safetensors")
    found, loaded = hugging_face.load(tmp_path)
    assert found == config.replace(num_classes=0) and "head" not in loaded
    encoded = zoo.applied(ViT(config))(params, IMAGES)[1]["encoded"]
    np.testing.assert_allclose(logits(found, loaded), encoded[:, 0], atol=1e-6)


T5 = {"model_type": "t5", "vocab_size": 40, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_heads": 2, "num_layers": 3}
T5 |= {"num_decoder_layers": 2, "layer_norm_epsilon": 1e-6, "tie_word_embeddings": False}
T5["feed_forward_proj"] = "gated-gelu"
UNSCALED = {"tie_word_embeddings": True, "scale_decoder_outputs": False}


def copied(folder, case, stated):
    """A folder with the reference's weights and what config.json states."""
    shutil.copy(zoo.REFERENCE / f"t5_{case}.safetensors", folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(T5 | stated))


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
    copied(tmp_path, case, stated)
    config, params = hugging_face.load(tmp_path)
    with np.load(zoo.REFERENCE / "t5.npz") as tensors:
        inputs, targets, expected = (tensors[f"{case}/{name}"] for name in ("inputs", "targets", "logits"))
    shifted = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
    found, _ = zoo.applied(t5.T5(config))(params, inputs, shifted)
    np.testing.assert_allclose(found, factor * expected, rtol=1e-4, atol=2e-4)
    with pytest.raises(CheckpointError, match="holds a T5, expected a ViT"):
        hugging_face.load_vit(tmp_path)


def test_a_head_that_the_file_should_have_is_not_made_up(tmp_path):
    copied(tmp_path, "tied", {})
    with pytest.raises(CheckpointError, match="missing: decoder/logits_dense/kernel"):
        hugging_face.load(tmp_path)
    copied(tmp_path, "tied", UNSCALED)
    tied = hugging_face.load(tmp_path)[0].replace(tied=True)
    with pytest.raises(CheckpointError, match=r"config\.json states T5Config.*got .*tied=True"):
        checkpoint.load_t5(tmp_path / "model.safetensors", tied)  # logits would be wrong by a factor of 4
