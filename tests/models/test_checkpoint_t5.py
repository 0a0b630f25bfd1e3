"""Loading T5s: names, conventions, refused files. The numbers from a file of Hugging Face are tested in test_t5.py."""

import json
import pathlib
import pickle
import zipfile

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

from kitlib import configs
from kitlib.models import checkpoint, checkpoint_names

FILE = pathlib.Path(__file__).parents[1] / "reference" / "t5_gelu.safetensors"
CONFIG = configs.T5Config(
    vocab_size=40, width=16, num_encoder_layers=3, num_decoder_layers=2, mlp_dim=24, num_heads=2, head_dim=6
)
D, INNER, F = 16, 12, 24


def leaves():
    return safetensors.numpy.load_file(FILE)


def saved(path, arrays):
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, path)
    else:
        np.savez(path, **arrays)
    return path


def test_every_leaf_of_hugging_face_becomes_the_right_one():
    stored, params = leaves(), flatten_dict(checkpoint.load_t5(FILE, CONFIG), sep="/")
    pairs = {
        "token_embedder/embedding": stored["shared.weight"],  # not transposed
        "decoder/logits_dense/kernel": stored["lm_head.weight"].T,
        "encoder/relpos_bias/rel_embedding": stored[
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        ].T,
        "decoder/relpos_bias/rel_embedding": stored[
            "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        ].T,
        "encoder/encoder_norm/scale": stored["encoder.final_layer_norm.weight"],
        "decoder/decoder_norm/scale": stored["decoder.final_layer_norm.weight"],
        "encoder/layers_2/pre_attention_layer_norm/scale": stored["encoder.block.2.layer.0.layer_norm.weight"],
        "encoder/layers_2/attention/query/kernel": stored["encoder.block.2.layer.0.SelfAttention.q.weight"].T,
        "encoder/layers_2/attention/out/kernel": stored["encoder.block.2.layer.0.SelfAttention.o.weight"].T,
        "encoder/layers_1/pre_mlp_layer_norm/scale": stored["encoder.block.1.layer.1.layer_norm.weight"],
        "encoder/layers_1/mlp/wi_1/kernel": stored["encoder.block.1.layer.1.DenseReluDense.wi_1.weight"].T,
        "decoder/layers_1/pre_self_attention_layer_norm/scale": stored["decoder.block.1.layer.0.layer_norm.weight"],
        "decoder/layers_1/self_attention/key/kernel": stored["decoder.block.1.layer.0.SelfAttention.k.weight"].T,
        "decoder/layers_1/pre_cross_attention_layer_norm/scale": stored["decoder.block.1.layer.1.layer_norm.weight"],
        "decoder/layers_1/encoder_decoder_attention/value/kernel": stored[
            "decoder.block.1.layer.1.EncDecAttention.v.weight"
        ].T,
        "decoder/layers_0/pre_mlp_layer_norm/scale": stored["decoder.block.0.layer.2.layer_norm.weight"],
        "decoder/layers_0/mlp/wo/kernel": stored["decoder.block.0.layer.2.DenseReluDense.wo.weight"].T,
    }
    for name, leaf in pairs.items():
        np.testing.assert_array_equal(params[name], leaf, err_msg=name)
    assert len(params) == len(stored)


def test_copies_of_the_embedding_table_are_left_out(tmp_path):
    more = leaves()
    more |= {f"{stack}.embed_tokens.weight": more["shared.weight"] for stack in ("encoder", "decoder")}
    loaded = checkpoint.load_t5(saved(tmp_path / "model.safetensors", more), CONFIG)
    jax.tree.map(np.testing.assert_array_equal, loaded, checkpoint.load_t5(FILE, CONFIG))


def test_names_of_t5x_are_those_of_the_kit(tmp_path):
    params = checkpoint.load_t5(FILE, CONFIG)
    flat = {f"target/{name}": np.asarray(leaf) for name, leaf in flatten_dict(params, sep="/").items()}
    flat["state/step"] = np.array(1_000_000)
    flat["state/param_states/decoder/decoder_norm/scale/v"] = np.ones(D, np.float32)
    loaded = checkpoint.load_t5(saved(tmp_path / "t5x.npz", flat), CONFIG)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    bare = {name.removeprefix("target/"): leaf for name, leaf in flat.items() if name.startswith("target/")}
    loaded = checkpoint.load_t5(saved(tmp_path / "bare.npz", bare), CONFIG)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_a_sparse_model_is_loaded_by_the_names_of_the_kit(tmp_path):
    config = configs.sparse_t5("tiny", vocab_size=30)
    shapes = flatten_dict(checkpoint.expected_shapes(config), sep="/")
    rng = np.random.default_rng(0)
    flat = {f"target/{name}": rng.normal(size=s.shape).astype(np.float32) for name, s in shapes.items()}
    params = flatten_dict(checkpoint.load_t5(saved(tmp_path / "sparse.npz", flat), config), sep="/")
    assert params["encoder/layers_1/moe/Mlp/wi_0/kernel"].shape == (32, 64, 128)
    for name, leaf in params.items():
        np.testing.assert_array_equal(leaf, flat[f"target/{name}"])


def test_bfloat16_becomes_float32(tmp_path):
    half = {name: leaf.astype(ml_dtypes.bfloat16) for name, leaf in leaves().items()}
    params = checkpoint.load_t5(saved(tmp_path / "half.safetensors", half), CONFIG)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(params["token_embedder"]["embedding"], half["shared.weight"].astype(np.float32))


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
    checkpoint.compare(checkpoint_names.t5_names(flat), expected, "model.safetensors")


def test_missing_extra_and_misshapen_leaves_are_named(tmp_path):
    odd = leaves()
    del odd["encoder.final_layer_norm.weight"]
    odd["encoder.block.0.layer.1.DenseReluDense.wi.weight"] = np.zeros((F, D), np.float32)  # of T5 1.0, not gated
    odd["surprise.weight"] = np.zeros(3, np.float32)
    odd["decoder.block.0.layer.0.SelfAttention.q.weight"] = np.zeros((INNER, D + 1), np.float32)
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.load_t5(saved(tmp_path / "odd.safetensors", odd), CONFIG)
    message = str(error.value)
    assert "odd.safetensors" in message
    assert "missing: encoder/encoder_norm/scale" in message
    assert "extra: encoder/layers_0/mlp/wi/kernel, surprise.weight" in message
    assert "misshapen: decoder/layers_0/self_attention/query/kernel is (17, 12), expected (16, 12)" in message


def test_another_model_is_refused():
    with pytest.raises(checkpoint.CheckpointError, match="extra: decoder/logits_dense/kernel"):
        checkpoint.load_t5(FILE, CONFIG.replace(tied=True))
    with pytest.raises(checkpoint.CheckpointError, match="missing: encoder/layers_3/"):
        checkpoint.load_t5(FILE, CONFIG.replace(num_encoder_layers=4))


@pytest.mark.parametrize("keep", [0, 5, 500, -20])
def test_truncated_file(tmp_path, keep):
    path = tmp_path / "short.safetensors"
    path.write_bytes(FILE.read_bytes()[:keep])
    with pytest.raises(checkpoint.CheckpointError, match=r"short.safetensors is truncated or not"):
        checkpoint.load_t5(path, CONFIG)


def test_missing_file(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match=r"no checkpoint file .*nowhere.safetensors"):
        checkpoint.load_t5(tmp_path / "nowhere.safetensors", CONFIG)


class Bomb:
    """Unpickling this object would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.npz"])
def test_pickles_are_refused_and_not_run(tmp_path, name):
    trace, path = tmp_path / "trace", tmp_path / name
    path.write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(checkpoint.CheckpointError, match=r"refused|not a"):
        checkpoint.load_t5(path, CONFIG)
    assert not trace.exists()


def test_zip_files_of_pytorch_are_refused_and_not_run(tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Bomb(trace)))
    with pytest.raises(checkpoint.CheckpointError, match=r"pytorch_model.bin is refused.*archive/data.pkl"):
        checkpoint.load_t5(path, CONFIG)
    assert not trace.exists()


STATED = {"model_type": "t5", "vocab_size": 40, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_heads": 2, "num_layers": 3}
STATED |= {"num_decoder_layers": 2, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


@pytest.mark.parametrize(
    ("stated", "config"),
    [
        (STATED, CONFIG.replace(activation="silu")),
        (STATED, CONFIG.replace(rel_max_distance=64)),
        (STATED, CONFIG.replace(num_heads=3, head_dim=4)),  # the same shapes of all kernels
        (STATED | {"tie_word_embeddings": True}, CONFIG),
        ({"model_type": "vit"}, CONFIG),
    ],
)
def test_a_configuration_beside_the_file_that_disagrees_is_refused(stated, config, tmp_path):
    path = saved(tmp_path / "model.safetensors", leaves())
    (tmp_path / "config.json").write_text(json.dumps(stated))
    with pytest.raises(checkpoint.CheckpointError, match=r"config\.json states .*, got .*hugging_face\.load"):
        checkpoint.load_t5(path, config)


def test_a_configuration_beside_the_file_that_agrees(tmp_path):
    path = saved(tmp_path / "model.safetensors", leaves())
    (tmp_path / "config.json").write_text(json.dumps(STATED | {"dropout_rate": 0.1}))
    loaded = checkpoint.load_t5(path, CONFIG.replace(dropout=0.1, dtype="bfloat16", remat="full"))
    jax.tree.map(np.testing.assert_array_equal, loaded, checkpoint.load_t5(FILE, CONFIG))


def test_a_tied_head_may_be_stored_but_not_be_another(tmp_path):
    tied = leaves() | {"lm_head.weight": leaves()["shared.weight"]}
    params = checkpoint.load_t5(saved(tmp_path / "tied.safetensors", tied), CONFIG.replace(tied=True))
    assert "logits_dense" not in params["decoder"]
