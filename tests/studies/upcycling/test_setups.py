"""kitlib.studies.upcycling.setups: what holds for every task, tuned or not, and the two older tasks."""

import jax
import numpy as np
import pytest

from kitlib.models import flops
from kitlib.studies.upcycling import setups
from kitlib.upcycling import surgery

TUNED = [setups.recall, setups.text, setups.pictures]
SETUPS = [setups.vision, setups.language, *TUNED]


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.__name__)
def test_the_sparse_model_has_experts_and_costs_what_is_counted(setup):
    one = setup()
    sparse = one.sparse(one.dense)
    experts = 16 if setup in TUNED else 8
    assert {moe.num_experts for moe in surgery.moe_layers(sparse).values()} == {experts}
    assert surgery.dense_twin(sparse) == one.dense
    assert one.forward_flops(sparse) > one.forward_flops(one.dense) > 0
    if setup in (setups.vision, setups.pictures):
        assert one.forward_flops(one.dense) == sum(flops.vit_forward_flops(one.dense).values())


@pytest.mark.slow
def test_the_evaluation_of_a_uniform_classifier():
    """A zero head gives every class the same probability: loss ln 10, and accuracy as if class 0 were always said."""
    one = setups.vision()
    params = one.init(one.model(one.dense), 0)
    assert not np.any(jax.device_get(params["head"]["kernel"])) and not np.any(jax.device_get(params["head"]["bias"]))
    found = one.evaluate(one.model(one.dense), params)
    assert found["loss"] == pytest.approx(np.log(10), rel=1e-5)
    assert found["accuracy"] == pytest.approx(0.1, abs=0.02)  # the test set is nearly balanced


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.__name__)
def test_batches_depend_on_the_seed(setup):
    first, again, other = (next(setup().batches(seed)) for seed in (0, 0, 1))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert any((first[name] != other[name]).any() for name in first)


def test_the_deeper_model_has_one_block_more():
    for setup in SETUPS:
        assert setup().relative_cost(setups.deeper(setup().dense)) > 1
    assert setups.deeper(setups.recall().dense).num_decoder_layers == 3
