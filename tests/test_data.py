"""kitlib.data: the committed files, what `load` refuses, and the Source that it returns."""

import gzip
import hashlib
import importlib.util
import pickle
import subprocess
import sys

import numpy as np
import pytest

from kitlib import data

FOLDER = data.data_folder()
SIZES = {"fashion_mnist": (10_000, 5_000), "animal_mnist": (7_769, 1_947)}


@pytest.fixture(scope="module")
def make_data():
    spec = importlib.util.spec_from_file_location("make_data", FOLDER / "make_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def committed(folder, content: bytes, file: str = "fashion_mnist.npz"):
    """A data folder in which this file has this content and the right checksum."""
    (folder / file).write_bytes(content)
    (folder / "checksums.txt").write_text(f"{hashlib.sha256(content).hexdigest()}  {file}\n")


def data_files():
    """The files of the data folder, without what describes or makes them."""
    about = {"LICENSES", "checksums.txt", "make_data.py", "make_pictures.py", "make_multilingual.py"}
    return [path for path in FOLDER.iterdir() if path.is_file() and path.name not in about]


def small():
    images = np.arange(6 * 4 * 5 * 3, dtype=np.uint8).reshape(6, 4, 5, 3)
    return images, data.from_arrays(images, [0, 1, 2, 0, 1, 2], name="small", class_names=["a", "b", "c"])


# --- the committed files ---


def test_checksums_cover_exactly_the_data_files():
    listed = dict(reversed(line.split()) for line in (FOLDER / "checksums.txt").read_text().splitlines())
    expected = {*(f"{name}.npz" for name in data.COMMITTED), "glosses.txt.gz", "tokenizer.model"}
    expected |= {"easy_vqa.npz", "emoji.npz", "emoji_names.json.gz", "taxonomy.json.gz", "multilingual.model"}
    assert set(listed) == {path.name for path in data_files()} == expected
    for name, sha256 in listed.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == sha256


def test_licenses_name_each_file_and_hold_the_notices():
    text = (FOLDER / "LICENSES").read_text()
    for path in data_files():
        assert path.name in text
    for notice in ("Zalando SE", "SinaSR-6", "Permission is hereby granted", 'PROVIDED "AS IS"', "COCO"):
        assert notice in text
    for notice in ("WordNet 3.0 Copyright 2006 by Princeton University", 'DATABASE IS PROVIDED "AS IS"', "agrees to"):
        assert notice in text


def test_the_data_stay_small():
    assert sum(path.stat().st_size for path in data_files()) < 15_000_000


@pytest.mark.parametrize("name", list(data.COMMITTED))
def test_committed_set_is_whole_and_no_picture_crosses_the_splits(name):
    seen = set()
    for split, size in zip(data.COMMITTED[name], SIZES[name], strict=True):
        source = data.load(name, split)
        images, labels = source.arrays()
        assert len(source) == size and source.num_classes == 10 and len(set(source.class_names)) == 10
        assert images.dtype == np.uint8 and images.shape == (size, 28, 28, 1) and labels.dtype == np.int32
        pictures = {image.tobytes() for image in images}
        assert len(pictures) == size, "a picture occurs twice"
        assert not pictures & seen, "a picture is in both splits"
        seen |= pictures
        # Every block of ten shows each class once, as long as no class has run out: the first n are a balanced subset.
        assert all(sorted(block) == list(range(10)) for block in labels[:1000].reshape(-1, 10))


def test_fashion_counts_per_class():
    for split, count in (("train", 1000), ("test", 500)):
        np.testing.assert_array_equal(np.bincount(data.load("fashion_mnist", split).arrays()[1]), np.full(10, count))


def test_animal_split_is_four_fifths_of_each_class():
    train, test = (np.bincount(data.load("animal_mnist", split).arrays()[1]) for split in ("train", "test"))
    np.testing.assert_array_equal(train, (train + test) * 4 // 5)


def test_labels_fit_the_pictures():
    """Wrong labels or a wrong order would bring the nearest class mean down to 10 %."""
    images, labels = data.load("fashion_mnist").arrays()
    means = np.stack([images[labels == c].mean(0).ravel() for c in range(10)])
    test_images, test_labels = data.load("fashion_mnist", "test")[:1000].arrays()
    flat = test_images.reshape(1000, -1).astype(np.float64)
    guess = ((flat[:, None] - means) ** 2).sum(-1).argmin(-1)
    assert (guess == test_labels).mean() > 0.6


# --- the text ---


def test_glosses_are_the_entries_of_lowest_hash_in_hash_order():
    train, test = data.glosses(), data.glosses("test")
    assert len(train) == 18_000 and len(test) == 2_000
    ranks = [hashlib.sha256(line.encode()).hexdigest() for line in train + test]
    assert ranks == sorted(set(ranks))
    assert 1_000_000 < sum(map(len, train + test)) < 2_000_000


def test_glosses_are_clean_lines_of_a_lemma_and_its_gloss():
    for line in data.glosses("train") + data.glosses("test"):
        lemma, colon, gloss = line.partition(": ")
        assert colon and gloss and lemma == lemma.lower() and line.isascii() and line.isprintable()
        assert line == " ".join(line.split()) and line.count('"') % 2 == 0


def test_no_definition_and_no_example_occurs_twice(make_data):
    seen = set()
    for line in data.glosses("train") + data.glosses("test"):
        parts = make_data.parts(line)
        assert parts and seen.isdisjoint(parts), line
        seen |= parts


def test_glosses_of_another_split_or_from_a_bad_file(tmp_path):
    with pytest.raises(ValueError, match="no split 'validation': use one of 'train', 'test'"):
        data.glosses("validation")
    with pytest.raises(FileNotFoundError, match=r"glosses\.txt\.gz is missing"):
        data.glosses(data_dir=tmp_path)
    committed(tmp_path, b"a: b", "glosses.txt.gz")
    (tmp_path / "glosses.txt.gz").write_bytes(b"a: c")
    with pytest.raises(ValueError, match=r"glosses\.txt\.gz is damaged or was changed"):
        data.glosses(data_dir=tmp_path)


@pytest.mark.parametrize("kind", ["text", "empty", "cut gzip", "broken gzip", "one split", "three splits", "no UTF-8"])
def test_foreign_glosses_are_refused(kind, tmp_path):
    good = gzip.compress(b"a: b\n\nc: d\n")
    content = {
        "text": b"a: b\n\nc: d\n",
        "empty": b"",
        "cut gzip": good[:-9],
        "broken gzip": good[:12] + b"\xff\xff\xff" + good[15:],
        "one split": gzip.compress(b"a: b\n"),
        "three splits": gzip.compress(b"a: b\n\nc: d\n\ne: f\n"),
        "no UTF-8": gzip.compress(b"a: \xff\n\nc: d\n"),
    }[kind]
    committed(tmp_path, content, "glosses.txt.gz")
    with pytest.raises(ValueError, match=r"glosses\.txt\.gz is not a data file of the kit.*make_data"):
        data.glosses(data_dir=tmp_path)
    committed(tmp_path, good, "glosses.txt.gz")
    assert data.glosses(data_dir=tmp_path) == ["a: b"] and data.glosses("test", data_dir=tmp_path) == ["c: d"]


# --- make_data.py ---


@pytest.mark.parametrize(
    ("line", "expected"),
    [  # offset, kind, part of speech, number of words, words with a number each, pointers | gloss
        ('02 30 v 02 pick_up 0 gain 2 000 |  get  better; "it  did"  \n', 'pick up: get better; "it did"'),
        ("02 00 s 01 awake(p) 0 000 | not asleep\n", "awake: not asleep"),
        ("02 06 n 01 O'Hare 0 000 | an airport\n", None),  # a name
        ("02 06 n 01 747 0 000 | an aircraft\n", None),
        ('02 06 n 01 cup 0 000 | a vessel; "half a quotation\n', None),
        ("02 10 n 01 oath 0 000 | an offensive word\n", None),
        ("  1 This software and database | is being provided\n", None),  # the licence at the top of each file
        ("02 06 n 01 cup 0 000\n", None),
    ],
)
def test_entry_reads_a_line_of_wordnet(make_data, line, expected):
    assert make_data.entry(line) == expected


def test_choose_lines_passes_over_what_repeats(make_data):
    lines = ['a: big; "so big"', 'b: huge; "so big"', "c: Big", "d: tall", "d: tall", "e: wide"]
    order = sorted(set(lines), key=lambda line: hashlib.sha256(line.encode()).hexdigest())
    assert [line[0] for line in order] == ["a", "c", "d", "b", "e"]
    assert make_data.parts(lines[0]) == {"big", "so big"}
    # a is taken; c has its definition and b its example; d comes once.
    expected = (['a: big; "so big"', "d: tall"], ["e: wide"])
    assert make_data.choose_lines(lines, 2, 1) == make_data.choose_lines(lines[::-1], 2, 1) == expected
    with pytest.raises(ValueError, match=r"only 3 different lines, 3 \+ 1 were asked for"):
        make_data.choose_lines(lines, 3, 1)


def test_write_checksums_lists_every_data_file_and_nothing_else(make_data, tmp_path):
    for name in ("b.npz", "a.txt.gz", "t.model", "LICENSES", "make_data.py"):
        (tmp_path / name).write_bytes(name.encode())
    make_data.write_checksums(tmp_path)
    lines = (tmp_path / "checksums.txt").read_text().splitlines()
    assert lines == [f"{hashlib.sha256(n.encode()).hexdigest()}  {n}" for n in ("a.txt.gz", "b.npz", "t.model")]


def test_choose_takes_lowest_hashes_once_in_turn(make_data):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 2, 2, 1), np.uint8)
    labels = np.arange(30) % 3
    images[4] = images[1]  # the same picture, same class: one copy stays
    images[5] = images[0]  # the same picture under two labels: both go
    ranked = make_data.distinct(images, labels, avoid={hashlib.sha256(images[2].tobytes()).hexdigest()})
    assert {i for _, i in ranked} == set(range(30)) - {0, 2, 4, 5}
    train = make_data.choose(ranked, labels, np.zeros(3, int), np.full(3, 4))
    test = make_data.choose(ranked, labels, np.full(3, 4), np.full(3, 6))
    assert len(train) == 12 and len(test) == 6 and not set(train) & set(test)
    digest = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    for c in range(3):
        mine = [i for i in train if labels[i] == c]
        rest = [i for _, i in ranked if labels[i] == c and i not in mine]
        assert max(digest[i] for i in mine) < min(digest[i] for i in rest)
    assert all(sorted(labels[train[i : i + 3]]) == [0, 1, 2] for i in range(0, 12, 3))


