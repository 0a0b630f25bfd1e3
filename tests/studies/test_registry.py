"""The registry is in step with the stored tables, the notebooks and the tests."""

import re

import nbformat
import pytest

from kitlib.data.files import ROOT
from kitlib.studies import questions, registry
from kitlib.studies.registry import Claim
from kitlib.tools.executed import check_lines

CLAIMS = [(paper, claim) for paper in questions.PAPERS for claim in registry.claims_of(paper)]
NAMES = [f"{paper}: {claim.item}: {claim.claim[:40]}" for paper, claim in CLAIMS]


def notebook(number: str):
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    return nbformat.read(path, as_version=4)


def sections(nb) -> set[str]:
    text = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    return set(re.findall(r"^## (\d+) ", text, re.MULTILINE))


@pytest.mark.parametrize(("paper", "claim"), CLAIMS, ids=NAMES)
def test_a_claim_is_of_one_kind_and_says_where(paper, claim):
    assert sum(map(bool, (claim.asked, claim.check, claim.why_not))) == 1
    assert bool(claim.where) == (not claim.why_not)
    assert claim.item and claim.claim


@pytest.mark.parametrize("number", [f"{i:02}" for i in range(17)])
def test_claims_and_questions_name_sections_and_checks_that_exist(number):
    here = {claim for _, claim in CLAIMS if claim.where.startswith(f"{number}.")}
    asked = {q for paper in questions.PAPERS for q in questions.questions_of(paper) if q.where.startswith(f"{number}.")}
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
    for paper in questions.PAPERS:
        for row in questions.answers(paper).itertuples():
            if row.where.startswith(f"{number}."):  # the line that `checks.verdicts` printed
                begins, ends = map(re.escape, (f"{row.gain:+.4f}", row.verdict))
                line = rf"^ *{re.escape(row.claim)} +{re.escape(row.published)} +{begins} .* {ends}$"
                assert re.search(line, text, re.MULTILINE), row


def test_tests_that_prove_a_claim_exist():
    for _, claim in CLAIMS:
        if claim.where.endswith(".py"):
            assert f"\ndef {claim.check}(" in (ROOT / "tests" / claim.where).read_text(), claim


@pytest.mark.parametrize("paper", questions.PAPERS)
def test_every_question_belongs_to_a_claim(paper):
    covered = {
        (row.table, row.claim)
        for claim in registry.claims_of(paper)
        for row in registry.answers_to(paper, claim).itertuples()
    }
    assert {(q.table, q.claim) for q in questions.questions_of(paper)} == covered


def test_the_table_has_a_result_for_every_claim(capsys):
    rows = registry.table()
    assert tuple(rows.columns) == registry.COLUMNS and len(rows) == len(CLAIMS) > 100
    assert (rows["result"].str.len() > 0).all()
    assert registry.main("palix") == 0
    out = capsys.readouterr().out
    assert "16 frames beat 8: +0.0120 [-0.0204, +0.0444], undecided (needs about 25 seeds)" in out
    assert "checked: [ok] PaLI-X 55B, text" in out and "checked: test_boxes" in out
    assert out.splitlines()[-1] == f"{sum(paper == 'palix' for paper, _ in CLAIMS)} claims"
    assert re.search(r"^reversed +6 +6$", out, re.MULTILINE)
    with pytest.raises(SystemExit, match="Unknown paper with claims 'pali'; did you mean 'palix'"):
        registry.main("pali")


def test_every_word_is_explained_and_every_claim_and_question_is_counted(capsys):
    """The words that are printed for claims and questions, against the legend; the counts against the rows."""
    registry.main()
    legend, body = capsys.readouterr().out.split("\n\n", 1)
    kinds = {"measured" if c.asked else "checked" if c.check else "no counterpart" for _, c in CLAIMS}
    verdicts = [
        re.sub(r"^(no difference|undecided) .*", r"\1", verdict)
        for paper in questions.PAPERS
        for verdict in questions.answers(paper)["verdict"]
    ]
    marks = {mark for mark in re.findall(r"checked: \[(.*?)\]", body) if not mark.startswith("no difference")}
    explained = {line.strip().partition(": ")[0] for line in legend.splitlines() if line.startswith("    ")}
    assert (
        kinds | set(verdicts) <= explained == set(registry.WORDS) and marks - explained == {"ok"} and "[ok]" in legend
    )
    counts = registry.summary(registry.table())
    assert list(counts.index) == list(registry.WORDS) and list(counts) == [*questions.PAPERS, "all"]
    assert counts.loc[["measured", "checked", "no counterpart"], "all"].sum() == len(CLAIMS)
    for word in set(verdicts):
        assert counts.loc[word, "all"] == verdicts.count(word), word


def test_the_claims_of_one_study(capsys):
    assert registry.main("palix", ("frames",)) == 0
    out = capsys.readouterr().out
    assert out.startswith("Gains are differences") and "16 frames beat 8: +0.0120" in out
    commands = set(re.findall("again: (.*);", out))
    assert commands == {"kit claims palix frames"} and "checked: [" not in out
    with pytest.raises(SystemExit, match="Unknown measured study of palix 'frame'; did you mean 'frames'"):
        registry.main("palix", ("frame",))


def test_a_check_of_a_notebook_without_outputs_says_so():
    said = registry.shown(Claim("model", "x", "", "13.3", check="PaLI-X 56B"))
    assert said == "PaLI-X 56B (the notebook that is here shows no output of it)"


def test_an_unknown_question_is_refused():
    with pytest.raises(ValueError, match="figure 9: no question of frames begins with '32 frames'"):
        registry.answers_to("palix", Claim("figure 9", "x", "", "15.6", ("frames", "32 frames")))
