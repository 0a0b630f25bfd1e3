"""kitlib.studies.palix.easy_tasks: every task and test of the studies, from its examples."""

import dataclasses

import numpy as np
import pytest

from kitlib.data import captioned, keyed_rng, tokenizer
from kitlib.multimodal import batching, boxes
from kitlib.multimodal.prompts import without_prefix
from kitlib.studies.palix import arms, easy_tasks
from kitlib.studies.palix.easy_tasks import counted_boxes, study_tasks, tasks_of_tests

WORDS = tokenizer.multilingual()
TESTS = {name for _, arms in arms.questions().values() for arm in arms.values() for _, name in arm.tests}


def draw(name: str, seed: int, i: int = 0):
    return study_tasks()[name].draw(keyed_rng(seed, i))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TESTS))
def test_the_targets_of_every_test_have_a_perfect_score(name):
    task = tasks_of_tests()[name]
    examples = task.examples(6, 0)
    assert np.mean(task.metric([example.answer for example in examples], examples)) == 1
    assert np.mean(task.metric(["nothing of the kind"] * 6, examples)) < 0.5


def test_tests_of_unseen_examples_are_of_the_test_split():
    train, test = study_tasks("train"), study_tasks("test")
    for name, split, task in (
        ("counting", train, "counting"), ("easy_vqa", test, "easy_vqa"), ("asked_naming", train, "asked_naming"),
        ("made_up_words, unseen", test, "made_up_words"), ("asked_easy_vqa", test, "asked_easy_vqa"),
    ):  # fmt: skip
        one, other = tasks_of_tests()[name].examples(1, 5)[0], split[task].examples(1, 5)[0]
        np.testing.assert_array_equal(one.images, other.images)
        assert (one.prompt, one.target) == (other.prompt, other.target)


def test_only_the_exemplars_show_the_language():
    """Five objects with their names in one language, the last one to be named. All three languages are about equally
    common (90 draws: 30 each, +- 3 standard deviations of 4.5)."""
    names = captioned.emoji("train").names
    found = []
    for i in range(90):
        example = draw("shown_language", 6, i)
        *exemplars, query = example.prompt
        assert len(example.images) == 5 and len({*exemplars, example.answer}) == 5 and query == "<extra_id_0>"
        languages = [code for code in easy_tasks.SPOKEN if {*exemplars, example.answer} <= set(names[code])]
        assert len(languages) == 1
        found += languages
    assert all(abs(found.count(code) - 30) <= 13 for code in easy_tasks.SPOKEN)


def test_counted_boxes_by_hand():
    noise = " ; 1 1 2 2 noise"
    targets = ("1 1 5 5 dog" + noise, "1 1 5 5 dog ; 2 2 9 9 dog", "1 1 2 2 noise")
    examples = [
        dataclasses.replace(example, target=((text, True),))
        for example, text in zip(tasks_of_tests()["counting"].examples(3, 0), targets, strict=True)
    ]
    texts = ["3 3 4 4 dog", "3 3 4 4 cat" + noise, "9 9 9 9 noise ; broken"]
    assert counted_boxes(texts, examples).tolist() == [1, 0, 1]


def test_the_mixture_before_counting_has_no_counts():
    """Its answers have no number words and no digits, except for boxes and names: pizza is "1 slice of pizza" in Thai,
    however many there are."""
    for name in arms.THREE_OBJECTIVES:
        for i in range(40):
            example = draw(name, 3, i)
            assert "how many" not in str(example.prompt)
            if name == "detection":
                prompted = without_prefix(example).prompt.split(" ; ")
                assert set(boxes.from_text(example.answer)[1]) <= {*prompted, boxes.NOISE}
            assert name != "object_aware_vqa" or not any(character.isdigit() for character in example.answer)


@pytest.mark.parametrize(("frames", "share"), [(2, 6 / 14), (4, 11 / 14), (8, 1.0), (16, 1.0)])
def test_how_many_videos_show_the_passing_object(frames, share):
    """It appears at moment 0 to 13, for 3 moments. Two frames are moments 4 and 12: of the 14 first moments, 2, 3, 4,
    10, 11 and 12 include one of them. Four frames are 2, 6, 10, 14: all first moments but 3, 7 and 11. The gaps between
    eight frames are shorter than 3. Where all frames are equal, only the background is visible."""
    videos = [draw(f"film_{frames}", 1, i).images for i in range(200)]
    assert all(len(video) == frames for video in videos)
    visible = np.mean([(video != video[0]).any() for video in videos])
    assert abs(visible - share) <= 3 * np.sqrt(share * (1 - share) / 200)


def test_counts_in_words_and_in_boxes_are_the_same():
    """Zero to four of a kind, equally likely (200 draws: 40 of each, +- 3 standard deviations of 5.7)."""
    counts = [int(draw("counting", 2, i).answer) for i in range(200)]
    assert set(counts) == {0, 1, 2, 3, 4} and all(abs(counts.count(n) - 40) <= 17 for n in range(5))
    in_words = tasks_of_tests()["counting"].examples(20, 0)
    in_boxes = tasks_of_tests()["counted boxes"].examples(20, 0)
    for one, other in zip(in_words, in_boxes, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        names = boxes.from_text(other.answer)[1]
        assert len(names) - names.count(boxes.NOISE) == int(one.answer)


def test_questions_about_words_are_about_their_order():
    for i in range(20):
        with_text, alone = (draw(f"words_{kind}", 4, i) for kind in ("with_text", "alone"))
        np.testing.assert_array_equal(with_text.images, alone.images)
        assert with_text.answer == alone.answer and with_text.answer not in alone.prompt
        pair = [word for word in with_text.prompt.split() if word in easy_tasks.few_words()]
        assert len(pair) == 2 and with_text.answer == pair["last" in alone.prompt]


def test_bare_prompts_have_no_prefix():
    for name in easy_tasks.BARE:
        whole, bare = draw(name, 0), draw(f"bare_{name}", 0)
        assert whole.prompt.endswith(bare.prompt) and len(bare.prompt) < len(whole.prompt)
        assert whole.answer == bare.answer


def test_repeated_prompts_differ_only_in_their_loss():
    """Arms are tested on the same answers for the same images, and only those answers count in their test losses."""
    for name in easy_tasks.REPEATED:
        plain, asked = (tasks_of_tests()[test].examples(3, 0) for test in (name, f"asked_{name}"))
        for one, other in zip(plain, asked, strict=True):
            np.testing.assert_array_equal(one.images, other.images)
            assert other.prompt == one.prompt and other.target == ((one.prompt, False), (f" {one.answer}", True))
            told = draw(f"told_{name}", 0)
            assert [weight for _, weight in told.target] == [True, True] and told.target[0][0] == told.prompt
            ids, weights = batching.target_tokens(other, WORDS)
            assert sum(weights) == len(batching.target_tokens(one, WORDS)[0])
            assert WORDS.decode(ids) == f" {one.prompt} {one.answer}"
    texts = [f"{asked[0].prompt} {asked[0].target[1][0].strip()}", "is it?", asked[2].prompt]
    assert easy_tasks.behind_the_prompt(texts, asked).tolist() == [1, 0, 0]
