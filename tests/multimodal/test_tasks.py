"""kitlib.multimodal.tasks: metrics by hand, the controls, the intervals, the scorecard, and every task of the table."""

import numpy as np
import pytest

from kitlib import configs
from kitlib.data import keyed_rng, tokenizer
from kitlib.data.tokenizer import Tokenizer
from kitlib.models import palix
from kitlib.multimodal import tasks
from kitlib.multimodal.batching import tokenise
from kitlib.multimodal.prompts import PREFIXES, Example, without_prefix
from kitlib.multimodal.tasks import (
    TABLE,
    Task,
    ap50,
    exact_matches,
    kit_tasks,
    letter_similarity,
    scorecard,
    with_control,
)

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
THREE = [
    Example(np.full((1, 64, 64, 3), colour, np.uint8), f"which {i}?", ((f"answer {i}", True),), "vqa")
    for i, colour in enumerate(COLOURS)
]


BOXED = Example(THREE[0].images, "detect", (("0 0 500 500 dog", True),), "detection")


def test_blind_images_are_grey_and_shuffled_images_are_the_next_ones():
    assert [e.images[0, 0, 0].tolist() for e in with_control(THREE, None)] == [list(colour) for colour in COLOURS]
    assert all((e.images == 128).all() for e in with_control(THREE, "blind"))
    shuffled = with_control(THREE, "shuffled")
    assert [tuple(e.images[0, 0, 0].tolist()) for e in shuffled] == [*COLOURS[1:], COLOURS[0]]
    for name in (None, "blind", "shuffled"):
        assert [(e.prompt, e.answer) for e in with_control(THREE, name)] == [(e.prompt, e.answer) for e in THREE]
    with pytest.raises(ValueError, match=r"Unknown control 'deaf'.*Known: blind, shuffled"):
        with_control(THREE, "deaf")
    with pytest.raises(ValueError, match="A single example cannot be shuffled"):
        with_control(THREE[:1], "shuffled")


def test_intervals_of_means_and_of_whole_sets():
    score, low, high = Task("", None, exact_matches).interval(["answer 0", "answer 1", ""], THREE)
    # Wilson, z = 1.96, z^2 = 3.8415: (p + z^2 / 2n ± z sqrt(p (1 - p) / n + (z / 2n)^2)) / (1 + z^2 / n)
    # = (0.6667 + 0.6402 ± 1.96 sqrt(0.0741 + 0.1067)) / 2.2805 = 0.5731 ± 0.3654
    np.testing.assert_allclose((score, low, high), (2 / 3, 0.5731 - 0.3654, 0.5731 + 0.3654), atol=1e-4)
    score, low, high = Task("", None, ap50).interval([BOXED.answer] * 2 + [""] * 2, [BOXED] * 4)
    assert 0 <= low < score < high <= 1


def test_drawn_examples_have_a_generator_each():
    task = Task("numbers", lambda rng: rng.integers(10**9))
    five = task.examples(5, 3)
    assert task.examples(3, 3) == five[:3] and len(set(five)) == 5 and task.examples(5, 4) != five


@pytest.fixture(scope="module")
def model():
    text = {"vocab_size": tokenizer.multilingual().vocab_size}
    model = palix.PaLIX(configs.palix("XS", tower={"image_size": (64, 64)}, text=text))
    return model, palix.init_params(model)


@pytest.mark.slow
def test_a_scorecard(model):
    tasks = [
        Task("colours", None, exact_matches, choose=lambda count, seed: THREE[:count]),
        Task("boxes", lambda rng: BOXED, ap50, "AP50"),
    ]
    table = scorecard(*model, tasks, count=3)
    assert list(table.columns) == ["task", "unit", "n", "score", "low", "high", "blind", "shuffled"]
    assert table["task"].tolist() == ["colours", "boxes"] and table["n"].tolist() == [3, 3]
    assert table["unit"].tolist() == ["exact match", "AP50"]
    assert ((table["low"] <= table["score"]) & (table["score"] <= table["high"])).all()
    with pytest.raises(ValueError, match="There are no examples"):
        scorecard(*model, tasks[:1], count=0)


