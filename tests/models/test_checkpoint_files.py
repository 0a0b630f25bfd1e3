"""kitlib.models.checkpoint_files: hundreds of malformed files, each refused by name in one sentence, or harmless."""

import io
import json
import pickle
import struct
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from malformed import malformed

from kitlib import configs
from kitlib.models import checkpoint, checkpoint_files
from kitlib.models.checkpoint_files import CheckpointError

ARRAYS = {
    "head/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "head/bias": np.linspace(-1, 1, 4, dtype=np.float32),
    "cls": np.full((1, 1, 3), 0.5, np.float16),
}


def npz(arrays=ARRAYS, save=np.savez) -> bytes:
    out = io.BytesIO()
    save(out, **arrays)
    return out.getvalue()


def test_missing_and_damaged_files_are_refused_or_harmless(tmp_path):
    """A .safetensors has no checksum: a changed number is read as it is. An .npz that is not refused holds the same:
    dates and the like changed, which nobody reads."""
    npz_reader, path = checkpoint_files.read_npz, tmp_path / "broken"
    for content, read, least in (
        (npz(), npz_reader, 150),
        (npz(save=np.savez_compressed), npz_reader, 150),
        (safetensors.numpy.save(ARRAYS), checkpoint_files.read_safetensors, 100),
    ):
        refused, rng = 0, np.random.default_rng(0)
        for _ in range(250):
            path.write_bytes(malformed(content, rng))
            try:
                found = read(path)
            except CheckpointError as error:
                assert path.name in str(error) and "\n" not in str(error), error
                refused += 1
                continue
            assert all(isinstance(array, np.ndarray) for array in found.values())
            if read is npz_reader:
                assert set(found) == set(ARRAYS)
                for name, array in ARRAYS.items():
                    np.testing.assert_array_equal(found[name], array)
        assert refused > least
        with pytest.raises(CheckpointError, match=r"no checkpoint file .*nowhere"):
            read(tmp_path / "nowhere")


