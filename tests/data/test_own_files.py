"""kitlib.data.own_files: any picture file at its right brightness, folders and arrays as sets, texts, and refusals."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from kitlib import data
from kitlib.data.own_files import from_files, read_picture, texts_from_file

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 3, 4, 3), np.uint8)


def picture(path, colour=(200, 30, 30), size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, tuple(map(int, colour))).save(path)


def folder(path, per_class=20, classes=("cat", "dog")):
    """Squares of one colour each: picture i of class k has the colour (k, i, 7)."""
    for k, name in enumerate(classes):
        for i in range(per_class):
            picture(path / name / f"{i}.png", (k, i, 7))
    return path


def npz(path, **arrays):
    np.savez(path, **{"images": PIXELS, "labels": np.arange(40) % 3} | arrays)
    return path


def contents(source):
    return [(image.tobytes(), int(label)) for image, label in zip(*source.arrays(), strict=True)]


GREY = np.array([[0, 32_768], [16_384, 65_535]])  # of 65,535: 0, 128, 64, 255 of 255
SCALED = [[0, 128], [64, 255]]


@pytest.mark.parametrize(("suffix", "pixels", "expected"), [
    *((suffix, GREY.astype(np.uint16), SCALED) for suffix in ("png", "tif", "pgm")),
    ("png", np.full((2, 2), 257 * 100, np.uint16), [[100, 100]] * 2),  # 16 bits have a range of their own
    ("tif", (GREY - 30_000).astype(np.int32), SCALED),  # 32 bits: from the least to the greatest
    ("tif", (GREY / 1e6).astype(np.float32), SCALED), ("tif", np.full((2, 2), 0.5, np.float32), [[0, 0]] * 2),
])  # fmt: skip
def test_wide_values_are_scaled_by_their_range(tmp_path, suffix, pixels, expected):
    path = tmp_path / f"grey.{suffix}"
    Image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(read_picture(path, 2), np.repeat(np.array(expected)[..., None], 3, axis=-1))


def png16(path, colour_type, pixels):
    """A PNG of 2 x 2 pixels of 16 bits, which Pillow cannot write; colour_type: 2 RGB, 4 grey and alpha, 6 RGBA."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", 2, 2, 16, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize(("colour_type", "pixel", "expected"), [
    (2, [2570, 5140, 7710], [10, 20, 30]), (4, [2570, 65_535], [10] * 3), (6, [2570, 5140, 7710, 65_535], [10, 20, 30]),
    (4, [2570, 0], [255] * 3), (6, [2570, 5140, 7710, 0], [255] * 3),  # transparent: the white ground
])  # fmt: skip
def test_sixteen_bits_with_colours_and_alpha(tmp_path, colour_type, pixel, expected):
    png16(tmp_path / "deep.png", colour_type, np.tile(pixel, (2, 2)).reshape(2, -1))
    np.testing.assert_array_equal(read_picture(tmp_path / "deep.png", 2), np.tile(expected, (2, 2, 1)))
    Image.fromarray(np.array([[5, 60_000]], np.uint16)).save(tmp_path / "key.png", transparency=5)
    assert read_picture(tmp_path / "key.png", 2)[0, 0].tolist() == [255] * 3  # one value is transparent


def test_other_kinds_of_pictures_keep_their_colours(tmp_path):
    red = Image.new("RGB", (4, 4), (250, 10, 10))
    made = {"palette.png": red.quantize(4), "grey.png": red.convert("LA"), "ink.jpg": red.convert("CMYK")}
    made["bits.png"] = Image.new("1", (4, 4), 1)
    for name, image in made.items():
        image.save(tmp_path / name)
    red.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")])
    expected = {"grey.png": red.convert("L").getpixel((0, 0)), "bits.png": 255}
    for name in (*made, "moving.gif"):
        found = read_picture(tmp_path / name, 4)
        np.testing.assert_allclose(found, np.full((4, 4, 3), expected.get(name, (250, 10, 10))), atol=6, err_msg=name)


