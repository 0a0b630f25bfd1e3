"""kitlib.multimodal.tasks: every task draws valid examples, of a usual length, from its generator alone."""

import numpy as np
import pytest

from kitlib.data import keyed_rng, tokenizer
from kitlib.data.tokenizer import Tokenizer
from kitlib.multimodal.batching import tokenise
from kitlib.multimodal.prompts import PREFIXES, without_prefix
from kitlib.multimodal.tasks import BUILDERS, kit_tasks

COUNT = 20  # examples per task
EPISODES = "made_up_words made_up_words_by_name two_exemplars four_exemplars two_exemplars_by_name"
EPISODES += " four_exemplars_by_name two_made_up_words_by_name"
OBJECTIVES = dict.fromkeys(BUILDERS.keys() - PREFIXES.keys(), "vqa") | dict.fromkeys(EPISODES.split(), "episodic_vqa")
OBJECTIVES |= {"reading": "split_ocr", "finding": "detection"}
TEXTS = "span_corruption translation translation_by_text recall repeated_pairs repeated_made_up_words"
PAIRS = "two_exemplars two_exemplars_by_name two_made_up_words_by_name"
FILMS = "video_captioning video_questions video_questions_by_positions"
IMAGES = {name: count for count, names in ((0, TEXTS), (3, PAIRS), (4, FILMS)) for name in names.split()}
UNITS = {"detection": "AP50", "finding": "AP50", "receipts": "ANLS"}


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_objectives_are_there_and_their_examples_are_valid(split):
    words, tasks = Tokenizer.load(), kit_tasks(split)
    assert set(tasks) == {*BUILDERS} - ({"translation_by_text"} if split == "test" else set())
    for k, (name, task) in enumerate(tasks.items()):
        assert task.name == name and task.unit == UNITS.get(name, "exact match")
        assert (task.draw_all is not None) == BUILDERS[name][1]
        examples, again = [task.draw(keyed_rng(k, i)) for i in range(COUNT)], task.draw(keyed_rng(k, 0))
        assert (again.prompt, again.target) == (examples[0].prompt, examples[0].target)
        np.testing.assert_array_equal(again.images, examples[0].images)
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


def test_every_task_has_a_usual_length():
    """20 examples per task: short enough for rows of this many tokens; longer ones are left out in training."""
    words = tokenizer.multilingual()
    for name, task in kit_tasks("train").items():
        for example in (tokenise(task.draw(keyed_rng(9, i)), words) for i in range(20)):
            assert example.prompt_length <= 96 and len(example.target_tokens) <= 144, name
