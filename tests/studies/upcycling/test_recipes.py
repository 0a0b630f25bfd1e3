"""kitlib.studies.upcycling.recipes: the schedule by hand, and what a recipe sets."""

import pytest

from kitlib.studies.upcycling.recipes import Recipe, schedule


def test_the_schedule_by_hand():
    # 100 steps of warm-up, then peak * sqrt(400 / (400 + step - 100)): half of the peak 1,200 steps later.
    rate = schedule(0.02)
    assert float(rate(50)) == pytest.approx(0.01)
    assert float(rate(100)) == pytest.approx(0.02)
    assert float(rate(1300)) == pytest.approx(0.01)
    cooled = schedule(0.02, cooldown=200, end=1500)  # it ends at zero and changes nothing before
    for step in (50, 1299, 1300):
        assert float(cooled(step)) == pytest.approx(float(rate(step)))
    assert float(cooled(1400)) == pytest.approx(0.5 * float(rate(1400))) and float(cooled(1500)) == 0.0  # half-way


def test_a_recipe_sets_what_it_names():
    assert Recipe(0.1).experts == {}
    assert Recipe(0.1, capacity=1.0, renormalize=False).experts == {"capacity_factor": 1.0, "renormalize": False}
    # Tokens choose K = 2 experts, which have room for 1.5 times as many as on average.
    chosen = Recipe(0.1, capacity=2.0, router="top_k")
    assert chosen.experts == {"capacity_factor": 1.5, "router": "top_k", "num_selected": 2}
    assert repr(chosen) == repr(Recipe(0.1, capacity=2.0))  # an arm's configuration tells them apart
    with pytest.raises(ValueError, match="Unknown router of a recipe 'top-k'; did you mean 'top_k'"):
        Recipe(0.1, router="top-k")
    with pytest.raises(ValueError, match="Unknown treatment of moments 'reset'; did you mean 'resume'"):
        Recipe(0.1, "reset")
