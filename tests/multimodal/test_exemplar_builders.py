"""kitlib.multimodal.example_builders: the answer follows from the prompt, and only from it."""

import pytest

from kitlib.data import captioned, keyed_rng
from kitlib.multimodal.held_out import by_text_alone
from kitlib.multimodal.kit_data import kit_data
from kitlib.multimodal.prompts import without_prefix
from kitlib.multimodal.tasks import kit_tasks
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


@pytest.mark.parametrize(
    ("name", "shots", "named"),
    [
        ("two_exemplars", 2, {False, True}),
        ("four_exemplars", 4, {False, True}),
        ("made_up_words", 4, {False}),
        ("two_exemplars_by_name", 2, {True}),
        ("four_exemplars_by_name", 4, {True}),
        ("two_made_up_words_by_name", 2, {True}),
        ("made_up_words_by_name", 4, {True}),
    ],
)
def test_the_answer_is_the_word_of_the_exemplars_that_show_the_same(name, shots, named):
    """Two words, of the 52 of the tests or of those of images that are read and new ones. If the prompt asks for names,
    the answer has each picture's with its word: in order those of the exemplars, then the query's."""
    names, tests = set(captioned.emoji("train").names["en"]), set(episodes.nonsense())
    others = {*episodes.nonsense(2), *kit_data("train").short_words}
    found = set()
    for example in drawn(name):
        words = [text.removeprefix("Answer in en: what is this? ") for text in example.prompt[:-1]]
        cuts = 1 if name.endswith("_by_name") else 0  # a name of several words and its word behind it
        *steps, answer = [part for pair in example.answer.split(" ; ") for part in pair.rsplit(" ", cuts)]
        assert len(words) == shots and len(set(words)) == 2 and answer in words
        assert set(words) <= (tests if "made_up" in name else others)
        assert example.prompt[-1] == "Answer in en: what is this?" + " first in en" * bool(steps)
        if steps:
            shown = steps[0::2]
            assert set(shown) <= names and steps[1::2] == words and len(shown) == shots + 1
            assert dict(zip(shown[:-1], words, strict=True))[shown[-1]] == answer
        found.add(bool(steps))
    assert found == named and not tests & others


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
    """The gap that `exemplars` describes: Turkish and Vietnamese are in no list of words to read."""
    data = kit_data("train")
    named = {}
    for language, names in data.emoji.names.items():
        for row in data.object_rows:
            named.setdefault(names[row].lower(), []).append((data.emoji.codes[row], language))
    taken = [word for word in data.short_words if word in named]
    held_out = [word for word in taken if any(by_text_alone(*pair) for pair in named[word])]
    assert (len(data.short_words), len(taken), len(held_out)) == (3497, 70, 20)
    assert {language for word in taken for _, language in named[word]} == {"tr", "vi"}
