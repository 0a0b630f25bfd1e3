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
    with pytest.raises(checkpoint.CheckpointError, match="Two leaves"):
        checkpoint_names.kit_names({"params/cls": np.zeros(1), "cls": np.zeros(1)})


def test_leaves_of_a_t5_that_collide_are_refused():
    with pytest.raises(checkpoint.CheckpointError, match="Two leaves of the checkpoint are called 'x' once renamed"):
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
