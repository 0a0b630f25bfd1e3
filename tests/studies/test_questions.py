"""The questions of the stored tables: judged by hand on a small table, and consistent with the tables that exist."""

import numpy as np
import pandas as pd
import pytest

from kitlib.studies import questions, runner
from kitlib.studies.questions import Question


@pytest.fixture
def table():
    """Losses of 10 + seed - slope * steps (and a little noise), for two arms and three seeds."""
    slopes, noise = {"dense": 0.1, "steep": 0.3, "scratch": 0.2}, [0.0, 0.01, -0.01]
    return pd.DataFrame(
        {
            "arm": arm, "seed": seed, "extra_steps": steps, "extra_cost": steps / 20,
            "loss": 10 + seed - slope * steps + noise[seed] * (arm == "steep"),
        }
        for arm, slope in slopes.items()
        for seed in range(3)
        for steps in (0, 10, 20)
    )  # fmt: skip


def ask(table, arm, baseline, **options):
    return questions.compare(Question("is it better?", "made", arm, baseline, 0.5, **options), table)


def test_comparisons_are_paired(table):
    # Losses at the end are 10 + seed - 20 slope: the steep arm saves (0.3 - 0.1) * 20 = 4, with noise of mean 0.
    gain = ask(table, "steep", "dense")
    assert gain.mean == pytest.approx(4.0) and gain.spread == pytest.approx(0.01) and gain.n == 3
    assert ask(table, "dense", "steep", column="extra_steps", position=10).mean == pytest.approx(-2.0)
    # The same numbers as an accuracy, for which more is better: the gain of the steep arm is -4.
    renamed = table.rename(columns={"loss": "shift_accuracy"})
    assert ask(renamed, "steep", "dense", metric="shift_accuracy").mean == pytest.approx(-4.0)


def test_total_cost_counts_the_parent_of_all_arms_but_scratch(table):
    # At a total cost of 1, scratch has cost 1 (20 steps), and dense 0 beyond its parent: 10 - 4 against 10.
    gain = ask(table, "scratch", "dense", column="total_cost", position=1.0)
    assert gain.mean == pytest.approx(4.0)


def test_gains_can_be_compared(table):
    # steep gains 4 on dense, scratch gains 2.
    assert ask(table, ("steep", "dense"), ("scratch", "dense")).mean == pytest.approx(2.0)
    accuracy = table.rename(columns={"loss": "accuracy"})
    assert ask(accuracy, ("steep", "dense"), ("scratch", "dense"), metric="accuracy").mean == pytest.approx(-2.0)


def test_a_table_is_a_family(table):
    asked = [Question(f"q{i}", "made", "steep", "dense", 0.5) for i in range(4)]
    alone, together = questions.judge(asked[:1], table), questions.judge(asked, table)
    np.testing.assert_allclose(together["p"], 4 * alone["p"].iloc[0])
    assert list(together["claim"]) == ["q0", "q1", "q2", "q3"] and set(together["verdict"]) == {"seen"}


def test_a_question_can_need_another_ones_answer(table):
    """That steep beats scratch is asked only if scratch beats dense, which it does, by 2; the reverse it does not."""
    asked = [
        Question("scratch helps", "made", "scratch", "dense", 0.5),
        Question("scratch harms", "made", "dense", "scratch", 0.5),
        Question("after a yes", "made", "steep", "scratch", 0.5, needs=("scratch helps",)),
        Question("after a no", "made", "steep", "scratch", 0.5, needs=("scratch harms",)),
    ]
    found = questions.judge(asked, table).set_index("claim")["verdict"]
    assert list(found) == ["seen", "reversed", "seen", "precondition not met"]


def test_every_needed_question_is_asked_of_the_same_table():
    for paper in questions.PAPERS:
        asked = questions.questions_of(paper)
        claims = {(question.table, question.claim) for question in asked}
        assert all((question.table, need) in claims for question in asked for need in question.needs)


def test_errors_name_the_question(table):
    with pytest.raises(ValueError, match="Unknown arm of made 'stepe'; did you mean 'steep'"):
        ask(table, "stepe", "dense")
    with pytest.raises(ValueError, match=r"made: is it better\?: got NaN"):
        ask(table, "steep", "dense", column="extra_steps", position=30)
    with pytest.raises(ValueError, match="Is more or less of 'happiness: of readers' better"):
        questions.higher_is_better("happiness: of readers")
    with pytest.raises(ValueError, match="Unknown table of palix with questions 'frame'; did you mean 'frames'"):
        questions.answers("palix", "frame")


@pytest.mark.parametrize("paper", questions.PAPERS)
def test_every_stored_table_has_questions_and_every_question_a_verdict(paper):
    rows = questions.answers(paper)
    # A study that has not been run yet has no table, tables of trials choose a recipe or are read by the gates, and
    # those of probes only describe. (`ocr_tuning` of PaLI-X is PaLI-X's name for a part of its recipe.)
    stored = {path.stem.partition("_")[2] for path in runner.RESULTS.glob(f"{paper}_*.csv")}
    not_asked = {name for name in stored - {"ocr_tuning"} if name.endswith(("_parents", "_tuning", "_probes"))}
    gates = {f"{q.gate}_curves" for other in questions.PAPERS for q in questions.questions_of(other) if q.gate}
    assert stored - not_asked - gates <= set(rows["table"]) <= stored - not_asked
    assert stored <= set(runner.studies_of(paper))
    assert not rows.duplicated(["table", "claim"]).any()
    known = "seen|reversed|floor|no difference above .*|undecided .needs .* seeds.|precondition not met"
    assert rows["verdict"].str.fullmatch(known).all()
    assert ((rows["low"] <= rows["gain"]) & (rows["gain"] <= rows["high"]) & (rows["margin"] > 0)).all()
    assert rows["where"].str.fullmatch(r"\d\d\.\d+").all()
