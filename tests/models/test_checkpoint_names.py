"""The names of public checkpoints, leaf by leaf: Google's ViT-B/16 and V-MoE-B/16; blocks stacked and unstacked.

The names of T5 are tested in test_checkpoint_t5.py, the functions of loaded models in test_checkpoint.py.
"""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import zoo
from flax.traverse_util import flatten_dict
from trees import random_params

from kitlib import configs
from kitlib.models import checkpoint
from kitlib.models.checkpoint_files import CheckpointError

# The shapes of both B/16.
NORM = {"scale": (768,), "bias": (768,)}
HEADS = {"kernel": (768, 12, 64), "bias": (12, 64)}
ATTENTION = dict.fromkeys(("query", "key", "value"), HEADS) | {"out": {"kernel": (12, 64, 768), "bias": (768,)}}
UP, DOWN = {"kernel": (768, 3072), "bias": (3072,)}, {"kernel": (3072, 768), "bias": (768,)}
PATCHES, HEAD = {"kernel": (16, 16, 3, 768), "bias": (768,)}, {"kernel": (768, 1000), "bias": (1000,)}


def compare(tree, config, count, parameters, file):
    """Every leaf, by its name and shape in the file, becomes one leaf of the kit's tree."""
    flat = {n: jax.ShapeDtypeStruct(shape, np.float32) for n, shape in flatten_dict(tree, sep="/").items()}
    assert len(flat) == count and sum(leaf.size for leaf in flat.values()) == parameters
    expected = flatten_dict(checkpoint.expected_shapes(config), sep="/")
    checkpoint.compare(checkpoint.kit_names(flat), expected, file)


def test_names_are_those_of_the_published_b16():
    block = {"LayerNorm_0": NORM, "MultiHeadDotProductAttention_1": ATTENTION, "LayerNorm_2": NORM}
    block["MlpBlock_3"] = {"Dense_0": UP, "Dense_1": DOWN}
    blocks = {f"encoderblock_{i}": block for i in range(12)}
    around = {"encoder_norm": NORM, "posembed_input": {"pos_embedding": (1, 197, 768)}}
    tree = {"cls": (1, 1, 768), "embedding": PATCHES, "head": HEAD, "Transformer": blocks | around}
    compare(tree, configs.vit("B/16"), 200, 86_567_656, "B_16.npz")


def test_names_of_v_moe_map_to_the_tree_leaf_by_leaf():
    """V-MoE-B/16 in google-research/vmoe with 32 experts in the last six blocks, average pooling and 1,000 classes."""
    mlp = {"Dense_0": UP, "Dense_1": DOWN}
    experts = {n: {leaf: (32, *shape) for leaf, shape in layer.items()} for n, layer in mlp.items()}
    dense, sparse = {"Mlp": mlp}, {"Moe": {"Mlp": experts, "Router": {"dense": {"kernel": (768, 32)}}}}
    block = {"LayerNorm_0": NORM, "LayerNorm_1": NORM, "SelfAttention": ATTENTION}
    encoder = {f"encoderblock_{i}": block | (dense if i < 6 else sparse) for i in range(12)}
    encoder |= {"encoder_norm": NORM, "posembed_input": {"pos_embedding": (1, 196, 768)}}
    config = configs.vit("B/16", pool="gap", moe=configs.MoEConfig(), moe_blocks=tuple(range(6, 12)))
    compare({"embedding": PATCHES, "Encoder": encoder, "head": HEAD}, config, 205, 965_085_928, "V-MoE-B/16")


def test_scanned_blocks_of_big_vision_are_unstacked_by_hand():
    flat = {"Transformer/encoderblock/a": np.array([[1.0, 1.0], [0.0, 0.0]]), "cls": np.ones(1)}
    unstacked = checkpoint.unstack_blocks(flat)
    assert {name: leaf.tolist() for name, leaf in unstacked.items()} == {
        "cls": [1.0], "Transformer/encoderblock_0/a": [1.0, 1.0], "Transformer/encoderblock_1/a": [0.0, 0.0],
    }  # fmt: skip


TABLE = np.arange(6.0).reshape(3, 2)


