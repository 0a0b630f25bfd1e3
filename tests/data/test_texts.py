"""kitlib.data.texts: the committed glosses, their splits, and the errors for other files."""

import gzip
import hashlib

import pytest

from kitlib import data


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


def test_glosses_of_another_split_or_from_a_bad_file(commit, tmp_path):
    with pytest.raises(ValueError, match=r"Unknown split of the glosses 'validation'.*Known: train, test\."):
        data.glosses("validation")
    with pytest.raises(FileNotFoundError, match=r"glosses\.txt\.gz is missing"):
        data.glosses(data_dir=tmp_path)
    commit(b"a: b", "glosses.txt.gz")
    (tmp_path / "glosses.txt.gz").write_bytes(b"a: c")
    with pytest.raises(ValueError, match=r"glosses\.txt\.gz is damaged or was changed"):
        data.glosses(data_dir=tmp_path)


@pytest.mark.parametrize("kind", ["text", "empty", "cut gzip", "broken gzip", "one split", "three splits", "no UTF-8"])
def test_glosses_with_other_content_are_refused(kind, commit, tmp_path):
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
    commit(content, "glosses.txt.gz")
    with pytest.raises(ValueError, match=r"glosses\.txt\.gz is not a data file of the kit.*make_data"):
        data.glosses(data_dir=tmp_path)
    commit(good, "glosses.txt.gz")
    assert data.glosses(data_dir=tmp_path) == ["a: b"] and data.glosses("test", data_dir=tmp_path) == ["c: d"]
