"""kitlib.palix_scores: controls see what they should, the metrics by hand, and a model that is asked in batches."""

import numpy as np
import pytest

from kitlib import configs, palix, palix_scores, pictures, rendered, scenes, tasks, tokenizer
from kitlib.palix_scores import TASKS, Task, answers, ap50, captions, controlled, exact, interval, letters, scorecard
from kitlib.tasks import Example

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
THREE = [
    Example(np.full((1, 64, 64, 3), colour, np.uint8), f"which {i}?", ((f"answer {i}", True),), "vqa")
    for i, colour in enumerate(COLOURS)
]


def boxed(*objects) -> Example:
    """A detection example whose target is these objects, text by text."""
    return Example(THREE[0].images, "detect", ((" ; ".join(objects), True),), "detection")


# --- controls ---


def test_the_blind_see_grey_and_the_shuffled_the_next_picture():
    assert [e.images[0, 0, 0].tolist() for e in controlled(THREE, None)] == [list(colour) for colour in COLOURS]
    assert all((e.images == 128).all() for e in controlled(THREE, "blind"))
    shuffled = controlled(THREE, "shuffled")
    assert [tuple(e.images[0, 0, 0].tolist()) for e in shuffled] == [*COLOURS[1:], COLOURS[0]]
    for name in (None, "blind", "shuffled"):
        assert [(e.prompt, e.answer) for e in controlled(THREE, name)] == [(e.prompt, e.answer) for e in THREE]
    with pytest.raises(ValueError, match="There is no control 'deaf'; there are: blind, shuffled"):
        controlled(THREE, "deaf")
    with pytest.raises(ValueError, match="One example has no other's pictures"):
        controlled(THREE[:1], "shuffled")


# --- metrics ---


def test_exact_and_by_letters():
    """One of eight letters is wrong; four are missing, for which ANLS would give nothing."""
    predictions = ["answer 0", "answer 9", "answ"]
    assert exact(predictions, THREE).tolist() == [1, 0, 0]
    np.testing.assert_allclose(letters(predictions, THREE), [1, 1 - 1 / 8, 1 - 4 / 8])
    assert letters([""] * 3, THREE).tolist() == [0, 0, 0]


def test_ap50_by_hand():
    """One dog found, one of two cats: AP of dog 1. Cat: the boxes in order are right (precision 1 up to recall 1/2) and
    then nothing: 51 of the 101 recall points (0, .01, ... .50) are reached, so 51 / 101. Their mean."""
    truth = [boxed("0 0 500 500 dog", "500 500 999 999 cat"), boxed("0 0 500 500 cat", "9 9 99 99 noise")]
    said = ["0 0 500 500 dog ; 500 500 999 999 cat", "600 600 900 900 bird"]
    np.testing.assert_allclose(ap50(said, truth), (1 + 51 / 101) / 2)
    assert ap50(["", "nonsense"], truth) == 0 and ap50([e.answer for e in truth], truth) == 1


def test_a_wrong_box_before_the_right_one_costs_precision():
    """In the order of the text: a false one, then a right one; precision 1/2 at every recall."""
    truth = [boxed("0 0 500 500 dog")]
    np.testing.assert_allclose(ap50(["600 600 900 900 dog ; 0 0 500 500 dog"], truth), 0.5)
    np.testing.assert_allclose(ap50(["0 0 500 500 dog ; 600 600 900 900 dog"], truth), 1.0)


def test_intervals_of_means_and_of_whole_sets():
    score, low, high = interval(Task("", None, exact), ["answer 0", "answer 1", ""], THREE)
    np.testing.assert_allclose((score, low, high), (2 / 3, 0, 1))
    truth = [boxed("0 0 500 500 dog")] * 4
    said = ["0 0 500 500 dog"] * 2 + [""] * 2
    score, low, high = interval(Task("", None, ap50), said, truth)
    assert 0 <= low < score < high <= 1


# --- tasks ---


def test_captions_are_of_their_language_and_placed_anew():
    names = pictures.emoji("train").names["el"]
    one, other = captions("el")(12, 0), captions("el")(12, 1)
    assert {e.answer for e in one} <= set(names) and len({e.answer for e in one}) == 12
    assert all(e.prompt == "Generate the alt-text in el at 0: <extra_id_0>" for e in one)
    assert [e.answer for e in one] != [e.answer for e in other]
    assert len(captions("en", "test")(1000, 0)) == 83


