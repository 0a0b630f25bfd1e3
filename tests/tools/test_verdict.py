"""kitlib.tools.checks.verdict: two arms of a study are compared over pairs of the same seed."""

import pandas as pd
import pytest

from kitlib.tools import checks


@pytest.fixture
def table():
    """Losses of 10 + seed - slope * steps, for two arms and three seeds."""
    slopes = {"dense": 0.1, "steep": 0.3}
    return pd.DataFrame(
        {"arm": arm, "seed": seed, "extra_steps": steps, "loss": 10 + seed - slope * steps}
        for arm, slope in slopes.items()
        for seed in range(3)
        for steps in (0, 10, 20)
    )


def test_verdicts_are_paired(table, capsys):
    # Losses at the end are 10 + seed - 20 slope: the steep arm saves (0.3 - 0.1) * 20 = 4 for every seed.
    row = checks.verdict("steep beats dense", "yes", table, "steep", "dense")
    assert row.pop("verdict") == "seen"
    assert [row.pop(name) for name in ("claim", "paper")] == ["steep beats dense", "yes"]
    assert list(row.values()) == pytest.approx([4.0, 4.0, 4.0])
    half_way = checks.verdict("dense beats steep", "no", table, "dense", "steep", "extra_steps", 10)
    assert half_way["saved"] == pytest.approx(-2.0) and half_way["verdict"] == "reversed"
    assert checks.verdict("dense beats itself", "no", table, "dense", "dense")["verdict"] == "not seen"
    # The same numbers as an accuracy, for which more is better: the gain of the steep arm is -4.
    renamed = table.rename(columns={"loss": "shift_accuracy"})
    other = checks.verdict("steep beats dense", "yes", renamed, "steep", "dense", metric="shift_accuracy")
    assert other["saved"] == pytest.approx(-4.0) and other["verdict"] == "reversed"
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "[seen] steep beats dense (3 paired seeds, 95 % interval above 0)"
    assert printed[1].startswith("[reversed] dense beats steep")
