"""kitlib.data.texts: the committed glosses, their splits, and the errors for other files."""

import gzip
import hashlib
import lzma
import re
from collections import Counter

import pytest

from kitlib import data
from kitlib.data import texts


def test_glosses_are_the_entries_of_lowest_hash_clean_lines_of_a_lemma_and_its_gloss():
    train, test = data.glosses(), data.glosses("test")
    assert len(train) == 18_000 and len(test) == 2_000
    ranks = [hashlib.sha256(line.encode()).hexdigest() for line in train + test]
    assert ranks == sorted(set(ranks))
    assert 1_000_000 < sum(map(len, train + test)) < 2_000_000
    for line in train + test:
        lemma, colon, gloss = line.partition(": ")
        assert colon and gloss and lemma == lemma.lower() and line.isascii() and line.isprintable()
        assert line == " ".join(line.split()) and line.count('"') % 2 == 0


def test_glosses_with_other_content_are_refused(commit, tmp_path):
    for text in (b"a: b\n", b"a: b\n\nc: d\n\ne: f\n", b"a: \xff\n\nc: d\n"):  # one split, three, no UTF-8
        commit(gzip.compress(text), "glosses.txt.gz")
        with pytest.raises(ValueError, match=r"glosses\.txt\.gz is not a data file of the kit.*make_data"):
            data.glosses(data_dir=tmp_path)
    commit(gzip.compress(b"a: b\n\nc: d\n"), "glosses.txt.gz")
    assert data.glosses(data_dir=tmp_path) == ["a: b"] and data.glosses("test", data_dir=tmp_path) == ["c: d"]


def test_no_definition_and_no_example_occurs_twice(make_data):
    seen = set()
    splits = [texts.categorised_glosses(split) for split in ("train", "test")]
    more = [*data.glosses("more"), *(text for split in splits for text, _ in split)]
    assert len(more) == len(set(more)) == 75_938
    for line in [*data.glosses("train"), *data.glosses("test"), *more]:
        parts = make_data.parts(line)
        assert parts and seen.isdisjoint(parts), line
        seen |= parts


def test_categories_are_wordnets(make_texts):
    train, test = texts.categorised_glosses(), texts.categorised_glosses("test")
    assert (len(train), len(test), len(data.glosses("more"))) == (6_000, 2_000, 67_938)
    assert len(make_texts.CATEGORIES) == len(set(make_texts.CATEGORIES)) == 45
    assert {category for _, category in train + test} <= set(make_texts.CATEGORIES)
    assert dict(train + test).keys().isdisjoint(data.glosses("more"))
    found = {text.partition(":")[0]: category for text, category in train + test}
    assert sum(category == "noun.animal" for category in found.values()) > 50
    most = Counter(category for _, category in train).most_common(1)[0][1]
    assert most / len(train) < 0.25  # always the commonest one is a weak answer


def test_messages_are_different_texts_in_many_languages(make_texts):
    # In the order of the texts' sha256: 3fc4... (two) before 7692... (one).
    assert lzma.decompress(make_texts.packed([("b", "two"), ("a", "one")])) == b"b\ttwo\na\tone\n"
    train, test = texts.messages(), texts.messages("test")
    assert (len(train), len(test)) == (51_512, 3_000)
    lines = [text for _, text in train + test]
    assert len(set(lines)) == len(lines) and all(text == " ".join(text.split()) for text in lines)
    languages = Counter(language for language, _ in train)
    assert len(languages) == 96 and languages["de"] > 500
    assert {language for language, _ in test} <= set(languages)
    assert any("日" in text for language, text in train if language == "ja")


@pytest.mark.parametrize("content", [b"", b"a\tb\nc\n", b"a\t\n", b"a\t\xff\n"], ids=["none", "tab", "text", "UTF-8"])
@pytest.mark.parametrize("file", ["more_glosses.txt.xz", "messages.txt.xz"])
def test_compressed_files_with_other_content_are_refused(content, file, commit, tmp_path):
    texts._lines.cache_clear()
    load = texts.messages if file.startswith("messages") else texts.categorised_glosses
    commit(lzma.compress(content), file)
    with pytest.raises(ValueError, match=rf"{re.escape(file)} is not a data file of the kit.*make_texts"):
        load(data_dir=tmp_path)
    with pytest.raises(ValueError, match="Unknown split of the"):
        load("valid", data_dir=tmp_path)
    texts._lines.cache_clear()
