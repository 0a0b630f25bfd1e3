"""kitlib.multimodal.scores: exact match, letters and average precision, computed by hand."""

import numpy as np

from kitlib.multimodal import scores
from kitlib.multimodal.prompts import Example
from kitlib.multimodal.scores import ap50, exact_matches, letter_similarity

IMAGE = np.zeros((1, 64, 64, 3), np.uint8)
THREE = [Example(IMAGE, f"which {i}?", ((f"answer {i}", True),), "vqa") for i in range(3)]


def boxed(*objects) -> Example:
    """A detection example whose target is these objects, each given as text."""
    return Example(IMAGE, "detect", ((" ; ".join(objects), True),), "detection")


def test_exact_match_and_letters():
    """One of eight letters is wrong; four are missing, for which ANLS would give 0."""
    predictions = ["answer 0", "answer 9", "answ"]
    assert exact_matches(predictions, THREE).tolist() == [1, 0, 0]
    np.testing.assert_allclose(letter_similarity(predictions, THREE), [1, 1 - 1 / 8, 1 - 4 / 8])
    assert letter_similarity([""] * 3, THREE).tolist() == [0, 0, 0]
    np.testing.assert_allclose(scores.anls_values(predictions, THREE), [1, 1 - 1 / 8, 0])


def test_last_names():
    """Only what is behind the last " ; " counts, so a wrong first name does not matter; case does not either."""
    target = [Example(IMAGE, "what is this? first in en", (("dog ; chien", True),), "vqa")]
    texts = {"dog ; chien": 1, "cat ; Chien": 1, "chien": 1, "dog ; chat": 0, "dog": 0, "": 0}
    assert scores.last_names(list(texts), target * 6).tolist() == list(texts.values())


def test_last_words():
    """Whatever stands before the last word, and nothing for an empty text."""
    target = [Example(IMAGE, "what is this? first in en", (("dog dax ; red cat zug ; dog dax", True),), "episodic_vqa")]
    for text, value in (("dog dax", 1), ("cat dax", 1), ("dax ", 1), ("dog zug", 0), ("dax ; dog", 0), ("", 0)):
        assert scores.last_words([text], target).tolist() == [value]


def test_within_one():
    target = [Example(IMAGE, "how many: dog?", (("3", True),), "vqa")]
    for text, value in (("3", 1), ("2", 1), ("4", 1), ("5", 0), ("1", 0), ("three", 0), ("", 0), ("-3", 0), ("3 ", 0)):
        assert scores.within_one([text], target).tolist() == [value]
    target = [Example(IMAGE, "how many: dog? first where", (("1 2 ; 4 4 ; 2", True),), "vqa")]
    for text, value in (("1 2 ; 4 4 ; 7 7 ; 3", 1), ("1 2 ; 4", 0), ("2", 1), ("1 2 ; 4 4", 0)):
        assert scores.within_one([text], target).tolist() == [value]


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


def test_names_of_one_thing_in_two_languages_are_one_class():
    """A "gato" is a cat, and the first picture has none. Both boxes of cats are first in their text, so the wrong one
    may come first: precision 1/2 at every recall; with 1 for dogs that is 3/4. By words "gato" is no class at all."""
    truth = [boxed("0 0 500 500 dog"), boxed("0 0 500 500 cat")]
    predictions = ["600 600 900 900 gato ; 0 0 500 500 dog", "0 0 500 500 cat"]
    assert ap50(predictions, truth) == 1
    np.testing.assert_allclose(ap50(predictions, truth, number={"dog": 0, "cat": 1, "gato": 1}), 0.75)
    assert ap50([e.answer for e in truth], truth, number={"dog": 0, "cat": 1, "gato": 1, "owl": 2}) == 1
