"""The margin and the floors of the questions of PaLI-X; what else holds for all questions is in test_questions.py."""

import math

import pytest

from kitlib.studies import palix_tasks
from kitlib.studies.questions_palix import MARGIN, ONE_OF_67, QUESTIONS


def test_the_margin_is_the_standard_error_of_a_share_of_300_examples():
    assert pytest.approx(math.sqrt(0.5 * 0.5 / 300), abs=0.002) == MARGIN


def test_the_floor_of_reading_is_one_of_all_words():
    assert pytest.approx(1 / len(palix_tasks.few_words())) == ONE_OF_67
    assert {q.floor for q in QUESTIONS if q.metric in ("accuracy: word", "accuracy: small_word")} == {ONE_OF_67}