def test_a_control_is_scored_on_its_own_pictures(monkeypatch):
    """A reader of colours has 1; of grey pictures 0; of red, red and green, shown red, green and red, 1 of 3."""
    names = {colour: f"answer {i}" for i, colour in enumerate(COLOURS)}

    def texts(model, params, examples):
        return [names.get(tuple(example.images[0, 0, 0].tolist()), "grey") for example in examples]

    monkeypatch.setattr(tasks, "generated_texts", texts)
    row = Task("colours", None, choose=lambda count, seed: [THREE[0], THREE[0], THREE[1]]).evaluate(None, None)
    assert (row["score"], row["blind"], row["shuffled"]) == pytest.approx((1, 0, 1 / 3))


def test_the_bootstrap_interval_is_one_of_95_percent():
    """Of 1,000, half are right: 1.96 * sqrt(0.25 / 1000) = 0.031 (50 %: 0.011; 90 %: 0.026). Over 200 resamples an end
    has a standard error of 0.003; the mean over 20 sets, each with other resamples, one below 0.001."""
    share, widths = Task("", None, lambda texts, _: float(np.mean([text == "yes" for text in texts]))), []
    for n in range(980, 1020, 2):
        score, low, high = share.interval(["yes", "no"] * (n // 2), [None] * n)
        assert score == 0.5
        widths.append((high - low) / 2)
    np.testing.assert_allclose(np.mean(widths), 1.96 * np.sqrt(0.25 / 1000), atol=0.0025)


IMAGE = THREE[0].images


def boxed(*objects) -> Example:
    """A detection example whose target is these objects, each given as text."""
    return Example(IMAGE, "detect", ((" ; ".join(objects), True),), "detection")


def test_exact_match_and_letters():
    """One of eight letters is wrong; four are missing, for which ANLS would give 0."""
    predictions = ["answer 0", "answer 9", "answ"]
    assert exact_matches(predictions, THREE).tolist() == [1, 0, 0]
    np.testing.assert_allclose(letter_similarity(predictions, THREE), [1, 1 - 1 / 8, 1 - 4 / 8])
    assert letter_similarity([""] * 3, THREE).tolist() == [0, 0, 0]
    np.testing.assert_allclose(tasks.anls_values(predictions, THREE), [1, 1 - 1 / 8, 0])


def test_last_names():
    """Only what is behind the last " ; " counts, so a wrong first name does not matter; case does not either."""
    target = [Example(IMAGE, "what is this? first in en", (("dog ; chien", True),), "vqa")]
    texts = {"dog ; chien": 1, "cat ; Chien": 1, "chien": 1, "dog ; chat": 0, "dog": 0, "": 0}
    assert tasks.last_names(list(texts), target * 6).tolist() == list(texts.values())


def test_last_words():
    """Whatever stands before the last word, and nothing for an empty text."""
    target = [Example(IMAGE, "what is this? first in en", (("dog dax ; red cat zug ; dog dax", True),), "episodic_vqa")]
    for text, value in (("dog dax", 1), ("cat dax", 1), ("dax ", 1), ("dog zug", 0), ("dax ; dog", 0), ("", 0)):
        assert tasks.last_words([text], target).tolist() == [value]


def test_within_one():
    target = [Example(IMAGE, "how many: dog?", (("3", True),), "vqa")]
    for text, value in (("3", 1), ("2", 1), ("4", 1), ("5", 0), ("1", 0), ("three", 0), ("", 0), ("-3", 0), ("3 ", 0)):
        assert tasks.within_one([text], target).tolist() == [value]
    target = [Example(IMAGE, "how many: dog? first where", (("1 2 ; 4 4 ; 2", True),), "vqa")]
    for text, value in (("1 2 ; 4 4 ; 7 7 ; 3", 1), ("1 2 ; 4", 0), ("2", 1), ("1 2 ; 4 4", 0)):
        assert tasks.within_one([text], target).tolist() == [value]


def test_ap50_by_hand():
    """The one dog is found, and one of two cats. AP of dog: 1. Cat: precision is 1 up to recall 1/2 and 0 after it, so
    51 of the 101 recall points (0, .01, ... .50) count: 51 / 101. The result is the mean of both."""
    truth = [boxed("0 0 500 500 dog", "500 500 999 999 cat"), boxed("0 0 500 500 cat", "9 9 99 99 noise")]
    predictions = ["0 0 500 500 dog ; 500 500 999 999 cat", "600 600 900 900 bird"]
    np.testing.assert_allclose(ap50(predictions, truth), (1 + 51 / 101) / 2)
    assert ap50(["", "nonsense"], truth) == 0 and ap50([e.answer for e in truth], truth) == 1


def test_ap50_with_fewer_bins():
    """Of 33, the last is 32; of 1000 it would be a box of no size in the upper left corner."""
    truth = [boxed("0 0 16 32 dog")]
    assert ap50(["0 0 16 31 dog"], truth, bins=33) == 1 and ap50(["0 0 33 32 dog"], truth, bins=33) == 0


def test_a_wrong_box_before_the_correct_one_reduces_precision():
    """Boxes are ranked by their position in the text. Wrong, then correct: precision is 1/2 at every recall."""
    truth = [boxed("0 0 500 500 dog")]
    np.testing.assert_allclose(ap50(["600 600 900 900 dog ; 0 0 500 500 dog"], truth), 0.5)
    np.testing.assert_allclose(ap50(["0 0 500 500 dog ; 600 600 900 900 dog"], truth), 1.0)


def test_names_of_one_object_in_two_languages_are_one_class():
    """A "gato" is a cat, and the first picture has none. Both boxes of cats are first in their text, so the wrong one
    may come first: precision 1/2 at every recall; with 1 for dogs that is 3/4. By words "gato" is no class at all."""
    truth = [boxed("0 0 500 500 dog"), boxed("0 0 500 500 cat")]
    predictions = ["600 600 900 900 gato ; 0 0 500 500 dog", "0 0 500 500 cat"]
    assert ap50(predictions, truth) == 1
    np.testing.assert_allclose(ap50(predictions, truth, number={"dog": 0, "cat": 1, "gato": 1}), 0.75)
    assert ap50([e.answer for e in truth], truth, number={"dog": 0, "cat": 1, "gato": 1, "owl": 2}) == 1


COUNT = 20  # examples per task
EPISODES = "made_up_words made_up_words_by_name two_exemplars four_exemplars two_exemplars_by_name"
EPISODES += " four_exemplars_by_name two_made_up_words_by_name"
OBJECTIVES = dict.fromkeys(list(TABLE)[len(PREFIXES) :], "vqa") | dict.fromkeys(EPISODES.split(), "episodic_vqa")
OBJECTIVES |= {"reading": "split_ocr", "finding": "detection"}
TEXTS = "span_corruption translation translation_by_text recall repeated_pairs repeated_made_up_words"
PAIRS = "two_exemplars two_exemplars_by_name two_made_up_words_by_name"
VIDEOS = "video_captioning video_questions video_questions_by_positions"
IMAGES = {name: count for count, names in ((0, TEXTS), (3, PAIRS), (4, VIDEOS)) for name in names.split()}
UNITS = {"detection": "AP50", "finding": "AP50", "receipts": "ANLS"}


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_objectives_are_there_and_their_examples_are_valid(split):
    words, tasks = Tokenizer.load(), kit_tasks(split)
    assert set(tasks) == set(TABLE) - ({"translation_by_text"} if split == "test" else set())
    for k, (name, task) in enumerate(tasks.items()):
        assert task.name == name and task.unit == UNITS.get(name, "exact match")
        assert (task.draw_all is not None) == TABLE[name][1]
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
