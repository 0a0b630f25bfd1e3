"""The names of public checkpoints, leaf by leaf: Google's ViT-B/16 and V-MoE-B/16; blocks stacked and unstacked.

The names of T5 are tested in test_checkpoint_t5.py, the functions of loaded models in test_checkpoint.py.
"""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from kitlib import configs
from kitlib.models import checkpoint, checkpoint_names


def test_names_are_those_of_the_published_b16():
    """Every leaf of Google's ViT-B/16, by its name and shape in the file, becomes one leaf of the kit's tree."""
    heads = {"kernel": (768, 12, 64), "bias": (12, 64)}
    block = {
        "LayerNorm_0": {"scale": (768,), "bias": (768,)},
        "LayerNorm_2": {"scale": (768,), "bias": (768,)},
        "MlpBlock_3": {
            "Dense_0": {"kernel": (768, 3072), "bias": (3072,)},
            "Dense_1": {"kernel": (3072, 768), "bias": (768,)},
        },
        "MultiHeadDotProductAttention_1": {
            "query": heads, "key": heads, "value": heads, "out": {"kernel": (12, 64, 768), "bias": (768,)},
        },
    }  # fmt: skip
    on_disk = {
        "cls": (1, 1, 768),
        "embedding": {"kernel": (16, 16, 3, 768), "bias": (768,)},
        "head": {"kernel": (768, 1000), "bias": (1000,)},
        "Transformer": {
            **{f"encoderblock_{i}": block for i in range(12)},
            "encoder_norm": {"scale": (768,), "bias": (768,)},
            "posembed_input": {"pos_embedding": (1, 197, 768)},
        },
    }
    flat = {name: np.broadcast_to(np.float32(0), shape) for name, shape in flatten_dict(on_disk, sep="/").items()}
    assert len(flat) == 200
    renamed = checkpoint_names.kit_names(flat)
    checkpoint.compare(renamed, flatten_dict(checkpoint.expected_shapes(configs.vit("B/16")), sep="/"), "B_16.npz")
    assert sum(leaf.size for leaf in renamed.values()) == 86_567_656


def test_leaves_that_collide_are_refused():
    with pytest.raises(checkpoint.CheckpointError, match="has two leaves"):
        checkpoint_names.kit_names({"params/cls": np.zeros(1), "cls": np.zeros(1)})


def test_leaves_of_a_t5_that_collide_are_refused():
    with pytest.raises(checkpoint.CheckpointError, match="has two leaves called 'x' once renamed"):
        checkpoint_names.t5_names({"target/x": np.zeros(1), "x": np.zeros(1)})


def test_a_stacked_leaf_without_axes_is_refused():
    with pytest.raises(checkpoint.CheckpointError, match="encoderblock/a is a single number"):
        checkpoint_names.unstack_blocks({"Transformer/encoderblock/a": np.float32(1)})


def test_scanned_blocks_of_big_vision_are_unstacked_by_hand():
    flat = {"Transformer/encoderblock/a": np.array([[1.0, 1.0], [0.0, 0.0]]), "cls": np.ones(1)}
    unstacked = checkpoint_names.unstack_blocks(flat)
    assert {name: leaf.tolist() for name, leaf in unstacked.items()} == {
        "cls": [1.0], "Transformer/encoderblock_0/a": [1.0, 1.0], "Transformer/encoderblock_1/a": [0.0, 0.0],
    }  # fmt: skip


# The leaves of V-MoE-B/16 in google-research/vmoe with 32 experts in the last six blocks, average pooling and 1,000
# classes: 205 leaves, 965,085,928 parameters. Blocks 0 to 5 are dense, blocks 6 to 11 have experts.
VMOE_B16 = {
    "embedding/kernel": (16, 16, 3, 768),
    "embedding/bias": (768,),
    "Encoder/posembed_input/pos_embedding": (1, 196, 768),
    "Encoder/encoder_norm/scale": (768,),
    "Encoder/encoder_norm/bias": (768,),
    "head/kernel": (768, 1000),
    "head/bias": (1000,),
}
VMOE_BLOCK = {
    "LayerNorm_0/scale": (768,),
    "LayerNorm_0/bias": (768,),
    "LayerNorm_1/scale": (768,),
    "LayerNorm_1/bias": (768,),
    **{f"SelfAttention/{name}/kernel": (768, 12, 64) for name in ("query", "key", "value")},
    **{f"SelfAttention/{name}/bias": (12, 64) for name in ("query", "key", "value")},
    "SelfAttention/out/kernel": (12, 64, 768),
    "SelfAttention/out/bias": (768,),
}
VMOE_DENSE = {
    "Mlp/Dense_0/kernel": (768, 3072),
    "Mlp/Dense_0/bias": (3072,),
    "Mlp/Dense_1/kernel": (3072, 768),
    "Mlp/Dense_1/bias": (768,),
}
VMOE_SPARSE = {f"Moe/{name}": (32, *shape) for name, shape in VMOE_DENSE.items()} | {
    "Moe/Router/dense/kernel": (768, 32)
}


def vmoe_leaves():
    leaves = dict(VMOE_B16)
    for i in range(12):
        parts = VMOE_BLOCK | (VMOE_DENSE if i < 6 else VMOE_SPARSE)
        leaves |= {f"Encoder/encoderblock_{i}/{name}": shape for name, shape in parts.items()}
    return {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in leaves.items()}