def test_what_is_ambiguous_or_of_another_kind_is_refused():
    vit, t5, copy = checkpoint.kit_names, checkpoint.t5_names, "decoder.embed_tokens.weight"
    for rename, leaves, reason in (
        (vit, {"params/cls": TABLE, "cls": TABLE}, "two leaves called 'cls' once renamed"),
        (vit, {"Transformer/encoderblock/a": np.float32(1)}, "Transformer/.*a is a single number"),
        (t5, {"target/x": TABLE, "x": TABLE}, "two leaves called 'x' once renamed"),
        (t5, {"shared.weight": TABLE, copy: TABLE + 1}, "two leaves called 'token_embedder/embedding'.* differ"),
        (t5, {"shared.weight": TABLE, copy: TABLE * np.nan}, "differ; one is 'decoder.embed_tokens"),
        (t5, {"shared.weight": TABLE, copy: TABLE[:2]}, "two leaves .* differ"),
        (t5, {"shared.weight": TABLE, "target/x": TABLE}, r"Hugging Face \(shared.weight\) and t5x"),
        (t5, {"encoder.block.0.layer.1.DenseReluDense.wi.weight": TABLE}, "is a T5 1.0: its MLPs are not gated"),
        (t5, {"target/encoder/layers_0/mlp/wi/kernel": TABLE}, "is a T5 1.0: its MLPs are not gated"),
    ):
        with pytest.raises(CheckpointError, match=rf"x\.file.* {reason}"):
            rename(leaves, "x.file")


def test_a_kernel_in_another_sub_layer_is_not_renamed():
    """Cross-attention has no place in layer 0: its query would become that of self-attention."""
    wrong = ("decoder.block.0.layer.0.EncDecAttention.q", "encoder.block.0.layer.0.SelfAttention.layer_norm")
    wrong = [f"{name}.weight" for name in wrong]
    assert list(checkpoint.t5_names(dict.fromkeys(wrong, TABLE))) == wrong


