"""kitlib.data.images: `Source` over arrays in memory, and the reader of IDX files."""

import gzip

import numpy as np
import pytest

from kitlib import data
from kitlib.data import images as images_module


def small():
    images = np.arange(6 * 4 * 5 * 3, dtype=np.uint8).reshape(6, 4, 5, 3)
    return images, data.from_arrays(images, [0, 1, 2, 0, 1, 2], name="small", class_names=["a", "b", "c"])


def test_source_records_slices_and_take():
    images, source = small()
    assert len(source) == 6 and source.num_classes == 3 and source.class_names == ("a", "b", "c")
    np.testing.assert_array_equal(source[1]["image"], images[1])
    assert source[1]["label"] == 1 and isinstance(source[1]["label"], int) and source[-1]["label"] == 2
    view = source[1:6:2][1:]  # records 3 and 5
    assert len(view) == 2 and view.name == "small" and len(source[2:2]) == 0
    np.testing.assert_array_equal(view.arrays()[0], images[[3, 5]])
    np.testing.assert_array_equal(view[-1]["image"], images[5])
    np.testing.assert_array_equal(source[::-1].take([0, 0, 5])[0], images[[5, 5, 0]])
    assert [record["label"] for record in source] == [0, 1, 2, 0, 1, 2]
    source[0]["image"][:] = 255  # a copy
    source.arrays()[0][:] = 255
    assert images[0].max() < 255
    with pytest.raises(IndexError):
        source[6]
    for indices in ([0, 2], [-1]):  # never outside of the view
        with pytest.raises(IndexError, match="which has 2 records"):
            source[:2].take(indices)
    assert str(source) == "Source(small: 6 pictures (4, 5, 3), 3 classes: a, b, c)"


TWO = np.zeros((2, 4, 4, 1), np.uint8)


@pytest.mark.parametrize(("images", "labels", "names", "message"), [
    (TWO[..., 0], [0, 1], "ab", r"uint8\[2, 4, 4\]; expected uint8\[n, H, W, C\].*images\[\.\.\., None\]"),
    (np.zeros((2, 3, 32, 32), np.uint8), [0, 1], "ab", r"channels first, .* use images\.transpose\(0, 2, 3, 1\)"),
    (np.zeros((2, 1, 28, 28), np.float32), [0, 1], "ab", "channels first"),
    (np.zeros((2, 3, 4, 4), np.uint8), [0, 1], "ab", "channels first"),
    (np.zeros((2, 4, 9, 9), np.uint8), [0, 1], "ab", "channels first"),
    (np.zeros((2, 9, 9, 5), np.uint8), [0, 1], "ab", "1 to 4 channels"),
    (TWO[:, :0], [0, 1], "ab", r"uint8\[2, 0, 4, 1\]"), (TWO, [0, 2], "ab", "from 0 to 2; expected 0 to 1"),
    (TWO, [0, 1], ["a", "a"], "class names of mine"), (TWO, [0, 1], ["a", " "], "class names of mine"),
    (TWO, [0, 1], ["a", 1], "class names of mine"),
])  # fmt: skip
def test_from_arrays_says_what_is_wrong(images, labels, names, message):
    with pytest.raises(ValueError, match=message):
        data.from_arrays(images, labels, name="mine", class_names=names)


def idx(array) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def test_read_idx(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx(array)))
    np.testing.assert_array_equal(images_module.read_idx(path), array)


@pytest.mark.parametrize("kind", ["cut", "cut gzip", "not gzip", "too long", "other type", "empty"])
def test_read_idx_refuses_by_name(kind, tmp_path):
    good, packed = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4)), gzip.compress
    content = {
        "cut": packed(good[:-1]), "cut gzip": packed(good)[:-9], "not gzip": good, "too long": packed(good + b"\0"),
        "other type": packed(b"\0\0\x0d" + good[3:]), "empty": packed(b""),
    }[kind]  # fmt: skip
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.gz is not a whole"):
        images_module.read_idx(tmp_path / "x.gz")
    with pytest.raises(FileNotFoundError, match=r"y\.gz is missing: put the original file there"):
        images_module.read_idx(tmp_path / "y.gz")
