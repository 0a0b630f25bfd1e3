"""kitlib.studies.upcycling_setups: data, schedule and evaluation of the two setups."""

import jax
import numpy as np
import pytest

from kitlib.models import flops
from kitlib.studies import upcycling_setups
from kitlib.upcycling import surgery

SETUPS = [upcycling_setups.vision, upcycling_setups.language]


def test_the_schedule_by_hand():
    # 100 steps of warm-up, then peak * sqrt(400 / (400 + step - 100)): half of the peak 1,200 steps later.
    rate = upcycling_setups.schedule(0.02)
    assert float(rate(50)) == pytest.approx(0.01)
    assert float(rate(100)) == pytest.approx(0.02)
    assert float(rate(1300)) == pytest.approx(0.01)


@pytest.mark.parametrize("setup", SETUPS, ids=["vision", "language"])
def test_a_setup_is_made_once_and_named_in_the_table(setup):
    one = setup()
    assert setup() is one
    assert one.setting.startswith(f"{one.name}: ") and str(one.parent_steps) in one.setting


@pytest.mark.parametrize("setup", SETUPS, ids=["vision", "language"])
def test_the_sparse_model_has_experts_and_costs_what_is_counted(setup):
    one = setup()
    sparse = one.sparse(one.dense)
    assert {moe.num_experts for moe in surgery.moe_layers(sparse).values()} == {8}
    assert surgery.dense_twin(sparse) == one.dense
    assert one.forward_flops(sparse) > one.forward_flops(one.dense) > 0
    if setup is upcycling_setups.vision:
        assert one.forward_flops(one.dense) == sum(flops.vit_forward_flops(one.dense).values())


@pytest.mark.slow
def test_the_evaluation_of_a_uniform_classifier():
    """A zero head gives every class the same probability: loss ln 10, and accuracy as if class 0 were always said."""
    one = upcycling_setups.vision()
    params = one.init(one.model(one.dense), 0)
    assert not np.any(jax.device_get(params["head"]["kernel"])) and not np.any(jax.device_get(params["head"]["bias"]))
    found = one.evaluate(one.model(one.dense), params)
    assert found["loss"] == pytest.approx(np.log(10), rel=1e-5)
    assert found["accuracy"] == pytest.approx(0.1, abs=0.02)  # the test set is nearly balanced


@pytest.mark.parametrize("setup", SETUPS, ids=["vision", "language"])
def test_batches_depend_on_the_seed(setup):
    first, again, other = (next(setup().batches(seed)) for seed in (0, 0, 1))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert any((first[name] != other[name]).any() for name in first)
