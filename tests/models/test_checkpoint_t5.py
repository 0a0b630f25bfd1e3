"""Loading T5s: names and conventions. The numbers from a file of Hugging Face are tested in test_t5.py."""

import json
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict
from trees import random_params

from kitlib import configs
from kitlib.models import checkpoint

FILE = pathlib.Path(__file__).parents[1] / "reference" / "t5_gelu.safetensors"
CONFIG = configs.T5Config(
    vocab_size=40, width=16, num_encoder_layers=3, num_decoder_layers=2, mlp_dim=24, num_heads=2, head_dim=6
)
# One leaf of each kind: the kit's name, and Hugging Face's without ".weight".
NAMES = {
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


def leaves():
    return safetensors.numpy.load_file(FILE)


def loaded(path, arrays, config=CONFIG):
    """The parameters, by way of a file."""
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, path)
    else:
        np.savez(path, **arrays)
    return checkpoint.load_t5(path, config)


def assert_as_in_the_file(params):
    jax.tree.map(np.testing.assert_array_equal, params, checkpoint.load_t5(FILE, CONFIG))


def test_every_leaf_of_hugging_face_becomes_the_right_one():
    stored, params = leaves(), flatten_dict(checkpoint.load_t5(FILE, CONFIG), sep="/")
    for name, theirs in NAMES.items():
        leaf = stored[f"{theirs}.weight"]
        leaf = leaf if name == "token_embedder/embedding" else leaf.T
        np.testing.assert_array_equal(params[name], leaf, err_msg=name)
    assert len(params) == len(stored)


def test_copies_of_the_embedding_table_are_left_out(tmp_path):
    more, path = leaves(), tmp_path / "model.safetensors"
    more |= {f"{stack}.embed_tokens.weight": more["shared.weight"] for stack in ("encoder", "decoder")}
    assert_as_in_the_file(loaded(path, more))
    more["lm_head.weight"] = more["shared.weight"]  # of a tied head, too
    assert "logits_dense" not in loaded(path, more, CONFIG.replace(tied=True))["decoder"]
    with pytest.raises(checkpoint.CheckpointError, match="extra: decoder/logits_dense/kernel"):
        checkpoint.load_t5(FILE, CONFIG.replace(tied=True))


def test_names_of_t5x_are_those_of_the_kit(tmp_path):
    params = flatten_dict(checkpoint.load_t5(FILE, CONFIG), sep="/")
    assert_as_in_the_file(loaded(tmp_path / "bare.npz", params))
    state = {"state/step": np.array(1_000_000), "state/param_states/decoder/decoder_norm/scale/v": np.ones(16)}
    assert_as_in_the_file(loaded(tmp_path / "t5x.npz", state | {f"target/{name}": x for name, x in params.items()}))
    config = configs.sparse_t5("tiny", vocab_size=30)
    sparse = flatten_dict(random_params(config), sep="/")
    again = flatten_dict(loaded(tmp_path / "sparse.npz", sparse, config), sep="/")
    jax.tree.map(np.testing.assert_array_equal, again, sparse)


def test_names_are_those_of_the_published_base():
    """All 282 leaves of T5 1.1 Base, by name and shape in the file."""
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


STATED = {"model_type": "t5", "vocab_size": 40, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_heads": 2, "num_layers": 3}
STATED |= {"num_decoder_layers": 2, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


def test_a_configuration_beside_the_file_must_agree(tmp_path):
    path, stated = tmp_path / "model.safetensors", tmp_path / "config.json"
    stated.write_text(json.dumps(STATED | {"dropout_rate": 0.1}))
    assert_as_in_the_file(loaded(path, leaves(), CONFIG.replace(dropout=0.1, dtype="bfloat16", remat="full")))
    for fields, changes in (
        ({}, {"activation": "silu"}),
        ({}, {"rel_max_distance": 64}),
        ({}, {"num_heads": 3, "head_dim": 4}),  # the same shapes of all kernels
        ({"tie_word_embeddings": True}, {}),
        ({"model_type": "vit"}, {}),
    ):
        stated.write_text(json.dumps(STATED | fields))
        with pytest.raises(checkpoint.CheckpointError, match=r"config\.json states .*, got .*hugging_face\.load"):
            checkpoint.load_t5(path, CONFIG.replace(**changes))
