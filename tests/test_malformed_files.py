"""Every loader of the kit on malformed files: refused in one sentence that names the file, or equal to the original.

Cut, flipped, overwritten, doubled, shortened and exchanged bytes (`malformed`), 1,160 files in all. Three formats carry
no checksum, so a changed number in them is read as it is: .safetensors (models/test_checkpoint_files.py), ONNX, and
Hugging Face's config.json; there, names and shapes are never wrong silently. Official files of public sets are in
multimodal/test_public_sets.py.
"""

import io
import shutil

import jax
import numpy as np
import pytest
from malformed import malformed
from trees import random_params

from kitlib import configs, data
from kitlib.data import captioned, files, texts, tokenizer
from kitlib.models import checkpoint, checkpoint_files, dinov2, hugging_face
from kitlib.models.checkpoint import kit_config
from kitlib.models.checkpoint_files import CheckpointError
from kitlib.multimodal import kit_data
from kitlib.studies import tables

VIT = configs.vit("tiny/7", image_size=(14, 14), channels=1, num_classes=3).replace(width=8, depth=1, mlp_dim=8)
T5 = configs.t5("tiny").replace(width=8, mlp_dim=8, num_heads=2, head_dim=4, vocab_size=16)


def flat(params) -> dict[str, np.ndarray]:
    paths = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in paths}


def packed(arrays: dict[str, np.ndarray]) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def check(path, read, expected, count: int, seed: int, errors=(ValueError, FileNotFoundError)) -> None:
    """`count` malformed versions of the file at `path`; at least a third of them are refused."""
    content, rng, refused = path.read_bytes(), np.random.default_rng(seed), 0
    for _ in range(count):
        path.write_bytes(malformed(content, rng))
        try:
            found = read()
        except errors as error:
            assert path.name in str(error) and "\n" not in str(error), error
            refused += 1
            continue
        if expected is not None:
            jax.tree.map(np.testing.assert_array_equal, found, expected)
    path.write_bytes(content)
    jax.tree.map(np.testing.assert_array_equal, read(), expected if expected is not None else read())
    assert refused >= count / 3


@pytest.mark.parametrize("config", [VIT, T5], ids=["vit", "t5"])
def test_public_checkpoints(config, tmp_path):
    params, path = random_params(config, spread=0.1), tmp_path / "model.npz"
    path.write_bytes(packed(flat(params)))
    load = checkpoint.load_vit if config is VIT else checkpoint.load_t5
    check(path, lambda: load(path, config), params, 150, seed=0, errors=CheckpointError)


def test_the_kits_own_weights(tmp_path):
    params, path = random_params(VIT, spread=0.1), tmp_path / "own.safetensors"
    checkpoint.save(path, params)
    expected = checkpoint.load(path, params)
    check(path, lambda: checkpoint.load(path, params), expected, 150, seed=1, errors=CheckpointError)


def test_configurations_of_hugging_face(tmp_path):
    """No checksum, so another number may be read as it is; nothing else is an answer."""
    hugging_face.save_vit(tmp_path, random_params(VIT, spread=0.1), VIT)
    path = tmp_path / "config.json"
    check(path, lambda: repr(kit_config(checkpoint_files.read_json(path), path)), None, 100, 6, CheckpointError)


def test_stored_tables(tmp_path):
    for name in ("checksums.txt", "palix_connector.csv"):
        shutil.copy(data.data_folder() / "results" / name, tmp_path)
    expected = tables.read_table("palix", "connector", tmp_path).to_dict()
    read = lambda: tables.read_table("palix", "connector", tmp_path).to_dict()  # noqa: E731
    check(tmp_path / "palix_connector.csv", read, expected, 100, seed=7)


def test_files_of_studies(tmp_path):
    path = tmp_path / "training-00-0.npz"
    arrays = {"test": np.arange(12.0).reshape(3, 4), "few": np.ones((2, 2), np.float32), "data": np.array('{"a": 1}')}
    files.write_npz(path, arrays)
    check(path, lambda: files.read_arrays(path), arrays, 150, seed=2)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        files.read_arrays(path)


def test_onnx_files(tmp_path):
    onnx = pytest.importorskip("onnx")
    path, rng = tmp_path / "small.onnx", np.random.default_rng(0)
    tensors = [onnx.numpy_helper.from_array(rng.normal(size=(3, 4)).astype(np.float32), f"t{i}") for i in range(3)]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "made", [], [], tensors)), path)
    check(path, lambda: dinov2.read_onnx(path), None, 100, seed=3, errors=CheckpointError)


def refused(path, read) -> None:
    """20 malformed versions of a file whose checksum stands beside it: whatever has changed is refused."""
    content, rng = path.read_bytes(), np.random.default_rng(4)
    for damaged in (malformed(content, rng) for _ in range(20)):
        if damaged != content:
            path.write_bytes(damaged)
            texts._table.cache_clear()
            with pytest.raises(ValueError, match=f"{path.name} is damaged or was changed") as error:
                read()
            assert "\n" not in str(error.value)
    texts._table.cache_clear()


COMMITTED = {
    "fashion_mnist.npz": lambda folder: data.load("fashion_mnist", data_dir=folder).arrays(),
    "glosses.txt.gz": lambda folder: data.glosses(data_dir=folder),
    "emoji.npz": lambda folder: captioned.emoji(data_dir=folder).images,
    "emoji_names.json.gz": lambda folder: captioned.emoji(data_dir=folder).names["de"],
    "easy_vqa.npz": lambda folder: captioned.easy_vqa("test", data_dir=folder).image_index,
    "taxonomy.json.gz": lambda folder: captioned.taxonomy(data_dir=folder),
    "names.txt.gz": lambda folder: texts.facts("held_out", data_dir=folder).inputs,
}


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_files(name, tmp_path):
    for file in {name, "checksums.txt", "emoji.npz", "emoji_names.json.gz"}:
        shutil.copy(data.data_folder() / file, tmp_path)
    refused(tmp_path / name, lambda: COMMITTED[name](tmp_path))


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("tokenizer.model", tokenizer.Tokenizer.load),
        ("multilingual.model", tokenizer.multilingual),
        ("visual_codebook.npz", kit_data.codebook.__wrapped__),
    ],
)
def test_committed_files_without_a_folder_to_choose(name, load, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for file in (name, "checksums.txt"):
        shutil.copy(data.data_folder() / file, tmp_path / "data")
    monkeypatch.setattr(files, "ROOT", tmp_path)
    refused(tmp_path / "data" / name, load)
