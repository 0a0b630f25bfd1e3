"""kitlib.data.texts: glosses, messages and facts, their splits, tokens and batches, and the errors for other files."""

import gzip
import hashlib
import lzma
import re
from collections import Counter

import numpy as np
import pytest
from resuming import check_exact_resume

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


SMALL = "\tde\ten\na\thund\tdog\nb\tbär\t\nc\tkuh\tcow\n"  # 5 facts: b has no English name


@pytest.fixture
def small(commit, tmp_path):
    def write(text: str = SMALL):
        commit(gzip.compress(text.encode()), texts.FILE)
        texts._table.cache_clear()
        return tmp_path

    yield write
    texts._table.cache_clear()


def test_tokens_by_hand(small):
    words = texts.vocabulary(data_dir=small())
    # Letters of all names: b c d g h k n o r u w ä = 12. Padding, end, 2 languages, 42 + 42 digits before them.
    assert words.languages == ("de", "en") and "".join(words.letters) == "bcdghknoruwä"
    assert words.size == 2 + 2 + 84 + 12
    assert words.inputs("en", 45) == [3, 4 + 1, 4 + 42 + 3]  # 45 = 1 * 42 + 3
    assert words.targets("dog") == [88 + 2, 88 + 7, 88 + 3, 1]
    assert words.name([90, 95, 91, 1, 90]) == "dog"  # what comes after the end is not read
    assert words.name([90, 5]) == "d?"


def test_facts_of_a_small_file(small):
    folder = small()
    facts = texts.facts("taught", data_dir=folder)
    assert len(facts) == 5 and len(texts.facts("held_out", data_dir=folder)) == 0  # 5 % of 5, rounded down
    words = texts.vocabulary(data_dir=folder)
    for (language, emoji, name), inputs, targets in zip(facts.names, facts.inputs, facts.targets, strict=True):
        assert words.inputs(language, "abc".index(emoji)) == list(inputs)
        assert words.name(targets) == name and len(targets) == 1 + len("hund")
        assert (targets == texts.EOS).sum() == 1 and (targets[len(name) + 1 :] == texts.PAD).all()
    assert facts[1:3].names == facts.names[1:3] and len(facts[1:3]) == 2


def test_the_committed_facts():
    taught, held_out = texts.facts(), texts.facts("held_out")
    assert (len(taught), len(held_out)) == (30_160, 1_587)
    pairs = [{fact[:2] for fact in facts.names} for facts in (taught, held_out)]
    assert len(pairs[0]) == len(taught) and pairs[0].isdisjoint(pairs[1])
    assert {language for language, _ in pairs[1]} == set(texts.vocabulary().languages)
    # An object is asked about that has been named in other languages, but for a few that have one name only.
    known = {emoji for _, emoji in pairs[0]}
    assert np.mean([emoji in known for _, emoji in pairs[1]]) > 0.99
    assert len(np.unique(taught.inputs, axis=0)) == len(taught)  # a question has one answer
    letters = [len(name) for *_, name in taught.names]
    assert max(letters) == 12 and taught.targets.shape == (30_160, 13)
    assert ("de", "🐕", "hund") in set(taught.names) | set(held_out.names)
    # All names are there also if they are too long for a fact, or of objects whose names are left out.
    names, facts = texts.all_names(), {name for *_, name in taught.names + held_out.names}
    assert facts <= {name.lower() for name in names} and all(name.strip() for name in names)
    assert {"uitroepteken", "dấu thăng"} <= set(names) and len(names) > len(facts)


def test_batches_are_of_facts_and_resume():
    """That an epoch has each row once is tested with `image_batches`."""
    facts = texts.facts()[:1000]
    rows = {tuple(row) for row in np.concatenate([facts.inputs, facts.targets], axis=1).tolist()}
    first = next(texts.batches(facts, 256, seed=3))
    found = {tuple(row) for row in np.concatenate([first["inputs"], first["targets"]], axis=1).tolist()}
    assert len(found) == 256 and found < rows
    check_exact_resume(lambda: texts.batches(facts, 256, seed=3), 1)
    assert (next(texts.batches(facts, 256, seed=4))["inputs"] != first["inputs"]).any()


def test_other_files_are_refused(small):
    with pytest.raises(ValueError, match=r"Unknown split of the facts 'test'.*Known: taught, held_out\."):
        texts.facts("test")
    for text in ("", "\tde\n", "\tde\ten\na\thund\n", "\tde\n" + "".join(f"{i}\tx\n" for i in range(42**2 + 1))):
        with pytest.raises(ValueError, match=r"names\.txt\.gz is not a data file of the kit.*make_names"):
            texts.facts(data_dir=small(text))
