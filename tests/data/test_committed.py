"""The kit's own files: whatever else is in them, the error has the file's name and says what makes it again."""

import hashlib
import json

import numpy as np
import pytest

from kitlib.data.files import decoded, decoded_arrays


def note(folder, name, content: bytes):
    (folder / name).write_bytes(content)
    (folder / "checksums.txt").write_text(f"{hashlib.sha256(content).hexdigest()}  {name}\n")


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000], ids=["empty", "cut", "deep"])
def test_other_content_is_refused_by_name(tmp_path, content):
    note(tmp_path, "a.json", b"[1, 2]")
    assert decoded(tmp_path, "a.json", "make_data", json.loads) == [1, 2]
    note(tmp_path, "a.json", content)
    with pytest.raises(ValueError, match=r"a\.json is not a data file of the kit .*make_data\.py"):
        decoded(tmp_path, "a.json", "make_data", json.loads)


def test_arrays_are_read_and_others_are_refused(tmp_path):
    np.savez(tmp_path / "made.npz", x=np.arange(3))
    note(tmp_path, "a.npz", (tmp_path / "made.npz").read_bytes())
    assert decoded_arrays(tmp_path, "a.npz", "make_data", lambda arrays: arrays["x"].tolist()) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"a\.npz is not a data file of the kit"):
        decoded_arrays(tmp_path, "a.npz", "make_data", lambda arrays: arrays["y"])