def test_write_npz_gives_the_same_bytes_at_any_time_and_plain_numpy_reads_it(make_data, tmp_path, monkeypatch):
    arrays = {"a": np.arange(5, dtype=np.uint8), "names": np.array(["x", "yy"])}
    make_data.write_npz(tmp_path / "one.npz", arrays)
    monkeypatch.setattr("time.time", lambda: 2e9)
    make_data.write_npz(tmp_path / "two.npz", arrays)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    with np.load(tmp_path / "one.npz", allow_pickle=False) as read:
        assert read["a"].tolist() == [0, 1, 2, 3, 4] and read["names"].tolist() == ["x", "yy"]


def test_unpickler_reads_arrays_and_refuses_anything_else(make_data):
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    # The package was pickled under numpy 1, where the module had another name.
    old = pickle.dumps(array, protocol=3).replace(b"numpy._core", b"numpy.core")
    np.testing.assert_array_equal(make_data.read_pickled_array(gzip.compress(old)), array)
    with pytest.raises(pickle.UnpicklingError, match="print"):
        make_data.read_pickled_array(gzip.compress(pickle.dumps(print)))


def test_check_names_the_file_whose_hash_is_wrong(make_data):
    with pytest.raises(ValueError, match=r"thing\.whl has sha256"):
        make_data.check(b"abc", "0" * 64, "thing.whl")


