"""The claims: questions judged by hand on a small table; in step with stored tables, notebooks and tests."""

import math
import re

import nbformat
import numpy as np
import pandas as pd
import pytest

from kitlib.data.files import ROOT
from kitlib.studies import claims, palix_tasks, runner, tables
from kitlib.studies.claims import Claim, Question
from kitlib.tools.notebook_files import check_lines


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
    return claims.gain_of(Question("is it better?", "made", arm, baseline, 0.5, **options), table)


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
    alone, together = claims.judged_rows(asked[:1], table), claims.judged_rows(asked, table)
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
    found = claims.judged_rows(asked, table).set_index("claim")["verdict"]
    assert list(found) == ["seen", "reversed", "seen", "precondition not met"]


def test_every_needed_question_is_asked_of_the_same_table():
    for paper in claims.PAPERS:
        asked = claims.questions_of(paper)
        known = {(question.table, question.claim) for question in asked}
        assert all((question.table, need) in known for question in asked for need in question.needs)


def test_errors_name_the_question(table):
    with pytest.raises(ValueError, match="Unknown arm of made 'stepe'; did you mean 'steep'"):
        ask(table, "stepe", "dense")
    with pytest.raises(ValueError, match=r"made: is it better\?: got NaN"):
        ask(table, "steep", "dense", column="extra_steps", position=30)
    with pytest.raises(ValueError, match="Is more or less of 'happiness: of readers' better"):
        claims.higher_is_better("happiness: of readers")
    with pytest.raises(ValueError, match="Unknown table of palix with questions 'frame'; did you mean 'frames'"):
        claims.answers("palix", "frame")


@pytest.mark.parametrize("paper", claims.PAPERS)
def test_every_stored_table_has_questions_and_every_question_a_verdict(paper):
    rows = claims.answers(paper)
    # A study that has not been run yet has no table, tables of trials choose a recipe or are read by the gates, and
    # those of probes only describe. (`ocr_tuning` of PaLI-X is PaLI-X's name for a part of its recipe.)
    stored = {path.stem.partition("_")[2] for path in runner.RESULTS.glob(f"{paper}_*.csv")}
    not_asked = {name for name in stored - {"ocr_tuning"} if name.endswith(("_parents", "_tuning", "_probes"))}
    gates = {f"{q.gate}_curves" for other in claims.PAPERS for q in claims.questions_of(other) if q.gate}
    assert stored - not_asked - gates <= set(rows["table"]) <= stored - not_asked
    assert stored <= set(runner.studies_of(paper))
    assert not rows.duplicated(["table", "claim"]).any()
    known = "seen|reversed|floor|no difference above .*|undecided .needs .* seeds.|precondition not met"
    assert rows["verdict"].str.fullmatch(known).all()
    assert ((rows["low"] <= rows["gain"]) & (rows["gain"] <= rows["high"]) & (rows["margin"] > 0)).all()
    assert rows["where"].str.fullmatch(r"\d\d\.\d+").all()


# ---------------------------------------------------------------------------------------------- rows

CLAIMS = [(paper, claim) for paper in claims.PAPERS for claim in claims.claims_of(paper)]
NAMES = [f"{paper}: {claim.item}: {claim.claim[:40]}" for paper, claim in CLAIMS]


def notebook(number: str):
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    return nbformat.read(path, as_version=4)


def sections(nb) -> set[str]:
    text = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    return set(re.findall(r"^## (\d+) ", text, re.MULTILINE))


@pytest.mark.parametrize(("paper", "claim"), CLAIMS, ids=NAMES)
def test_a_claim_is_of_one_kind_and_says_where(paper, claim):
    assert sum(map(bool, (claim.asked, claim.check, claim.reason))) == 1
    assert bool(claim.where) == (not claim.reason)
    assert claim.item and claim.claim


@pytest.mark.parametrize("number", [f"{i:02}" for i in range(17)])
def test_claims_and_questions_name_sections_and_checks_that_exist(number):
    here = {claim for _, claim in CLAIMS if claim.where.startswith(f"{number}.")}
    asked = {q for paper in claims.PAPERS for q in claims.questions_of(paper) if q.where.startswith(f"{number}.")}
    if not here | asked:
        return
    nb = notebook(number)
    shown = [check.claim for check in check_lines(nb)]
    for claim in here:
        assert claim.where.partition(".")[2] in sections(nb), claim
        assert not claim.check or any(text.strip().startswith(claim.check) for text in shown), claim
    for question in asked:
        assert question.where.partition(".")[2] in sections(nb), question
    text = "\n".join(o.text for cell in nb.cells if cell.cell_type == "code" for o in cell.outputs if "text" in o)
    for paper in claims.PAPERS:
        for row in claims.answers(paper).itertuples():
            if row.where.startswith(f"{number}."):  # the line that `checks.verdicts` printed
                begins, ends = map(re.escape, (f"{row.gain:+.4f}", row.verdict))
                line = rf"^ *{re.escape(row.claim)} +{re.escape(row.published)} +{begins} .* {ends}$"
                assert re.search(line, text, re.MULTILINE), row


def test_tests_that_prove_a_claim_exist():
    for _, claim in CLAIMS:
        if claim.where.endswith(".py"):
            assert f"\ndef {claim.check}(" in (ROOT / "tests" / claim.where).read_text(), claim


@pytest.mark.parametrize("paper", claims.PAPERS)
def test_every_row_is_of_a_claim_and_every_question_is_asked_once(paper):
    asked = {(claim.table, question) for claim in claims.claims_of(paper) for question in claim.asked}
    assert asked == {(q.table, q.claim) for q in claims.questions_of(paper)}
    rows = [(q.table, q.claim) for q in claims.questions_of(paper)]
    assert len(rows) == len(set(rows))
    names = [(claim.item, claim.claim) for claim in claims.claims_of(paper)]
    assert len(names) == len(set(names)) > 50


