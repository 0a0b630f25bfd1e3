"""kitlib.data.texts: facts, their tokens and splits, batches, and the errors for other files."""

import gzip

import numpy as np
import pytest
from resuming import check_exact_resume

from kitlib.data import texts

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
    for (language, thing, name), inputs, targets in zip(facts.names, facts.inputs, facts.targets, strict=True):
        assert words.inputs(language, "abc".index(thing)) == list(inputs)
        assert words.name(targets) == name and len(targets) == 1 + len("hund")
        assert (targets == texts.EOS).sum() == 1 and (targets[len(name) + 1 :] == texts.PAD).all()
    assert facts[1:3].names == facts.names[1:3] and len(facts[1:3]) == 2


def test_the_committed_facts():
    taught, held_out = texts.facts(), texts.facts("held_out")
    assert (len(taught), len(held_out)) == (30_160, 1_587)
    pairs = [{fact[:2] for fact in facts.names} for facts in (taught, held_out)]
    assert len(pairs[0]) == len(taught) and pairs[0].isdisjoint(pairs[1])
    assert {language for language, _ in pairs[1]} == set(texts.vocabulary().languages)
    # A thing is asked about that has been named in other languages, but for a few that have one name only.
    known = {thing for _, thing in pairs[0]}
    assert np.mean([thing in known for _, thing in pairs[1]]) > 0.99
    assert len(np.unique(taught.inputs, axis=0)) == len(taught)  # a question has one answer
    letters = [len(name) for *_, name in taught.names]
    assert max(letters) == 12 and taught.targets.shape == (30_160, 13)
    assert ("de", "🐕", "hund") in set(taught.names) | set(held_out.names)
    # All names are there also if they are too long for a fact, or of things whose names are left out.
    names, facts = texts.all_names(), {name for *_, name in taught.names + held_out.names}
    assert facts <= {name.lower() for name in names} and all(name.strip() for name in names)
    assert {"uitroepteken", "dấu thăng"} <= set(names) and len(names) > len(facts)


def test_batches_are_of_facts_and_resume():
    """That an epoch has each row once is tested with `shuffled_batches`."""
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