def test_names_of_v_moe_map_to_the_tree_leaf_by_leaf():
    leaves = vmoe_leaves()
    assert len(leaves) == 205
    assert sum(leaf.size for leaf in leaves.values()) == 965_085_928
    config = configs.vit("B/16", pool="gap", moe=configs.MoEConfig(), moe_blocks=tuple(range(6, 12)))
    expected = flatten_dict(checkpoint.expected_shapes(config), sep="/")
    checkpoint.compare(checkpoint_names.kit_names(leaves), expected, "V-MoE-B/16")


def test_a_v_moe_tree_that_does_not_fit_is_refused_by_name():
    leaves = vmoe_leaves()
    del leaves["Encoder/encoderblock_7/Moe/Router/dense/kernel"]
    config = configs.vit("B/16", pool="gap", moe=configs.MoEConfig(num_experts=16), moe_blocks=tuple(range(6, 12)))
    expected = flatten_dict(checkpoint.expected_shapes(config), sep="/")
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.compare(checkpoint_names.kit_names(leaves), expected, "V-MoE-B/16")
    assert "missing: Transformer/encoderblock_7/Moe/Router/dense/kernel" in str(error.value)
    assert "Moe/Mlp/Dense_0/kernel is (32, 768, 3072), expected (16, 768, 3072)" in str(error.value)


TABLE = np.arange(6.0).reshape(3, 2)
SHARED = {"shared.weight": TABLE, "encoder.embed_tokens.weight": TABLE, "decoder.embed_tokens.weight": TABLE}


def test_equal_copies_of_the_embedding_table_are_one():
    assert list(checkpoint_names.t5_names(SHARED)) == list(checkpoint_names.t5_names(dict([*SHARED.items()][1:])))


@pytest.mark.parametrize(
    ("leaves", "reason"),
    [
        (SHARED | {"encoder.embed_tokens.weight": TABLE + 1}, "two leaves called 'token_embedder/embedding'.* differ"),
        (
            SHARED | {"decoder.embed_tokens.weight": TABLE * np.nan},
            "two leaves .* differ; one is 'decoder.embed_tokens",
        ),
        (SHARED | {"decoder.embed_tokens.weight": TABLE[:2]}, "two leaves .* differ"),
        (SHARED | {"target/encoder/encoder_norm/scale": np.ones(2)}, r"Hugging Face \(shared.weight\) and t5x"),
        ({"encoder.block.0.layer.1.DenseReluDense.wi.weight": TABLE}, "x.file is a T5 1.0: its MLPs are not gated"),
        ({"target/encoder/layers_0/mlp/wi/kernel": TABLE}, "x.file is a T5 1.0: its MLPs are not gated"),
    ],
)
def test_t5s_that_are_ambiguous_or_of_another_kind_are_refused(leaves, reason):
    with pytest.raises(checkpoint.CheckpointError, match=reason):
        checkpoint_names.t5_names(leaves, "x.file")


def test_a_kernel_in_another_sub_layer_is_not_renamed():
    """Cross-attention has no place in layer 0: its query would become that of self-attention."""
    wrong = [
        "decoder.block.0.layer.0.EncDecAttention.q.weight",
        "encoder.block.0.layer.0.SelfAttention.layer_norm.weight",
    ]
    assert list(checkpoint_names.t5_names(dict.fromkeys(wrong, TABLE))) == wrong


# ---------------------------------------------------------------------------------------------- config.json

VIT = {"model_type": "vit"}
T5 = {
    "model_type": "t5",
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 1024,
    "num_layers": 8,
    "num_heads": 6,
    "vocab_size": 32128,
}
T5 |= {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


B16, SMALL = configs.vit("B/16", num_classes=2, activation="gelu_exact"), configs.t5("1.1-small")
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
    assert checkpoint_names.kit_config(stored, "config.json") == config


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        ({"model_type": "beit"}, "model_type 'beit'.*vit, t5, mt5"),
        ({}, "model_type None"),
        (VIT | {"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05; the kit's is 1e-6"),
        (VIT | {"qkv_bias": "no"}, "qkv_bias is 'no'; expected True or False"),
        (VIT | {"hidden_act": "relu"}, "activation 'relu'.*Known: gelu_pytorch_tanh, gelu"),
        (VIT | {"id2label": {"1": "a", "2": "b"}}, "the 2 keys of id2label are not 0 to V - 1"),
        (VIT | {"id2label": {"0": "a"}, "num_labels": 2}, "keys of id2label .* of V = 2 classes"),
        (VIT | {"id2label": 3}, "no len"),
        (VIT | {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; expected a whole number from 1 to 1000"),
        (VIT | {"hidden_size": "8"}, "hidden_size is '8'; expected a whole number"),
        (VIT | {"image_size": [224, 0]}, "image_size is 0"),
        (VIT | {"image_size": [224]}, "image_size"),
        (T5 | {"feed_forward_proj": "relu"}, "'relu', a T5 1.0, whose MLPs are not gated"),
        (T5 | {"feed_forward_proj": None}, "'relu', a T5 1.0"),
        (T5 | {"feed_forward_proj": "gated-relu"}, "activation 'gated-relu'"),
        (T5 | {"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon is 1e-05; the kit's is 1e-6"),
        (T5 | {"scale_decoder_outputs": "no"}, "scale_decoder_outputs is 'no'; expected True or False"),
        (T5 | {"d_model": None}, "d_model is None; expected a whole number"),
        (T5 | {"relative_attention_num_buckets": 30}, "multiple of 4"),
    ],
)
def test_what_the_kits_models_cannot_be_is_refused_by_name(stored, reason):
    with pytest.raises(checkpoint.CheckpointError, match=rf"config\.json describes no model .*{reason}"):
        checkpoint_names.kit_config(stored, "config.json")
