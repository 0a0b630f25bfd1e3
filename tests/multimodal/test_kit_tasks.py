"""kitlib.multimodal.kit_tasks: every task draws valid examples, and the tasks of the scorecard are what they say."""

import numpy as np
import pytest

from kitlib.data import captioned, keyed_rng, tokenizer
from kitlib.data.tokenizer import Tokenizer
from kitlib.multimodal.batching import tokenise
from kitlib.multimodal.kit_tasks import MORE, TASKS, caption_examples, kit_tasks, reading_examples
from kitlib.multimodal.prompts import PREFIXES, Example, without_prefix
from kitlib.multimodal.scores import ap50, exact_matches
from kitlib.synthetic import rendered_text

COUNT = 20  # examples per task
OBJECTIVES = dict.fromkeys(MORE, "vqa") | dict.fromkeys(("made_up_words", "two_exemplars"), "episodic_vqa")
IMAGES = {"span_corruption": 0, "two_exemplars": 3, "video_captioning": 4, "video_questions": 4}


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_objectives_are_there_and_their_examples_are_valid(split):
    words, tasks = Tokenizer.load(), kit_tasks(split)
    assert set(tasks) == {*PREFIXES, "easy_vqa", "receipts", "naming", "counting", "video_questions"} | {
        "made_up_words",
        "two_exemplars",
    }
    for k, (name, task) in enumerate(tasks.items()):
        assert task.name == name and task.metric is (ap50 if name == "detection" else exact_matches)
        examples = [task.draw(keyed_rng(k, i)) for i in range(COUNT)]
        for example in examples:
            assert example.task == OBJECTIVES.get(name, name)
            assert example.images.dtype == np.uint8 and example.images.shape[1:] == (64, 64, 3)
            episode = example.task.startswith("episodic")
            count = IMAGES.get(name, 5 if episode else 1)
            prompts = example.prompt if isinstance(example.prompt, tuple) else [example.prompt]
            assert len(example.images) == count and isinstance(example.prompt, tuple) == episode
            assert len(prompts) == (count if episode else 1)
            for text in (*prompts, example.answer):
                assert type(text) is str and text.strip() and words.decode(words.encode(text)) == text
            assert {weight for _, weight in example.target} <= {True, name != "detection"}
            if name != "span_corruption":
                short = without_prefix(example).prompt
                assert isinstance(short, tuple) == episode and (not episode or len(short) == len(prompts))
        distinct = {(example.images.tobytes(), example.prompt, example.answer) for example in examples}
        assert len(distinct) == COUNT


def test_an_example_is_a_function_of_its_generator():
    for k, task in enumerate(kit_tasks("test").values()):
        one, other = (task.draw(keyed_rng(k, 7)) for _ in range(2))
        assert (one.prompt, one.target) == (other.prompt, other.target)
        np.testing.assert_array_equal(one.images, other.images)


def test_every_task_has_a_usual_length():
    """20 examples per task; no batch needs longer rows than those of the training stages."""
    words = tokenizer.multilingual()
    for name, task in kit_tasks("train").items():
        examples = [tokenise(task.draw(keyed_rng(9, i)), words) for i in range(20)]
        longest_prompt = max(example.prompt_length for example in examples)
        longest_target = max(len(example.target_tokens) for example in examples)
        assert longest_prompt <= 96 and longest_target <= 128, name


@pytest.mark.slow
def test_caption_examples_are_of_their_language_and_differ_between_seeds():
    names = captioned.emoji("train").names["el"]
    one, other = caption_examples("el")(12, 0), caption_examples("el")(12, 1)
    assert {e.answer for e in one} <= set(names) and len({e.answer for e in one}) == 12
    assert all(e.prompt == "Generate the alt-text in el at 0: <extra_id_0>" for e in one)
    assert [e.answer for e in one] != [e.answer for e in other]
    assert len(caption_examples("en", "test")(1000, 0)) == 83
    with pytest.raises(ValueError, match=r"'german'.* did you mean 'de'"):
        caption_examples("german")(3, 0)


@pytest.mark.slow
def test_words_to_read_are_of_the_test_split():
    known = {word for words in rendered_text.words("test").values() for word in words}
    examples = reading_examples()(18, 0)
    # Eight languages, and digits, whose prompts are English.
    assert all(e.answer in known for e in examples) and len({e.prompt for e in examples}) == 8


@pytest.mark.slow
def test_all_tasks_of_the_scorecard_have_examples_and_a_perfect_score_for_their_answers():
    assert len({task.name for task in TASKS}) == len(TASKS)
    for task in TASKS:
        if not task.name.startswith("captions"):
            examples = task.examples(3, 0)
            assert len(examples) == 3 and all(isinstance(e, Example) for e in examples), task.name
            perfect = np.mean(task.metric([e.answer for e in examples], examples))
            assert perfect == 1, task.name
            again = task.examples(3, 0)
            pairs = zip(examples, again, strict=True)
            assert all((a.images == b.images).all() and a.prompt == b.prompt for a, b in pairs)
