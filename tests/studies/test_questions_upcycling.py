"""The margins of the questions of upcycling; what else holds for all questions is in test_questions.py."""

import pytest

from kitlib.studies import tables
from kitlib.studies.questions_upcycling import QUESTIONS


@pytest.mark.parametrize(("prefix", "steps"), [("pictures", 3000), ("recall", 2000), ("text", 1500)])
def test_the_margins_of_upcycling_follow_their_rule(prefix, steps):
    """A tenth of what dense training gains from half of the parent's steps, to one digit."""
    curve = tables.read_table("upcycling", f"{prefix}_curves")
    dense = curve[curve["arm"] == "dense"].groupby("extra_steps")["loss"].mean()
    margin = {q.margin for q in QUESTIONS if q.table.startswith(prefix) and q.metric != "accuracy"}
    assert margin == {float(f"{(dense[0] - dense[steps]) / 10:.0e}")}


def test_no_question_compares_an_arm_that_makes_no_choice():
    """With two experts and C = 2 every expert takes every token."""
    assert not any("E=2" in (q.arm, q.baseline) for q in QUESTIONS)