def test_the_table_has_a_result_for_every_claim(capsys):
    rows = claims.table()
    assert tuple(rows.columns) == claims.COLUMNS and len(rows) == len(CLAIMS) > 100
    assert (rows["result"].str.len() > 0).all()
    assert claims.main("palix") == 0
    out = capsys.readouterr().out
    assert "16 frames beat 8: +0.0120 [-0.0204, +0.0444], undecided (needs about 25 seeds)" in out
    assert "checked: [ok] PaLI-X 55B, text" in out and "checked: test_boxes" in out
    assert out.splitlines()[-1] == f"{sum(paper == 'palix' for paper, _ in CLAIMS)} claims"
    assert re.search(r"^reversed +6 +6$", out, re.MULTILINE)
    with pytest.raises(SystemExit, match="Unknown paper with claims 'pali'; did you mean 'palix'"):
        claims.main("pali")


def test_every_word_is_explained_and_every_claim_and_question_is_counted(capsys):
    """The words that are printed for claims and questions, against the legend; the counts against the rows."""
    claims.main()
    legend, body = capsys.readouterr().out.split("\n\n", 1)
    kinds = {"measured" if c.asked else "checked" if c.check else "no counterpart" for _, c in CLAIMS}
    verdicts = [
        re.sub(r"^(no difference|undecided) .*", r"\1", verdict)
        for paper in claims.PAPERS
        for verdict in claims.answers(paper)["verdict"]
    ]
    marks = {mark for mark in re.findall(r"checked: \[(.*?)\]", body) if not mark.startswith("no difference")}
    explained = {line.strip().partition(": ")[0] for line in legend.splitlines() if line.startswith("    ")}
    assert kinds | set(verdicts) <= explained == set(claims.WORDS) and marks - explained == {"ok"} and "[ok]" in legend
    counts = claims.summary(claims.table())
    assert list(counts.index) == list(claims.WORDS) and list(counts) == [*claims.PAPERS, "all"]
    assert counts.loc[["measured", "checked", "no counterpart"], "all"].sum() == len(CLAIMS)
    for word in set(verdicts):
        assert counts.loc[word, "all"] == verdicts.count(word), word


def test_the_claims_of_one_study(capsys):
    assert claims.main("palix", ("frames",)) == 0
    out = capsys.readouterr().out
    assert out.startswith("Gains are differences") and "16 frames beat 8: +0.0120" in out
    commands = set(re.findall("again: (.*);", out))
    assert commands == {"kit claims palix frames"} and "checked: [" not in out
    with pytest.raises(SystemExit, match="Unknown measured study of palix 'frame'; did you mean 'frames'"):
        claims.main("palix", ("frame",))


def test_a_check_of_a_notebook_without_outputs_says_so():
    said = claims.shown(Claim("model", "x", "", "13.3", check="PaLI-X 56B"))
    assert said == "PaLI-X 56B (the notebook that is here shows no output of it)"


# ---------------------------------------------------------------------------------------------- margins


@pytest.mark.parametrize(("prefix", "steps"), [("pictures", 3000), ("recall", 2000), ("text", 1500)])
def test_the_margins_of_upcycling_follow_their_rule(prefix, steps):
    """A tenth of what dense training gains from half of the parent's steps, to one digit."""
    curve = tables.read_table("upcycling", f"{prefix}_curves")
    dense = curve[curve["arm"] == "dense"].groupby("extra_steps")["loss"].mean()
    asked = [q for q in claims.questions_of("upcycling") if q.table.startswith(prefix) and q.metric != "accuracy"]
    assert {q.margin for q in asked} == {float(f"{(dense[0] - dense[steps]) / 10:.0e}")}


def test_no_question_compares_an_arm_that_makes_no_choice():
    """With two experts and C = 2 every expert takes every token."""
    assert not any("E=2" in (q.arm, q.baseline) for q in claims.questions_of("upcycling"))


@pytest.mark.parametrize(("table", "kinds"), [("methods", ("ViT", "V-MoE")), ("naming", ("V-MoE",))])
def test_the_margins_of_ensembles_follow_their_rule(table, kinds):
    """A fifth of what a second training run brings, on average of the kinds, to within a quarter; one per metric."""
    rows = tables.read_table("ensembles", table).groupby("arm").mean(numeric_only=True)
    asked = {(q.metric, q.margin) for q in claims.questions_of("ensembles") if q.table == table}
    margins = dict(asked)
    assert len(margins) == len(asked)
    for metric, margin in margins.items():
        if metric in ("ece", "member_loss", "disagreement") or (
            table == "methods" and metric in ("shots_1", "shots_5")
        ):
            continue  # no gain of a second run to take a share of, or the margin of the measure beside it
        brought = [abs(rows.loc[f"2 x {one}", metric] - rows.loc[one, metric]) for one in kinds]
        assert margin == pytest.approx(np.mean(brought) / 5, rel=0.25), metric


def test_the_margin_and_the_floors_of_palix():
    """The standard error of a share of 300 examples; one word of all that are to be read."""
    asked = claims.questions_of("palix")
    assert {q.margin for q in asked if q.metric.startswith("accuracy")} == {0.03}
    assert pytest.approx(math.sqrt(0.5 * 0.5 / 300), abs=0.002) == 0.03
    floors = {q.floor for q in asked if q.metric in ("accuracy: word", "accuracy: small_word")}
    assert floors == {1 / len(palix_tasks.few_words())}