def test_what_is_no_picture_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "README.md").write_text("# A text")
    Image.fromarray(np.full((2, 2), np.nan, np.float32)).save(tmp_path / "nan.tif")
    picture(tmp_path / "set" / "a.png")
    (tmp_path / "empty").mkdir()
    for name, message in {
        "README.md": r"README\.md is not a picture that can be read \(its format is unknown\): give a PNG",
        "nan.tif": r"nan\.tif .*not all of its values are finite",
        "set": r"set is a folder: name the pictures in it \(.*a\.png\)",
        "empty": r"empty is a folder: .*it has no files",
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            read_picture(tmp_path / name)
        assert "0x" not in str(error.value) and "\n" not in str(error.value)


def test_a_folder_of_class_folders(tmp_path):
    """Every picture is in one split with its folder's name, a tenth of 40 in the test, and again the same."""
    folder(tmp_path / "pets")
    (tmp_path / "pets" / ".git").mkdir()
    (tmp_path / "pets" / "cat" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "pets" / "notes.txt").write_text("x")
    train, test = (from_files(tmp_path / "pets", split, size=4) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("cat", "dog") and train.name == "pets"
    assert (len(train), len(test), train.image_shape) == (36, 4, (4, 4, 3))
    expected = {(np.full((4, 4, 3), (k, i, 7), np.uint8).tobytes(), k) for k in range(2) for i in range(20)}
    assert sorted(contents(train) + contents(test)) == sorted(expected)
    assert contents(from_files(tmp_path / "pets", "train", size=4)) == contents(train)
    labels = train.arrays()[1]
    assert sorted(labels) != labels.tolist()  # the first n are a fair sample
    folder(tmp_path / "own" / "train", 3, ("ant", "bee", "cow"))  # parts of one's own
    picture(tmp_path / "own" / "test" / "cow" / "x.jpg", (0, 0, 90))
    train, test = (from_files(tmp_path / "own", split, size=4) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("ant", "bee", "cow") and (len(train), len(test)) == (9, 1)
    assert train.name == "own" and test.arrays()[1].tolist() == [2]


def test_equal_pictures_are_in_one_split(tmp_path):
    folder(tmp_path / "pets")
    for i in range(20):
        picture(tmp_path / "pets" / "cat" / f"again{i}.png", (0, i, 7))
    npz(tmp_path / "pets.npz", images=np.repeat(PIXELS[:20], 2, axis=0), labels=np.zeros(40, int))
    for name, different in (("pets", 40), ("pets.npz", 20)):
        sets = [contents(from_files(tmp_path / name, split, size=4)) for split in ("train", "test")]
        train, test = ({image for image, _ in each} for each in sets)
        assert train.isdisjoint(test) and len(train | test) == different
    assert (len(train), len(test)) == (18, 2)


PARTS = ["train/cat/a.png", "train/dog/b.png"]


@pytest.mark.parametrize(("files", "message"), [
    (["a.png", "b.png"], r"set has the class folders \[\]; expected FOLDER/class/picture\.png"),
    (["cat/a.png"], r"set has the class folders \['cat'\]"), (["cat/a.png", "dog/.hidden"], "dog has no pictures"),
    (["train/cat/a.png", "valid/cat/b.png"], "train has no pictures, or folders; expected FOLDER/class"),
    ([*PARTS, "test/cow/c.png", "test/dog/d.png"], r"test has the class folders \['cow', 'dog'\]; .*same in"),
    ([*PARTS, "train/cat/same.png", "test/cat/same.png", "test/dog/d.png"], "are the same picture"),
    (["cat/a.png", "dog/bad.png"], r"bad\.png is not a picture that can be read"),
    (["cat/same.png", "dog/same.png"], "has 1 different entries"),
])  # fmt: skip
def test_folders_that_are_no_set(tmp_path, files, message):
    root = tmp_path / "set"
    for i, name in enumerate(files):
        picture(root / f"{name}.png", (9, 9, 9) if "same" in name else (i, i, i))
        (root / f"{name}.png").rename(root / name)
        if "bad" in name:
            (root / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=message):
        _ = [from_files(root, split, size=4) for split in ("train", "test")]


def test_arrays_of_ones_own(tmp_path):
    path = npz(tmp_path / "pets.npz")
    train, test = (from_files(path, split, size=99) for split in ("train", "test"))
    assert train.class_names == ("0", "1", "2") and (len(train), len(test), *train.image_shape) == (36, 4, 3, 4, 3)
    expected = sorted((image.tobytes(), i % 3) for i, image in enumerate(PIXELS))
    assert sorted(contents(train) + contents(test)) == expected
    named = from_files(npz(path, class_names=np.array(["a", "b", "c"])), "test", size=4)
    assert named.class_names == ("a", "b", "c") and contents(named) == contents(test)


@pytest.mark.parametrize(("arrays", "message"), [
    ({"images": PIXELS / 255.0}, r"pets\.npz are float64\[40, 3, 4, 3\]"),
    ({"images": PIXELS[:0], "labels": np.zeros(0, int)}, r"uint8\[0, 3, 4, 3\]"),
    ({"labels": np.full(40, 10**9)}, "from 1000000000 to 1000000000; expected 0 to 0"),
    ({"labels": np.full(40, np.nan)}, r"labels of pets\.npz are float64"),
    ({"labels": np.array(["cat"] * 40)}, r"labels of pets\.npz are <U3"),
    ({"labels": np.array([{}] * 40)}, r"pets\.npz is not an \.npz of pictures \(Object arrays"),
    ({"class_names": np.array(["a", "b"])}, "from 0 to 2; expected 0 to 1"),
    (None, r"is not an \.npz of pictures \(it has no 'images'"), (b"a,b\n1,2\n", r"is not an \.npz of pictures"),
    (PIXELS, r"is not an \.npz of pictures"),
])  # fmt: skip
def test_files_that_are_no_arrays_of_pictures(tmp_path, arrays, message):
    path = tmp_path / "pets.npz"
    if isinstance(arrays, dict):
        npz(path, **arrays)
    elif isinstance(arrays, bytes):
        path.write_bytes(arrays)
    else:
        with path.open("wb") as file:
            np.save(file, arrays) if arrays is not None else np.savez(file, x=PIXELS)
    with pytest.raises(ValueError, match=message):
        from_files(path, "train", size=4)


def test_a_text_per_line(tmp_path):
    lines = [f"text number {i}: größer, 日本" for i in range(30)]
    path, lines = tmp_path / "tales.txt", [*lines, *lines[:5]]
    path.write_bytes(("\ufeff" + "\r\n\n".join(lines) + "\n \n").encode())
    train, test = (data.texts_from_file(path, split) for split in ("train", "test"))
    assert set(train) | set(test) == set(lines) and set(train).isdisjoint(test)
    assert len(set(test)) == 3 and train == [line for line in lines if line in train]


@pytest.mark.parametrize(("content", "message"), [
    (b"\n \n\t\n", r"tales\.txt has 0 different"), (b"one\none\n", r"tales\.txt has 1 different"),
    (b"a\xffb\nc\n", r"tales\.txt is not a text in UTF-8"), (b"a\0b\nc\n", r"tales\.txt is not a text in UTF-8"),
    ("größer\nkleiner\n".encode("utf-16"), r"tales\.txt is not a text in UTF-8"),
])  # fmt: skip
def test_files_that_are_no_texts(tmp_path, content, message):
    (tmp_path / "tales.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        texts_from_file(tmp_path / "tales.txt", "train")


def test_missing_files_and_other_splits(tmp_path):
    for read in (texts_from_file, lambda path, split: from_files(path, split, size=4)):
        with pytest.raises(FileNotFoundError, match=r"none\.txt is missing"):
            read(tmp_path / "none.txt", "train")
        with pytest.raises(ValueError, match=r"split of your own \w+ 'valid'"):
            read(tmp_path, "valid")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        texts_from_file(tmp_path, "train")
    with pytest.raises(ValueError, match="size is 0"):
        from_files(tmp_path, "train", size=0)