VIT, B16 = {"model_type": "vit"}, configs.vit("B/16", num_classes=2, activation="gelu_exact")
T5, SMALL = {"model_type": "t5", "d_model": 512, "d_kv": 64, "d_ff": 1024}, configs.t5("1.1-small")
T5 |= {"num_layers": 8, "num_heads": 6, "vocab_size": 32128}
T5 |= {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
MT5 = T5 | {"model_type": "mt5", "tie_word_embeddings": True}


@pytest.mark.parametrize(
    ("stored", "config"),
    [
        (VIT, B16),  # as transformers.ViTConfig()
        (VIT | {"id2label": {"0": "crane", "1": "crane", "2": "x"}}, B16.replace(num_classes=3)),
        (VIT | {"num_labels": 7, "hidden_act": "gelu_pytorch_tanh"}, B16.replace(num_classes=7, activation="gelu")),
        (VIT | {"image_size": [32, 64], "hidden_act": None, "layer_norm_eps": 1e-6}, B16.replace(image_size=(32, 64))),
        (T5, SMALL),
        (T5 | {"num_decoder_layers": 3, "dropout_rate": 0.1}, SMALL.replace(num_decoder_layers=3)),
        (T5 | {"feed_forward_proj": "gated-silu"}, SMALL.replace(activation="silu")),
        (T5 | {"tie_word_embeddings": None}, SMALL.replace(tied=True)),
        (T5 | {"tie_word_embeddings": True, "scale_decoder_outputs": False}, SMALL),
        (MT5 | {"feed_forward_proj": None, "tie_word_embeddings": False}, SMALL),
        (MT5 | {"transformers_version": "5.2"}, SMALL),
        (MT5 | {"transformers_version": "4.57"}, SMALL.replace(tied=True)),
    ],
)
def test_a_stated_configuration_is_that_of_the_kit(stored, config):
    """ImageNet itself has two classes called crane."""
    assert checkpoint.kit_config(stored, "config.json") == config


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        ({"model_type": "beit"}, "model_type 'beit'.*vit, t5, mt5"),
        (VIT | {"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05; the kit's is 1e-6"),
        (VIT | {"qkv_bias": "no"}, "qkv_bias is 'no'; expected True or False"),
        (VIT | {"hidden_act": "relu"}, "activation 'relu'.*Known: gelu_pytorch_tanh, gelu"),
        (VIT | {"id2label": {"1": "a", "2": "b"}}, "the 2 keys of id2label are not 0 to V - 1"),
        (VIT | {"id2label": 3}, "no len"),
        (VIT | {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; expected a whole number from 1 to 1000"),
        (VIT | {"image_size": [224, 0]}, "image_size is 0"),
        (VIT | {"image_size": [224]}, "image_size"),
        (T5 | {"feed_forward_proj": None}, "'relu', a T5 1.0"),
        (T5 | {"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon is 1e-05; the kit's is 1e-6"),
        (T5 | {"scale_decoder_outputs": "no"}, "scale_decoder_outputs is 'no'; expected True or False"),
        (T5 | {"d_model": None}, "d_model is None; expected a whole number"),
        (T5 | {"relative_attention_num_buckets": 30}, "multiple of 4"),
    ],
)
def test_what_the_kits_models_cannot_be_is_refused_by_name(stored, reason):
    with pytest.raises(CheckpointError, match=rf"config\.json describes no model .*{reason}"):
        checkpoint.kit_config(stored, "config.json")


# --------------------------------------------------------------------------------------------------------- files of T5s


FILE, T5_CONFIG = zoo.REFERENCE / "t5_gelu.safetensors", zoo.T5_CASES["gelu"]
# One leaf of each kind: the kit's name, and Hugging Face's without ".weight".
T5_NAMES = {
    "token_embedder/embedding": "shared",
    "decoder/logits_dense/kernel": "lm_head",
    "encoder/relpos_bias/rel_embedding": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "decoder/relpos_bias/rel_embedding": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "encoder/encoder_norm/scale": "encoder.final_layer_norm",
    "decoder/decoder_norm/scale": "decoder.final_layer_norm",
    "encoder/layers_2/pre_attention_layer_norm/scale": "encoder.block.2.layer.0.layer_norm",
    "encoder/layers_2/attention/query/kernel": "encoder.block.2.layer.0.SelfAttention.q",
    "encoder/layers_2/attention/out/kernel": "encoder.block.2.layer.0.SelfAttention.o",
    "encoder/layers_1/pre_mlp_layer_norm/scale": "encoder.block.1.layer.1.layer_norm",
    "encoder/layers_1/mlp/wi_1/kernel": "encoder.block.1.layer.1.DenseReluDense.wi_1",
    "decoder/layers_1/pre_self_attention_layer_norm/scale": "decoder.block.1.layer.0.layer_norm",
    "decoder/layers_1/self_attention/key/kernel": "decoder.block.1.layer.0.SelfAttention.k",
    "decoder/layers_1/pre_cross_attention_layer_norm/scale": "decoder.block.1.layer.1.layer_norm",
    "decoder/layers_1/encoder_decoder_attention/value/kernel": "decoder.block.1.layer.1.EncDecAttention.v",
    "decoder/layers_0/pre_mlp_layer_norm/scale": "decoder.block.0.layer.2.layer_norm",
    "decoder/layers_0/mlp/wo/kernel": "decoder.block.0.layer.2.DenseReluDense.wo",
}


def t5_leaves():
    return safetensors.numpy.load_file(FILE)


def loaded(path, arrays, config=T5_CONFIG):
    """The parameters, by way of a file."""
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, path)
    else:
        np.savez(path, **arrays)
    return checkpoint.load_t5(path, config)


def assert_as_in_the_file(params):
    jax.tree.map(np.testing.assert_array_equal, params, checkpoint.load_t5(FILE, T5_CONFIG))


def test_every_leaf_of_hugging_face_becomes_the_right_one():
    stored, params = t5_leaves(), flatten_dict(checkpoint.load_t5(FILE, T5_CONFIG), sep="/")
    for name, theirs in T5_NAMES.items():
        leaf = stored[f"{theirs}.weight"]
        leaf = leaf if name == "token_embedder/embedding" else leaf.T
        np.testing.assert_array_equal(params[name], leaf, err_msg=name)
    assert len(params) == len(stored)


def test_copies_of_the_embedding_table_are_left_out(tmp_path):
    more, path = t5_leaves(), tmp_path / "model.safetensors"
    more |= {f"{stack}.embed_tokens.weight": more["shared.weight"] for stack in ("encoder", "decoder")}
    assert_as_in_the_file(loaded(path, more))
    more["lm_head.weight"] = more["shared.weight"]  # of a tied head, too
    assert "logits_dense" not in loaded(path, more, T5_CONFIG.replace(tied=True))["decoder"]
    with pytest.raises(checkpoint.CheckpointError, match="extra: decoder/logits_dense/kernel"):
        checkpoint.load_t5(FILE, T5_CONFIG.replace(tied=True))


def test_names_of_t5x_are_those_of_the_kit(tmp_path):
    params = flatten_dict(checkpoint.load_t5(FILE, T5_CONFIG), sep="/")
    assert_as_in_the_file(loaded(tmp_path / "bare.npz", params))
    state = {"state/step": np.array(1_000_000), "state/param_states/decoder/decoder_norm/scale/v": np.ones(16)}
    assert_as_in_the_file(loaded(tmp_path / "t5x.npz", state | {f"target/{name}": x for name, x in params.items()}))
    config = configs.sparse_t5("tiny", vocab_size=30)
    sparse = flatten_dict(random_params(config), sep="/")
    again = flatten_dict(loaded(tmp_path / "sparse.npz", sparse, config), sep="/")
    jax.tree.map(np.testing.assert_array_equal, again, sparse)


def test_names_are_those_of_the_published_base():
    """All 282 t5_leaves of T5 1.1 Base, by name and shape in the file."""
    attention = dict.fromkeys("qkvo", (768, 768))
    mlp = {"DenseReluDense.wi_0": (2048, 768), "DenseReluDense.wi_1": (2048, 768), "DenseReluDense.wo": (768, 2048)}
    on_disk = {"shared": (32128, 768), "lm_head": (32128, 768)}
    for stack, layers in (("encoder", ["SelfAttention"]), ("decoder", ["SelfAttention", "EncDecAttention"])):
        on_disk[f"{stack}.final_layer_norm"] = (768,)
        on_disk[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias"] = (32, 12)
        for i in range(12):
            for j, layer in enumerate(layers):
                block = f"{stack}.block.{i}.layer.{j}"
                on_disk |= {f"{block}.{layer}.{name}": shape for name, shape in attention.items()}
                on_disk[f"{block}.layer_norm"] = (768,)
            block = f"{stack}.block.{i}.layer.{len(layers)}"
            on_disk |= {f"{block}.{name}": shape for name, shape in mlp.items()} | {f"{block}.layer_norm": (768,)}
    flat = {f"{name}.weight": np.broadcast_to(np.float32(0), shape) for name, shape in on_disk.items()}
    assert len(flat) == 282 and sum(leaf.size for leaf in flat.values()) == 247_577_856
    expected = flatten_dict(checkpoint.expected_shapes(configs.t5("1.1-base")), sep="/")
    checkpoint.compare(checkpoint.t5_names(flat), expected, "model.safetensors")


T5_STATED = {
    "model_type": "t5",
    "vocab_size": 40,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 24,
    "num_heads": 2,
    "num_layers": 3,
}
T5_STATED |= {"num_decoder_layers": 2, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


def test_a_configuration_beside_the_file_must_agree(tmp_path):
    path, stated = tmp_path / "model.safetensors", tmp_path / "config.json"
    stated.write_text(json.dumps(T5_STATED | {"dropout_rate": 0.1}))
    assert_as_in_the_file(loaded(path, t5_leaves(), T5_CONFIG.replace(dropout=0.1, dtype="bfloat16", remat="full")))
    for fields, changes in (
        ({}, {"activation": "silu"}),
        ({}, {"rel_max_distance": 64}),
        ({}, {"num_heads": 3, "head_dim": 4}),  # the same shapes of all kernels
        ({"tie_word_embeddings": True}, {}),
        ({"model_type": "vit"}, {}),
    ):
        stated.write_text(json.dumps(T5_STATED | fields))
        with pytest.raises(checkpoint.CheckpointError, match=r"config\.json states .*, got .*hugging_face\.load"):
            checkpoint.load_t5(path, T5_CONFIG.replace(**changes))