class Bomb:
    """Unpickling this object would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_pickles_are_refused_and_not_run(tmp_path):
    """Bare, as an array of objects, and in a zip file as PyTorch writes it, by every name and loader."""
    trace, objects, torch = tmp_path / "trace", io.BytesIO(), io.BytesIO()
    bare = pickle.dumps(Bomb(trace))
    np.savez(objects, weights=np.array([Bomb(trace)], dtype=object))
    with zipfile.ZipFile(torch, "w") as file:
        file.writestr("archive/data.pkl", bare)
    vit, t5 = (checkpoint.load_vit, configs.vit("tiny/7")), (checkpoint.load_t5, configs.t5("tiny"))
    zips = (objects.getvalue(), "refused|not a"), (torch.getvalue(), "data.pkl|not a")
    for content, reason in ((bare, "not a"), *zips):
        for name, (load, config) in (("a.npz", vit), ("a.npz", t5), ("a.bin", t5), ("a.safetensors", t5)):
            path = tmp_path / name
            path.write_bytes(content)
            with pytest.raises(CheckpointError, match=rf"a\.\w+ is .*({reason})"):
                load(path, config)
    assert not trace.exists()


def entry(dtype="'<f4'", shape="(2,)", body=b"\0" * 8, version=(1, 0)) -> bytes:
    """One array as numpy stores it, with any header."""
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    size = struct.pack("<H" if version[0] == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + size + header + body


BAD_ENTRIES = {
    "huge": entry(shape="(1000000000000,)"),
    "huge in two axes": entry(shape="(4294967296, 4294967296)"),
    "negative": entry(shape="(-2,)"),
    "no shape": entry(shape="'two'"),
    "a float for a shape": entry(shape="(2.0,)"),
    "unknown dtype": entry(dtype="'<f3'"),
    "objects": entry(dtype="'|O'"),
    "code in the header": entry(shape="__import__('os').getpid()"),
    "too long": entry(body=b"\0" * 9),
    "too short": entry(body=b"\0" * 7),
    "version 9": entry(version=(9, 0)),
    "no array": b"hello",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", BAD_ENTRIES)
def test_arrays_that_lie_about_themselves_are_refused(kind, tmp_path):
    path = tmp_path / "lying.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("head/bias.npy", BAD_ENTRIES[kind])
    with pytest.raises(CheckpointError, match=r"^[^\n]*lying\.npz[^\n]*$"):
        checkpoint_files.read_npz(path)


def test_a_small_file_that_unpacks_to_much_is_refused_before_it_does(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as out:
        out.write(entry(shape=f"({2**26},)", body=b""))
        for _ in range(64):
            out.write(b"\0" * 2**22)
    assert path.stat().st_size < 2**20
    with pytest.raises(CheckpointError, match=r"bomb.npz is refused: it unpacks to 268,\d+,\d+ bytes, .* most 1,000"):
        checkpoint_files.read_npz(path, most=1_000)


def test_what_zip_files_can_be_but_npz_files_are_not(tmp_path):
    path = tmp_path / "odd.npz"
    for compression in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):  # numpy writes neither; both are harmless
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("a.npy", entry())
        np.testing.assert_array_equal(checkpoint_files.read_npz(path)["a"], np.zeros(2))
    content = bytearray(npz())
    local, central = content.index(b"PK\x03\x04"), content.index(b"PK\x01\x02")
    encrypted, unknown = bytearray(content), bytearray(content)
    for offset in (local + 6, central + 8):
        encrypted[offset] |= 1
    for offset in (local + 8, central + 10):
        unknown[offset] = 77
    for data, message in ((encrypted, "encrypted"), (unknown, "odd.npz")):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=message):
            checkpoint_files.read_npz(path)
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.npy", entry())
        archive.writestr("a.npy", entry(body=b"\1" * 8))
    with pytest.raises(CheckpointError, match=r"odd\.npz is refused: it holds two arrays called 'a'"):
        checkpoint_files.read_npz(path)
    path.write_bytes(entry())
    with pytest.raises(CheckpointError, match="one bare array"):
        checkpoint_files.read_npz(path)


def test_floats_of_every_size_become_float32(tmp_path):
    """bfloat16 even from an .npz, which forgets its name."""
    path, values = tmp_path / "floats", np.array([1.0, -2.5, 0.0078125])
    arrays = {name: values.astype(jnp.dtype(name)) for name in ("float16", "float32", "float64", "bfloat16")}
    formats = (
        (npz(arrays), checkpoint_files.read_npz),
        (safetensors.numpy.save(arrays), checkpoint_files.read_safetensors),
    )
    for content, read in formats:
        path.write_bytes(content)
        found = read(path)
        assert found["bfloat16"].dtype == jnp.bfloat16
        for array in checkpoint_files.as_float32(found, path).values():
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, values)


def test_what_is_no_finite_number_is_refused_by_name():
    for values, message in (
        (np.array([1, np.nan, 2], np.float32), "nan"),
        (np.array([1, -np.inf, 2], np.float16), "-inf"),
        (np.array([0, 1e300, 0]), r"1e\+300"),
        *((np.zeros(3, kind), r"(int64|bool|\|S|<U|complex128|datetime64)") for kind in "l?SUDM"),
        (np.zeros(3, [("a", "f4")]), r"\["),
    ):
        with pytest.raises(CheckpointError, match=rf"x.npz is refused: head/bias holds {message}.*finite numbers of"):
            checkpoint_files.as_float32({"head/bias": values, "fine": np.zeros(2)}, "x.npz")


def test_the_header_of_a_safetensors_file(tmp_path):
    """Wrong headers: deep nesting, offsets outside the file, an unknown dtype, a shape of more bytes, no JSON."""
    path = tmp_path / "odd.safetensors"
    arrays = (("F32", 2, 10**9), ("F3", 2, 8), ("F32", 3, 8))
    entries = [{"dtype": dtype, "shape": [n], "data_offsets": [0, end]} for dtype, n, end in arrays]
    for header in (b"[" * 100_000, b"{no json", *(json.dumps({"a": entry}).encode() for entry in entries)):
        path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
        with pytest.raises(CheckpointError, match=r"odd\.safetensors is truncated or not"):
            checkpoint_files.read_safetensors(path)


def test_json_that_is_no_object_is_refused(tmp_path):
    path = tmp_path / "config.json"
    for content in (b"[" * 100_000, b"", b"\xff\xfe", b"[1]", b'{"a": 1}{'):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"config\.json (is truncated or not a JSON file|holds a)[^\n]*$"):
            checkpoint_files.read_json(path)
