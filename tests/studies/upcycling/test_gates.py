"""kitlib.studies.upcycling.gates: each of the three conditions alone closes a gate, on curves made by hand."""

import pandas as pd
import pytest

from kitlib.studies import claims
from kitlib.studies.claims import Question
from kitlib.studies.upcycling import gates

# Losses of the parent at 0, 20, 80 and 100 % of 100 steps. The first fifth buys 4, the last 0.2: a share of 0.05. The
# whole training buys 5; as much dense training again 0.25 more: a share of 0.05.
PARENT = {0: 6.0, 20: 2.0, 80: 1.2, 100: 1.0}
DENSE = {0: 1.0, 100: 0.75}
# Twice as expensive as the dense model: after 100 steps (cost 2) it has 0.6, after 50 steps (cost 1) 0.8.
SCRATCH = {0: 6.0, 50: 0.8, 100: 0.6}


def curves(**changes) -> pd.DataFrame:
    arms = {"parent": PARENT, "dense": DENSE, "scratch": SCRATCH} | changes
    rows = [
        (arm, seed, step, step / (50 if arm == "scratch" else 100), x + 0.01 * seed * (arm == "scratch") + 0.1 * seed)
        for arm, points in arms.items() for seed in range(4) for step, x in points.items()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["arm", "seed", "extra_steps", "extra_cost", "loss"])


def test_an_open_gate_by_hand():
    gate = gates.judge(curves(), ())
    assert gate.open and gate.reasons == []
    assert gate.plateau == pytest.approx(0.05) and gate.left == pytest.approx(0.05)
    # Gains of 0.4 and 0.2 less 0.01 * seed, the mean of which is 0.015.
    assert gate.at_steps.gain.mean == pytest.approx(0.385) and gate.at_cost.gain.mean == pytest.approx(0.185)


def test_the_gate_of_a_real_parent_by_hand():
    """Its dense fine-tuning has to be near the end; a mixture with new blocks has to beat dense new blocks."""
    made = curves(
        **{
            "dense": {0: 2.0, 20: 1.0, 80: 0.75, 100: 0.7},  # first fifth 1, last fifth 0.05
            "dense, twice as long": {0: 2.0, 200: 0.635},  # 0.065 more, of 1.3
            "new dense": {0: 2.0, 100: 1.0},
            "new mixture": {0: 2.0, 99: 0.91},  # a step costs a little more, so there is one less
        }
    )
    gate = gates.judge(made, (), gates.arms_of("real"))
    assert gate.open and gate.plateau == pytest.approx(0.05) and gate.left == pytest.approx(0.05)
    # After 99 steps the dense blocks have 1.01.
    assert gate.at_steps.gain.mean == gate.at_cost.gain.mean == pytest.approx(0.1)
    assert gates.arms_of("recall") == gates.arms_of("text") != gates.arms_of("real")


def test_each_condition_closes_it():
    rising = gates.judge(curves(parent={0: 6.0, 20: 4.0, 80: 1.3, 100: 1.0}), ())
    assert not rising.open and rising.reasons == [
        "the last fifth of dense training still bought 0.15 of what the first bought"
    ]
    worse = gates.judge(curves(scratch={0: 6.0, 50: 1.5, 100: 0.6}), ())
    assert worse.reasons == ["a mixture from scratch is not seen to be better at equal cost (reversed)"]
    slow = gates.judge(curves(scratch={0: 6.0, 50: 1.5, 100: 1.2}), ())
    assert len(slow.reasons) == 2
    unfair = gates.judge(curves(), ("scratch", "deeper"))
    assert unfair.reasons == ["the search for a recipe ended too early for: scratch, deeper"]


def test_a_closed_gate_closes_the_questions_of_its_task(monkeypatch):
    asked = [Question("is it better?", "made", "scratch", "dense", 0.01, gate="made")]
    for found, word in (
        (gates.judge(curves(), ()), "reversed|seen"),
        (gates.judge(curves(), ("dense",)), gates.NOT_MET),
    ):
        monkeypatch.setattr(gates, "read", lambda task, found=found: found)
        rows = claims.judged_rows(asked, curves())
        assert rows["verdict"].str.fullmatch(word).all() and rows["gain"].notna().all()
