"""The rows of tasks with a gate: they stand in the registry of the paper, and ask about tables that have a gate."""

from kitlib.studies import questions, registry
from kitlib.studies.registry_gated import PICTURES, REAL, RECALL, TEXT


def test_the_rows_are_in_the_registry_and_ask_only_where_there_is_a_gate():
    rows = registry.claims_of("upcycling")
    asked = questions.questions_of("upcycling")
    for claims, task in ((PICTURES, "pictures"), (RECALL, "recall"), (TEXT, "text"), (REAL, "real")):
        assert set(claims) <= set(rows)
        claims = [claim for claim in claims if not claim.check]  # the others are measured in a notebook
        tables = {"recall_curves", "recall_memory"} if task == "recall" else {f"{task}_curves"}
        assert {claim.asked[0] for claim in claims} == tables
        of_task = [question for question in asked if question.table in tables]
        assert of_task and {question.gate for question in of_task} == {task}
        assert {question.where for question in of_task} == {claim.where for claim in claims}
        for question in of_task:  # every question is some claim's
            beginnings = [claim.asked[1:] for claim in claims if claim.asked[0] == question.table]
            assert any(map(question.claim.startswith, beginnings)), question.claim
