"""data/make_data.py, the script that made the committed files: what it reads, chooses and writes."""

import gzip
import hashlib
import pickle

import numpy as np
import pytest


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


def test_choose_lines_skips_lines_with_a_repeated_part(make_data):
    lines = ['a: big; "so big"', 'b: huge; "so big"', "c: Big", "d: tall", "d: tall", "e: wide"]
    order = sorted(set(lines), key=lambda line: hashlib.sha256(line.encode()).hexdigest())
    assert [line[0] for line in order] == ["a", "c", "d", "b", "e"]
    assert make_data.parts(lines[0]) == {"big", "so big"}
    # a is taken; c has its definition and b its example; d is taken once.
    expected = (['a: big; "so big"', "d: tall"], ["e: wide"])
    assert make_data.choose_lines(lines, 2, 1) == make_data.choose_lines(lines[::-1], 2, 1) == expected
    with pytest.raises(ValueError, match=r"only 3 different lines, 3 \+ 1 were asked for"):
        make_data.choose_lines(lines, 3, 1)


def test_choose_takes_the_lowest_hashes_once_and_one_class_after_the_other(make_data):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 2, 2, 1), np.uint8)
    labels = np.arange(30) % 3
    images[4] = images[1]  # the same picture, same class: one copy stays
    images[5] = images[0]  # the same picture under two labels: both are left out
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
    with pytest.raises(ValueError, match=r"package\.whl has sha256"):
        make_data.check(b"abc", "0" * 64, "package.whl")
    with pytest.raises(pickle.UnpicklingError, match="print"):
        make_data.read_pickled_array(gzip.compress(pickle.dumps(print)))