def test_words_to_read_are_of_the_test():
    known = {word for words in rendered.words("test").values() for word in words}
    made = palix_scores.reading()(18, 0)
    assert all(e.answer in known for e in made) and len({e.prompt for e in made}) == 8  # digits ask in English


def test_all_tasks_make_what_they_say():
    assert len({task.name for task in TASKS}) == len(TASKS)
    for task in TASKS:
        if not task.name.startswith("captions"):
            made = task.make(3, 0)
            assert len(made) == 3 and all(isinstance(e, Example) for e in made), task.name
            perfect = np.mean(task.metric([e.answer for e in made], made))
            assert perfect == 1, task.name
            again = task.make(3, 0)
            assert all((a.images == b.images).all() and a.prompt == b.prompt for a, b in zip(made, again, strict=True))


# --- a model ---


@pytest.fixture(scope="module")
def model():
    config = configs.palix(
        "XS", tower={"image_size": (64, 64)}, text={"vocab_size": tokenizer.multilingual().vocab_size}
    )
    return palix.PaLIX(config), palix.init_params(palix.PaLIX(config))


def test_answers_do_not_depend_on_the_batch(model):
    """Three examples in batches of four (one is filled up) and of two (the last is)."""
    one, other = (answers(*model, THREE, batch_size=size) for size in (4, 2))
    assert one == other and len(one) == 3 and all(isinstance(text, str) for text in one)


def test_nothing_to_ask(model):
    with pytest.raises(ValueError, match="There are no examples, so there is nothing to ask"):
        answers(*model, [])
    with pytest.raises(ValueError, match="There are no examples"):
        scorecard(*model, [Task("colours", lambda count, seed: THREE[:count], exact)], count=0)
    with pytest.raises(ValueError, match="batch_size is 0; expected at least 1"):
        answers(*model, THREE, batch_size=0)
    with pytest.raises(ValueError, match="There is no language 'german': did you mean 'de'"):
        captions("german")(3, 0)


def test_an_answer_may_be_longer_than_all_that_are_wanted(model, monkeypatch):
    """It is cut off at one and a half times the length for the longest of them: here 8 tokens, so 12."""
    asked = {}

    def endless(model, params, inputs, *, max_length):
        asked["length"] = max_length
        return np.full((len(inputs["tokens"]), max_length), 500), None

    monkeypatch.setattr(palix_scores.decode, "greedy", endless)
    assert len(answers(*model, THREE)) == 3 and asked["length"] == 12


def test_answers_do_not_depend_on_the_room(model):
    """More room for the prompt is padding. More for the answer lets it go on: the first texts begin the second."""
    shape = palix_scores.shape_of(model[0], THREE)
    roomy = answers(*model, THREE, batch_size=4, shape=shape | {"inputs": shape["inputs"] + 8})
    longer = answers(*model, THREE, batch_size=4, shape=shape | {"targets": shape["targets"] + 8})
    assert roomy == answers(*model, THREE, batch_size=4)
    assert all(text.startswith(start) for text, start in zip(longer, roomy, strict=True))
    with pytest.raises(ValueError, match="there is room for 1 pictures, few-shot with a prompt each, of 2 tokens"):
        answers(*model, THREE, shape=shape | {"inputs": 2})


def test_a_scorecard(model):
    chosen = [
        Task("colours", lambda count, seed: THREE[:count], exact),
        Task("boxes", lambda count, seed: [boxed("0 0 500 500 dog")] * count, ap50, "AP50"),
    ]
    table = scorecard(*model, chosen, count=3)
    assert list(table.columns) == ["task", "unit", "n", "score", "low", "high", "blind", "shuffled"]
    assert table["task"].tolist() == ["colours", "boxes"] and table["n"].tolist() == [3, 3]
    assert ((table["low"] <= table["score"]) & (table["score"] <= table["high"])).all()


def test_few_shot_and_other_questions_are_asked_apart(model):
    cutouts = scenes.objects("train")[0]
    few = tasks.episodic_vqa(scenes_of(cutouts), ["a", "b"], ["c", "d"], "en")
    with pytest.raises(ValueError, match="batch of their own"):
        answers(*model, [THREE[0], few])


def scenes_of(cutouts) -> np.ndarray:
    return np.stack([scenes.compose(cutouts, [i], (12, 20), np.random.default_rng(i)).image for i in range(2)])
