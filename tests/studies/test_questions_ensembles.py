"""The margins of the questions of ensembles; what else holds for all questions is in test_questions.py."""

import numpy as np
import pytest

from kitlib.studies import tables
from kitlib.studies.questions_ensembles import CLOTHES, NAMING


@pytest.mark.parametrize(
    ("table", "margins", "kinds"), [("methods", CLOTHES, ("ViT", "V-MoE")), ("naming", NAMING, ("V-MoE",))]
)
def test_the_margins_of_ensembles_follow_their_rule(table, margins, kinds):
    """A fifth of what a second training run brings, on average of the kinds, to within a quarter."""
    rows = tables.read_table("ensembles", table).groupby("arm").mean(numeric_only=True)
    for metric, margin in margins.items():
        if metric in ("ece", "member_loss", "disagreement") or (
            table == "methods" and metric in ("shots_1", "shots_5")
        ):
            continue  # no gain of a second run to take a share of, or the margin of the measure beside it
        brought = [abs(rows.loc[f"2 x {one}", metric] - rows.loc[one, metric]) for one in kinds]
        assert margin == pytest.approx(np.mean(brought) / 5, rel=0.25), metric
