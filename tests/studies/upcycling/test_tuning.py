"""kitlib.studies.upcycling.tuning: equally many trials for every kind, scored where it says; the chosen recipes."""

import dataclasses

import pandas as pd
import pytest

from kitlib.studies import runner
from kitlib.studies.study import TRIAL_SEED
from kitlib.studies.upcycling import ablations, gates, recipes, tuning
from kitlib.studies.upcycling.ablations import TUNED
from kitlib.upcycling import surgery


@pytest.mark.parametrize("name", TUNED)
def test_trials_have_their_own_seed_and_run_until_they_are_scored(name):
    found = {study: ablations.STUDIES[f"{name}_{study}"]() for study in ("parents", "tuning")}
    setup = TUNED[name]("valid")
    for study in found.values():
        assert list(runner.seeds_of(study)) == [TRIAL_SEED]
    assert TRIAL_SEED not in runner.seeds_of(ablations.STUDIES[f"{name}_curves"]())
    for label, arm in found["tuning"].arms.items():
        kind = label.partition(":")[0]
        assert kind == arm.start and bool(surgery.moe_layers(arm.config)) == (kind in ("upcycled", "scratch", "E3"))
        cost = arm.steps * setup.relative_cost(arm.config) / setup.parent_steps
        least = tuning.COST[kind]
        assert least <= cost < least + 2 * setup.relative_cost(arm.config) / setup.parent_steps
    assert {arm.steps for arm in found["parents"].arms.values()} == {setup.parent_steps}


@pytest.mark.parametrize("name", TUNED)
def test_the_chosen_recipes_are_the_best_trials(name):
    """Each recipe is the trial with the lowest loss of the stored tables, and says the capacity of the setup."""
    trials = recipes.trials(name, recipes.chosen(name, "parent").peak) | {"parent": recipes.parents(name)}
    scores = gates.trial_scores(name)
    assert gates.unfinished(scores) == () and set(scores["kind"]) == set(trials)
    for kind, tried in trials.items():
        best = scores[scores["kind"] == kind].set_index("trial")["loss"].idxmin()
        recipe = recipes.chosen(name, kind)
        assert dataclasses.replace(recipe, capacity=tried[best].capacity) == tried[best]
        assert recipe.capacity == (tried[best].capacity or (2.0 if kind in ("upcycled", "scratch") else None))
    with pytest.raises(ValueError, match="Unknown kind of arm of"):
        recipes.chosen(name, "dens")


def test_a_search_that_ended_too_early():
    """Best at an end of its range, or too few trials."""
    rows = [("inside", 0.1 * i, abs(i - 3)) for i in range(1, 7)] + [("at its end", 0.1 * i, i) for i in range(1, 7)]
    rows += [("few", 0.1, 2), ("few", 0.2, 1), ("few", 0.4, 2)]
    found = pd.DataFrame([{"kind": k, "trial": f"peak {p:g}, resumed", "loss": float(x)} for k, p, x in rows])
    found["best"] = found["loss"] == found.groupby("kind")["loss"].transform("min")
    assert gates.unfinished(found) == ("at its end", "few")
