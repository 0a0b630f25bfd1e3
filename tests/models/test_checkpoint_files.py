"""kitlib.models.checkpoint_files: hundreds of malformed files, each refused by name in one sentence, or harmless."""

import io
import json
import struct
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from malformed import malformed

from kitlib.models import checkpoint_files
from kitlib.models.checkpoint_names import CheckpointError

ARRAYS = {
    "head/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "head/bias": np.linspace(-1, 1, 4, dtype=np.float32),
    "cls": np.full((1, 1, 3), 0.5, np.float16),
}


def npz(arrays=ARRAYS, *, compress=False) -> bytes:
    out = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(out, **arrays)
    return out.getvalue()


def refused_or_equal(read, path, original) -> bool:
    """Whether reading refuses the file in one sentence that names it; otherwise it must give what was stored."""
    try:
        found = read(path)
    except CheckpointError as error:
        assert path.name in str(error) and "\n" not in str(error), error
        return True
    assert set(found) == set(original)
    for name, array in original.items():
        np.testing.assert_array_equal(found[name], array)
    return False


@pytest.mark.parametrize("compress", [False, True])
def test_damaged_npz_files_are_refused_or_harmless(compress, tmp_path):
    rng, content, path = np.random.default_rng(0), npz(compress=compress), tmp_path / "broken.npz"
    refused = 0
    for _ in range(250):
        path.write_bytes(malformed(content, rng))
        refused += refused_or_equal(checkpoint_files.read_npz, path, ARRAYS)
    assert refused > 150  # the others changed dates and the like, which nobody reads


def test_damaged_safetensors_files_are_refused_or_hold_other_numbers(tmp_path):
    """The format has no checksum: a changed number is read as it is. Names and shapes are never wrong silently."""
    rng, content, path = np.random.default_rng(1), safetensors.numpy.save(ARRAYS), tmp_path / "broken.safetensors"
    refused = 0
    for _ in range(250):
        path.write_bytes(malformed(content, rng))
        try:
            found = checkpoint_files.read_safetensors(path)
        except CheckpointError as error:
            assert path.name in str(error) and "\n" not in str(error)
            refused += 1
            continue
        assert all(isinstance(array, np.ndarray) for array in found.values())
    assert refused > 100


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
    with pytest.raises(CheckpointError, match=r"lying\.npz") as caught:
        checkpoint_files.read_npz(path)
    assert "\n" not in str(caught.value)


def test_a_small_file_that_unpacks_to_much_is_refused_before_it_does(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as out:
        out.write(entry(shape=f"({2**26},)", body=b""))
        for _ in range(64):
            out.write(b"\0" * 2**22)
    assert path.stat().st_size < 2**20
    with pytest.raises(
        CheckpointError, match=r"bomb.npz is refused: it unpacks to 268,\d+,\d+ bytes, expected at most 1,000"
    ):
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


def test_bfloat16_survives_a_file_that_forgot_its_name(tmp_path):
    values = np.array([1.0, -2.5, 0.0078125]).astype(jnp.bfloat16)
    np.savez(tmp_path / "bf16.npz", a=values)
    found = checkpoint_files.read_npz(tmp_path / "bf16.npz")
    assert found["a"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(checkpoint_files.as_float32(found, "bf16.npz")["a"], [1.0, -2.5, 0.0078125])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([1, np.nan, 2], np.float32), "holds nan"),
        (np.array([1, -np.inf, 2], np.float16), "holds -inf"),
        (np.array([0, 1e300, 0]), r"holds 1e\+300"),
        (np.array([1, 2, 3]), "holds int64"),
        (np.array([True, False]), "holds bool"),
        (np.array([b"a", b"b"]), r"holds \|S1"),
        (np.array(["1", "2"]), "holds <U1"),
        (np.zeros(3, complex), "holds complex128"),
        (np.zeros(3, "M8[s]"), r"holds datetime64"),
        (np.zeros(3, [("a", "f4")]), "holds "),
    ],
)
def test_what_is_no_finite_number_is_refused_by_name(values, message):
    with pytest.raises(CheckpointError, match=rf"x.npz is refused: head/bias {message}.*finite numbers of float32"):
        checkpoint_files.as_float32({"head/bias": values, "fine": np.zeros(2)}, "x.npz")


def test_floats_of_every_size_become_float32():
    for dtype in (np.float16, np.float32, np.float64, jnp.bfloat16):
        found = checkpoint_files.as_float32({"a": np.array([0.5, -3.0]).astype(dtype)}, "x.npz")["a"]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, [0.5, -3.0])


def test_the_header_of_a_safetensors_file(tmp_path):
    """Wrong headers: deep nesting, offsets outside the file, an unknown dtype, no JSON."""
    for header in (
        b"[" * 100_000,
        json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 10**9]}}).encode(),
        json.dumps({"a": {"dtype": "F3", "shape": [2], "data_offsets": [0, 8]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode(),
        b"{no json",
    ):
        path = tmp_path / "odd.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
        with pytest.raises(CheckpointError, match=r"odd\.safetensors"):
            checkpoint_files.read_safetensors(path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"", b"{", b"\xff\xfe", b"[1]", b"null", b'{"a": 1}{'])
def test_json_that_is_no_object_is_refused(content, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json (is truncated or not a JSON file|holds a)") as caught:
        checkpoint_files.read_json(path)
    assert "\n" not in str(caught.value)
