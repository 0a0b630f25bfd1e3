"""kitlib.studies.upcycling.tuning: equally many trials for every kind, scored where it says; the frozen recipes."""

import dataclasses
import functools

import pandas as pd
import pytest

from kitlib.studies import runner
from kitlib.studies.upcycling import ablations, gates, setups, tuning
from kitlib.upcycling import surgery

TUNED = {"recall": setups.recall, "text": setups.text, "pictures": setups.pictures}
TUNED |= {f"pictures{width}": functools.partial(setups.pictures, width=width) for width in (8, 32)}


@pytest.mark.parametrize("name", TUNED)
def test_trials_have_their_own_seed_and_run_until_they_are_scored(name):
    found = tuning.studies(name, TUNED[name])
    setup = TUNED[name]("valid")
    for study in found.values():
        assert list(runner.seeds_of(study)) == [tuning.SEED]
    assert tuning.SEED not in runner.seeds_of(ablations.studies()[f"{name}_curves"])
    for label, arm in found[f"{name}_tuning"].arms.items():
        kind = label.partition(":")[0]
        assert kind == arm.start and bool(surgery.moe_layers(arm.config)) == (kind in ("upcycled", "scratch", "E3"))
        cost = arm.steps * setup.relative_cost(arm.config) / setup.parent_steps
        least = tuning.COST[kind]
        assert least <= cost < least + 2 * setup.relative_cost(arm.config) / setup.parent_steps
    assert {arm.steps for arm in found[f"{name}_parents"].arms.values()} == {setup.parent_steps}


@pytest.mark.parametrize("name", TUNED)
def test_the_frozen_recipes_are_the_best_trials(name):
    """Each recipe of the setup is the trial with the lowest loss of the stored tables."""
    setup = TUNED[name]()
    trials = tuning.trials(name, setup.recipes["parent"].peak)
    scores = gates.trial_scores(name)
    assert gates.unfinished(scores) == ()
    assert scores.groupby("kind")["best"].sum().eq(1).all()
    for kind, recipe in setup.recipes.items():
        chosen = trials[kind][gates.best(name, kind)]
        set_by_trials = {field: value for field, value in vars(chosen).items() if value is not None}
        assert dataclasses.replace(recipe, **set_by_trials) == recipe, kind


def test_a_search_that_ended_too_early():
    """Best at an end of its range, or too few trials."""
    rows = [("inside", 0.1 * i, abs(i - 3)) for i in range(1, 7)] + [("at its end", 0.1 * i, i) for i in range(1, 7)]
    rows += [("few", 0.1, 2), ("few", 0.2, 1), ("few", 0.4, 2)]
    found = pd.DataFrame([{"kind": k, "trial": f"peak {p:g}, resumed", "loss": float(x)} for k, p, x in rows])
    found["best"] = found["loss"] == found.groupby("kind")["loss"].transform("min")
    assert gates.unfinished(found) == ("at its end", "few")
