"""kitlib.multimodal.exemplar_builders: the answer follows from the prompt, and only from it."""

import pytest

from kitlib.data import captioned, keyed_rng
from kitlib.multimodal.held_out import by_text_alone
from kitlib.multimodal.kit_data import kit_data
from kitlib.multimodal.kit_tasks import kit_tasks
from kitlib.multimodal.prompts import without_prefix
from kitlib.synthetic import episodes

pytestmark = pytest.mark.slow

COUNT = 20  # examples per task


def drawn(name, split="train"):
    return [kit_tasks(split)[name].draw(keyed_rng(9, i)) for i in range(COUNT)]


def test_episodic_vqa_has_made_up_words_and_easy_vqa():
    for split in ("train", "test"):
        made_up = 0
        for example in drawn("episodic_vqa", split):
            *exemplars, query = example.prompt
            if query.startswith("Answer in en: what is this?"):
                made_up += 1
                assert f"Answer in en: what is this? {example.answer.split(' ; ')[-1]}" in exemplars
            else:
                assert example.answer in captioned.ANSWERS
        assert 0 < made_up < COUNT


def test_words_that_have_a_list_of_their_own_and_words_of_thousands():
    """Two different words, bound to two objects, one of which is the answer. If the prompt asks for names, the answer
    has each picture's with its word: the exemplars' words are those of the prompt, and what has the query's name among
    the exemplars has its word."""
    names, others = set(captioned.emoji("train").names["en"]), {*episodes.nonsense(2), *kit_data("train").short_words}
    by_name = {}
    for name, shots in (
        ("two_exemplars", 2),
        ("four_exemplars", 4),
        ("made_up_words", 4),
    ):
        by_name[name] = 0
        for example in drawn(name):
            words = [text.removeprefix("Answer in en: what is this? ") for text in example.prompt[:-1]]
            *steps, answer = example.answer.split(" ; ")
            assert len(words) == shots and len(set(words)) == 2 and answer in words
            assert set(words) <= (set(episodes.nonsense()) if name.startswith("made_up") else others)
            assert example.prompt[-1].endswith("first in en") == bool(steps)
            if steps:
                by_name[name] += 1
                shown = steps[0::2]
                assert set(shown) <= names and steps[1::2] == words and len(shown) == shots + 1
                assert dict(zip(shown[:-1], words, strict=True))[shown[-1]] == answer
    assert by_name["made_up_words"] == 0
    assert 0 < by_name["two_exemplars"] < COUNT and 0 < by_name["four_exemplars"] < COUNT


def test_by_name_every_image_has_its_name_and_right_behind_it_its_word():
    """The exemplars' words are those of the prompt, in its order; the query has the word of the exemplars of its name.
    Two sorts of words: those of images that are read and new ones; and the 52 of the tests."""
    names, others = set(captioned.emoji("train").names["en"]), {*episodes.nonsense(2), *kit_data("train").short_words}
    tests = set(episodes.nonsense())
    for name, shots, vocabulary in (
        ("two_exemplars_by_name", 2, others),
        ("four_exemplars_by_name", 4, others),
        ("two_made_up_words_by_name", 2, tests),
        ("made_up_words_by_name", 4, tests),
    ):
        for example in drawn(name):
            words = [text.removeprefix("Answer in en: what is this? ") for text in example.prompt[:-1]]
            shown, said = zip(*(pair.rsplit(" ", 1) for pair in example.answer.split(" ; ")), strict=True)
            assert list(said[:-1]) == words and len(words) == shots and len(set(words)) == 2
            assert set(words) <= vocabulary and set(shown) <= names
            assert dict(zip(shown[:-1], words, strict=True))[shown[-1]] == said[-1]
            assert example.prompt[-1] == "Answer in en: what is this? first in en"
    assert not tests & others


def test_repeated_pairs_ask_for_words_that_stand_there_before():
    """Four pairs of two to four names, none of which has two words; then eight of them again, with loss on the word."""
    for task in ("repeated_pairs", "repeated_made_up_words"):
        kinds = set()
        for example in drawn(task):
            (first, loss), *again = example.target
            pairs = dict(pair.rsplit(" ", 1) for pair in first.split(" ; "))
            assert not loss and len(first.split(" ; ")) == 4 and 2 <= len(pairs) <= 4
            assert len({*first.split(" ; ")}) == len(pairs) == len(set(pairs.values()))
            assert (set(pairs.values()) <= set(episodes.nonsense())) == (task == "repeated_made_up_words")
            assert [carries for _, carries in again] == [False, True] * 8
            for (name, _), (word, _) in zip(again[::2], again[1::2], strict=True):
                assert pairs[name.removeprefix(" ; ")] == word.strip()
            kinds.add(len(pairs))
        assert kinds == {2, 3, 4}


def test_a_word_is_recalled_in_every_language():
    """The name that is asked for at last stands in front of the answer, and two to five names were given."""
    numbers = set()
    for example in drawn("recall"):
        *given, asked = without_prefix(example).prompt.split(" ; ")
        assert f"{asked} {example.answer}" in given and len(set(given)) == len(given)
        numbers.add(len(given))
    assert numbers <= {2, 3, 4, 5} and len(numbers) > 2


def test_how_many_short_words_are_names_of_the_kit():
    """The gap that `four_exemplars` describes: Turkish and Vietnamese are in no list of words to read."""
    data = kit_data("train")
    named = {}
    for language, names in data.emoji.names.items():
        for row in data.object_rows:
            named.setdefault(names[row].lower(), []).append((data.emoji.codes[row], language))
    taken = [word for word in data.short_words if word in named]
    held_out = [word for word in taken if any(by_text_alone(*pair) for pair in named[word])]
    assert (len(data.short_words), len(taken), len(held_out)) == (3497, 70, 20)
    assert {language for word in taken for _, language in named[word]} == {"tr", "vi"}
