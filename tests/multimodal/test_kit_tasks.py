"""kitlib.multimodal.kit_tasks: every task draws valid examples, of a usual length, from its generator alone."""

import numpy as np
import pytest

from kitlib.data import keyed_rng, tokenizer
from kitlib.data.tokenizer import Tokenizer
from kitlib.multimodal.batching import tokenise
from kitlib.multimodal.kit_tasks import MORE, PLURAL, kit_tasks
from kitlib.multimodal.prompts import PREFIXES, without_prefix

COUNT = 20  # examples per task
OBJECTIVES = dict.fromkeys(MORE, "vqa") | dict.fromkeys(
    ("made_up_words", "made_up_words_by_name", "two_exemplars", "four_exemplars"), "episodic_vqa"
)
OBJECTIVES |= dict.fromkeys(
    ("two_exemplars_by_name", "four_exemplars_by_name", "two_made_up_words_by_name"), "episodic_vqa"
)
OBJECTIVES |= {"reading": "split_ocr", "finding": "detection"}
IMAGES = {
    "span_corruption": 0,
    "translation": 0,
    "translation_by_text": 0,
    "recall": 0,
    "repeated_pairs": 0,
    "repeated_made_up_words": 0,
    "two_exemplars": 3,
    "two_exemplars_by_name": 3,
    "two_made_up_words_by_name": 3,
    "video_captioning": 4,
    "video_questions": 4,
    "video_questions_by_positions": 4,
}
UNITS = {"detection": "AP50", "finding": "AP50", "receipts": "ANLS"}


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_objectives_are_there_and_their_examples_are_valid(split):
    words, tasks = Tokenizer.load(), kit_tasks(split)
    more = "easy_vqa receipts naming naming_by_english translation reading finding counting recall"
    more += " two_exemplars four_exemplars made_up_words made_up_words_by_name"
    more += " two_exemplars_by_name four_exemplars_by_name repeated_pairs"
    more += " two_made_up_words_by_name repeated_made_up_words"
    more += " video_questions video_questions_by_positions counting_by_positions"
    more += " translation_by_text" if split == "train" else ""
    assert set(tasks) == {*PREFIXES, *more.split()}
    for k, (name, task) in enumerate(tasks.items()):
        assert task.name == name and task.unit == UNITS.get(name, "exact match")
        assert (task.draw_all is not None) == (name in PLURAL)
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
            partly = name in ("detection", "repeated_pairs", "repeated_made_up_words")
            assert {weight for _, weight in example.target} <= {True, not partly}
            if name != "span_corruption":
                short = without_prefix(example).prompt
                assert isinstance(short, tuple) == episode and (not episode or len(short) == len(prompts))
        distinct = {(example.images.tobytes(), example.prompt, example.answer) for example in examples}
        # Of 834 held-out names, one may be drawn twice.
        assert len(distinct) == COUNT or (name == "translation_by_text" and len(distinct) == COUNT - 1)
        assert np.mean(task.metric([example.answer for example in examples], examples)) == 1


def test_an_example_is_a_function_of_its_generator():
    for k, task in enumerate(kit_tasks("test").values()):
        one, other = (task.draw(keyed_rng(k, 7)) for _ in range(2))
        assert (one.prompt, one.target) == (other.prompt, other.target)
        np.testing.assert_array_equal(one.images, other.images)


def test_every_task_has_a_usual_length():
    """20 examples per task: short enough for rows of this many tokens; longer ones are left out in training."""
    words = tokenizer.multilingual()
    for name, task in kit_tasks("train").items():
        examples = [tokenise(task.draw(keyed_rng(9, i)), words) for i in range(20)]
        longest_prompt = max(example.prompt_length for example in examples)
        longest_target = max(len(example.target_tokens) for example in examples)
        assert longest_prompt <= 96 and longest_target <= 144, name
