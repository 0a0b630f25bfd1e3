import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitlib import configs
from kitlib.moe import routing
from kitlib.moe.experts import apply_experts, linear_layer, mlp_expert
from kitlib.moe.plan import capacity, plan_expert_choice, plan_token_choice

G, S, D, E, K = 2, 9, 4, 3, 2
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(G, S, D)), jnp.float32)
PROBABILITIES = jax.nn.softmax(jnp.asarray(RNG.normal(size=(G, S, E)), jnp.float32))
VALID = jnp.asarray(RNG.random((G, S)) < 0.7)
PARAMS = {name: {"kernel": jnp.asarray(RNG.normal(size=(E, D, D)), jnp.float32)} for name in ("Dense_0", "Dense_1")}
CONFIGS = {
    "gather": {},
    "einsum": {"dispatch": "einsum"},
    "dropless": {"dispatch": "dropless", "capacity_factor": None},
    "tight": {"capacity": 2, "capacity_factor": None},
    "renormalised": {"renormalize": True},
    "renormalised, dropless": {"dispatch": "dropless", "capacity_factor": None, "renormalize": True},
    "expert choice": {"router": "expert_choice", "capacity_factor": 1.0},
}


def plan_of(c, valid):
    if c.router == "expert_choice":
        return plan_expert_choice(c, PROBABILITIES, valid)
    return plan_token_choice(c, routing.top_k(PROBABILITIES, K, valid), valid)


def forward(plan, x, params):
    """The calls are the same for every kind of plan."""
    return plan.combine(apply_experts(mlp_expert, params, plan.dispatch(x), owner=plan.owner))


def by_definition(weights, x, params):
    """Every expert on every token, times its combine weight float32[G, S, E]."""
    rows = [mlp_expert(linear_layer, jax.tree.map(lambda p, e=e: p[e], params), x) for e in range(E)]
    return sum(weights[..., e, None] * row for e, row in enumerate(rows))


@pytest.mark.slow
@pytest.mark.parametrize("valid", [None, VALID], ids=["all", "masked"])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_plan_dispatches_and_combines_by_its_weights(name, valid):
    c = configs.MoEConfig(**{"num_experts": E, "num_selected": K, "capacity_factor": 4.0} | CONFIGS[name])
    plan = plan_of(c, valid)
    y = forward(plan, X, PARAMS)
    assert y.shape == (G, S, D) and y.dtype == jnp.float32
    np.testing.assert_allclose(y, by_definition(plan.combine_weights, X, PARAMS), rtol=2e-5, atol=2e-5)
    if valid is not None:
        assert not np.any(np.asarray(plan.combine_weights)[~np.asarray(valid)])
    if c.renormalize:
        total = np.asarray(plan.combine_weights.sum(axis=-1))
        np.testing.assert_allclose(total, np.where(total > 0, 1.0, 0.0), rtol=1e-6)

    def scalar(x, params, f):
        return jnp.sum(f(x, params) * jnp.cos(jnp.arange(G * S * D).reshape(G, S, D)))

    grads = [
        jax.grad(scalar, argnums=(0, 1))(X, PARAMS, f)
        for f in (lambda x, p: forward(plan, x, p), lambda x, p: by_definition(plan.combine_weights, x, p))
    ]
    for got, want in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.slow
def test_a_plan_passes_through_jit():
    """It is a pytree: it may be made in one compiled function and used in another."""
    c = configs.MoEConfig(num_experts=E, num_selected=K, dispatch="dropless", capacity_factor=None)
    plan = jax.jit(lambda: plan_of(c, None))()
    np.testing.assert_allclose(jax.jit(forward)(plan, X, PARAMS), forward(plan_of(c, None), X, PARAMS), rtol=1e-5)


@pytest.mark.slow
def test_dropless_is_ample_capacity():
    ample = configs.MoEConfig(num_experts=E, num_selected=K, capacity_factor=E / K)
    dropless = ample.replace(dispatch="dropless", capacity_factor=None)
    got, want = (plan_of(c, None) for c in (dropless, ample))
    np.testing.assert_array_equal(got.combine_weights, want.combine_weights)
    assert got.owner is not None and want.owner is None


@pytest.mark.slow
def test_slots_may_be_given():
    c = configs.MoEConfig(num_experts=E, num_selected=K, capacity_factor=4.0)
    choice = routing.top_k(PROBABILITIES, K)
    assert plan_token_choice(c, choice, None).slots.token.shape == (G, E, S)  # no more slots than tokens
    assert plan_token_choice(c, choice, None, 2).slots.token.shape == (G, E, 2)


def test_capacity_is_given_or_follows_from_the_factor():
    c = configs.MoEConfig(num_experts=4, num_selected=2, capacity_factor=1.0, capacity_multiple_of=1)
    assert capacity(c, 10) == 5  # 1.0 * 2 * 10 / 4
    assert capacity(c.replace(capacity_multiple_of=4), 10) == 8
    assert capacity(c.replace(router="expert_choice"), 10) == 2  # round(1.0 * 10 / 4), no K; halves to even
    assert capacity(c.replace(capacity=7, capacity_factor=None), 10) == 7
    assert capacity(c.replace(capacity=70, capacity_factor=None), 10) == 10