# --- load ---


def test_load_is_light():
    """The committed data need numpy only: not TFDS, Grain or JAX."""
    code = (
        "import sys, kitlib.data; kitlib.data.load('animal_mnist', 'test').arrays(); "
        "print([m for m in ('tensorflow_datasets', 'grain', 'jax', 'PIL', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (("fashion_mnits",), {}, "did you mean 'fashion_mnist'.*animal_mnist"),
        (("zzz",), {}, "no data set 'zzz'.*fashion_mnist, animal_mnist"),
        (("cifar11",), {"full": True}, "did you mean 'cifar10'.*cifar100, imagenet2012"),
        (("cifar10",), {}, "'cifar10' is there only with full=True"),
        (("animal_mnist",), {"full": True}, "'animal_mnist' is there only with full=False"),
        (("fashion_mnist", "validation"), {}, "no split 'validation': use one of 'train', 'test'"),
        (("imagenet2012", "test"), {"full": True}, "no split 'test': use one of 'train', 'validation'"),
    ],
)
def test_load_names_what_there_is(args, kwargs, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        data.load(*args, data_dir=tmp_path, **kwargs)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_truncated_file_is_refused_by_name(tmp_path):
    (tmp_path / "checksums.txt").write_bytes((FOLDER / "checksums.txt").read_bytes())
    (tmp_path / "animal_mnist.npz").write_bytes((FOLDER / "animal_mnist.npz").read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"animal_mnist\.npz is damaged or was changed"):
        data.load("animal_mnist", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"fashion_mnist\.npz is missing"):
        data.load("fashion_mnist", data_dir=tmp_path)


def test_file_without_a_checksum_is_refused(tmp_path):
    committed(tmp_path, b"x")
    (tmp_path / "checksums.txt").write_text("")
    with pytest.raises(ValueError, match=r"expected a line in checksums\.txt"):
        data.load("fashion_mnist", data_dir=tmp_path)


class Bomb:
    """Its unpickling would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("kind", ["object array", "pickle", "other arrays", "one array", "empty", "text"])
def test_foreign_file_is_refused_and_never_unpickled(kind, tmp_path):
    path = tmp_path / "made.npz"
    bomb = Bomb(tmp_path / "exploded")
    if kind == "object array":
        objects = np.array([bomb], dtype=object)
        np.savez(path, train_images=objects, train_labels=objects, class_names=objects)
    elif kind == "other arrays":
        np.savez(path, something=np.zeros(3))
    elif kind == "one array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        path.write_bytes({"pickle": pickle.dumps(bomb), "empty": b"", "text": b"hello"}[kind])
    committed(tmp_path, path.read_bytes())
    with pytest.raises(ValueError, match=r"fashion_mnist\.npz is not a data file of the kit.*make_data") as error:
        data.load("fashion_mnist", data_dir=tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "exploded").exists()


def test_data_folder_missing_is_one_clear_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "__file__", str(tmp_path / "kitlib" / "data.py"))
    with pytest.raises(FileNotFoundError, match="install the kit again"):
        data.data_folder()
    (tmp_path / "kitlib" / "_data").mkdir(parents=True)
    (tmp_path / "kitlib" / "_data" / "checksums.txt").write_text("")
    assert data.data_folder() == tmp_path / "kitlib" / "_data"


# --- Source ---


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


def test_source_does_not_hand_out_its_own_memory():
    images, source = small()
    source[0]["image"][:] = 255
    source.arrays()[0][:] = 255
    np.testing.assert_array_equal(source[0]["image"], images[0])
    assert images[0].max() < 255


@pytest.mark.parametrize("index", [6, -7])
def test_source_index_out_of_range(index):
    with pytest.raises(IndexError):
        small()[1][index]


@pytest.mark.parametrize("indices", [[0, 2], [-1]])
def test_take_out_of_range_does_not_leak_records_outside_the_view(indices):
    with pytest.raises(IndexError, match="which has 2 records"):
        small()[1][:2].take(indices)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4), np.uint8), [0, 1], r"uint8\[2, 4, 4\]; expected uint8\[n, H, W, C\]"),
        (np.zeros((2, 4, 4, 1), np.float32), [0, 1], "float32"),
        (np.zeros((2, 4, 4, 1), np.uint8), [0], r"expected integers\[2\]"),
        (np.zeros((2, 4, 4, 1), np.uint8), [0.0, 1.0], "float64"),
        (np.zeros((2, 4, 4, 1), np.uint8), [0, 2], "from 0 to 2; expected 0 to 1"),
    ],
)
def test_from_arrays_says_what_is_wrong(images, labels, message):
    with pytest.raises(ValueError, match=message):
        data.from_arrays(images, labels, name="mine", class_names=["a", "b"])


# --- draws ---


def test_keyed_rng_depends_on_seed_and_key_alone():
    np.testing.assert_array_equal(data.keyed_rng(3, 1, 4).random(5), data.keyed_rng(3, 1, 4).random(5))
    keys = [(3, 1, 4), (3, 4, 1), (3, 1), (3,), (1, 1, 4), (3, 1, 4, 0)]
    assert len({data.keyed_rng(*key).random() for key in keys}) == len(keys)


# --- IDX ---


def idx(array) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def test_read_idx(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx(array)))
    np.testing.assert_array_equal(data.read_idx(path), array)


@pytest.mark.parametrize("kind", ["cut", "cut gzip", "not gzip", "too long", "other type", "empty"])
def test_read_idx_refuses_by_name(kind, tmp_path):
    good = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    content = {
        "cut": gzip.compress(good[:-1]),
        "cut gzip": gzip.compress(good)[:-9],
        "not gzip": good,
        "too long": gzip.compress(good + b"\0"),
        "other type": gzip.compress(b"\0\0\x0d" + good[3:]),
        "empty": gzip.compress(b""),
    }[kind]
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.gz is not a whole"):
        data.read_idx(tmp_path / "x.gz")
