"""kitlib.multimodal.exemplar_builders: the answer follows from the prompt, and only from it."""

import numpy as np
import pytest

from kitlib.data import captioned, keyed_rng
from kitlib.multimodal import example_builders, exemplar_builders
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


def test_exemplars_in_training_have_other_made_up_words_than_the_tests():
    """Two different words, bound to two objects, one of which is the answer; after a name if the prompt asks it."""
    names, by_name = set(captioned.emoji("train").names["en"]), {}
    for name, shots in (
        ("two_exemplars", 2),
        ("four_exemplars", 4),
        ("made_up_words", 4),
        ("made_up_words_by_name", 4),
    ):
        by_name[name] = 0
        for example in drawn(name):
            words = [text.removeprefix("Answer in en: what is this? ") for text in example.prompt[:-1]]
            *first, answer = example.answer.split(" ; ")
            assert len(words) == shots and len(set(words)) == 2 and answer in words
            assert set(words) <= set(episodes.nonsense(1 if name.startswith("made_up") else 2))
            assert set(first) <= names and example.prompt[-1].endswith("first in en") == len(first)
            by_name[name] += len(first)
    assert by_name["made_up_words"] == 0 and by_name["made_up_words_by_name"] == COUNT
    assert 0 < by_name["two_exemplars"] < COUNT and 0 < by_name["four_exemplars"] < COUNT


def test_a_word_is_asked_for_and_the_answer_is_the_name_of_its_picture(monkeypatch):
    """The episode is drawn again with the same generator; its kinds are 0 and 1, of the two rows that were drawn."""
    seen, draw = [], episodes.episode
    monkeypatch.setattr(episodes, "episode", lambda *args, **kwargs: seen.append(draw(*args, **kwargs)) or seen[-1])
    names, data = captioned.emoji("train").names["en"], kit_data("train")
    for i in range(COUNT):
        rows = keyed_rng(9, i).choice(data.object_rows, 2, replace=False)
        example = exemplar_builders.names_by_word(data, keyed_rng(9, i))
        word = example.prompt[-1].removeprefix("Answer in en: what is ").rstrip("?")
        kind = seen[-1].kinds[seen[-1].words.index(word)]
        assert example.answer == names[rows[kind]] and len(example.images) == 3


def test_a_word_is_recalled_in_every_language():
    """The name that is asked for at last stands in front of the answer, and two to five names were given."""
    numbers = set()
    for example in drawn("recall"):
        *given, asked = without_prefix(example).prompt.split(" ; ")
        assert f"{asked} {example.answer}" in given and len(set(given)) == len(given)
        numbers.add(len(given))
    assert numbers <= {2, 3, 4, 5} and len(numbers) > 2


def test_a_word_is_recalled_by_a_picture_of_its_object():
    """The answer stands behind the name of what is pictured, in a language in which pictures of it are named. All
    places of the prompt have it equally often: of 80 prompts the first has between a quarter and a half."""
    seen, draw = [], example_builders.pictured
    for i in range(COUNT):
        rng = keyed_rng(8, i)
        row = draw(kit_data("train"), kit_data("train").object_rows, keyed_rng(8, i))[1]
        for example in exemplar_builders.recalls_by_picture(kit_data("train"), rng):
            language, rest = example.prompt.removeprefix("Answer in ").split(": ", 1)
            *given, asked = rest.split(" ; ")
            answers = [text for text in given if text.endswith(f"? {example.answer}")]
            name = captioned.emoji("train").names[language][row]
            assert asked == "what is this?" and answers == [f"what is {name}? {example.answer}"]
            assert not by_text_alone(captioned.emoji("train").codes[row], language) and 2 <= len(given) <= 4
            seen.append(given.index(answers[0]) == 0)
    assert 0.2 < np.mean(seen) < 0.7
