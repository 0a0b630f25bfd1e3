import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitlib import configs
from kitlib.moe import routing
from kitlib.moe.dispatch import capacity, plan_token_choice
from kitlib.moe.experts import apply_experts, mlp_expert

G, S, D, E, K = 2, 9, 4, 3, 2
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(G, S, D)), jnp.float32)
PROBABILITIES = jax.nn.softmax(jnp.asarray(RNG.normal(size=(G, S, E)), jnp.float32))
PARAMS = {name: {"kernel": jnp.asarray(RNG.normal(size=(E, D, D)), jnp.float32)} for name in ("Dense_0", "Dense_1")}


def plan_of(c):
    return plan_token_choice(c, routing.top_k(PROBABILITIES, K), None)


def forward(plan, x, params):
    """The calls are the same for every kind of plan."""
    return plan.combine(apply_experts(mlp_expert, params, plan.dispatch(x), owner=plan.owner))


@pytest.mark.slow
def test_a_plan_passes_through_jit():
    """It is a pytree: it may be made in one compiled function and used in another."""
    c = configs.MoEConfig(num_experts=E, num_selected=K, dispatch="dropless", capacity_factor=None)
    plan = jax.jit(lambda: plan_of(c))()
    np.testing.assert_allclose(jax.jit(forward)(plan, X, PARAMS), forward(plan_of(c), X, PARAMS), rtol=1e-5)


@pytest.mark.slow
def test_dropless_is_ample_capacity():
    ample = configs.MoEConfig(num_experts=E, num_selected=K, capacity_factor=E / K)
    dropless = ample.replace(dispatch="dropless", capacity_factor=None)
    got, want = (plan_of(c) for c in (dropless, ample))
    np.testing.assert_array_equal(got.combine_weights, want.combine_weights)
    assert got.owner is not None and want.owner is None


def test_capacity_is_given_or_follows_from_the_factor():
    c = configs.MoEConfig(num_experts=4, num_selected=2, capacity_factor=1.0, capacity_multiple_of=1)
    assert capacity(c, 10) == 5  # 1.0 * 2 * 10 / 4
    assert capacity(c.replace(capacity_multiple_of=4), 10) == 8
    assert capacity(c.replace(router="expert_choice"), 10) == 2  # round(1.0 * 10 / 4), no K; halves to even
    assert capacity(c.replace(capacity=7, capacity_factor=None), 10) == 7
    assert capacity(c.replace(capacity=70, capacity_factor=None), 10) == 10
