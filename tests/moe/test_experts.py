import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitlib import configs, moe
from kitlib.layers import vit_layers
from kitlib.moe import experts
from kitlib.moe.experts import apply_experts, linear_layer

D, F = 8, 16
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 10, D)), jnp.float32)


@pytest.mark.slow
def test_one_expert_by_hand():
    # x = (1, -1), kernel [[2, 0], [0, 3]], bias (0, 1): (2, -2) before the GELU; the identity after it.
    params = {
        "Dense_0": {"kernel": jnp.array([[2.0, 0.0], [0.0, 3.0]]), "bias": jnp.array([0.0, 1.0])},
        "Dense_1": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)},
    }
    y = moe.mlp_expert(linear_layer, params, jnp.array([[1.0, -1.0]]))
    np.testing.assert_allclose(y[0], vit_layers.gelu(jnp.array([2.0, -2.0])), rtol=1e-6)


@pytest.mark.slow
def test_gated_experts_have_the_configured_activation():
    # One expert with wi_0 = wi_1 = wo = 1 (F = D = 1) on x = 2: act(2) * 2, where silu(2) = 2 / (1 + e^-2).
    c = configs.MoEConfig(num_experts=1, capacity_factor=1.0)
    x = jnp.full((1, 1, 1), 2.0)
    params = jax.tree.map(jnp.ones_like, moe.MoEMlp(c, 1, gated=True).init(jax.random.key(0), x)["params"])
    for activation, expected in (
        ("silu", 4 / (1 + np.exp(-2))),
        ("gelu", 2 * float(vit_layers.gelu(jnp.float32(2.0)))),
    ):
        layer = moe.MoEMlp(c, 1, gated=True, activation=activation)
        assert float(layer.apply({"params": params}, x)[0][0, 0, 0]) == pytest.approx(expected, rel=1e-6)
    assert experts._expert(True, 0.0, "silu") is experts._expert(True, 0.0, "silu")  # one object per kind


@pytest.mark.slow
@pytest.mark.parametrize("split", [False, True])
def test_experts_start_as_copies_or_different(split):
    c = configs.MoEConfig(num_experts=4, split_init=split)
    kernel = moe.MoEMlp(c, F).init(jax.random.key(0), X)["params"]["Mlp"]["Dense_0"]["kernel"]
    assert np.array_equal(kernel[0], kernel[1]) != split
    # Xavier over one expert's fan-in and fan-out, not over E of them.
    assert np.abs(kernel).max() <= np.sqrt(6 / (D + F))
    assert np.abs(kernel).max() > 0.9 * np.sqrt(6 / (D + F))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["loop", "batched", "ragged"])
def test_expert_dropout(how):
    """Rate 1/2: about half of the hidden units are kept and doubled, and rows differ, in every form."""
    identities = jnp.eye(100)[None].repeat(2, axis=0)  # hidden = GELU(x) = x for large x
    params = {"Dense_0": {"kernel": identities}, "Dense_1": {"kernel": identities}}
    x = jnp.full((2, 5, 100), 10.0)
    keys = jax.random.split(jax.random.key(0), 2)
    expert = experts._expert(False, 0.5)
    owner = jnp.arange(2) if how == "ragged" else None
    y = np.asarray(apply_experts(expert, params, x, owner=owner, keys=keys, how=how))
    assert set(np.unique(y.round(3))) == {0.0, 20.0}
    assert abs((y > 0).mean() - 0.5) < 3 * 0.5 / np.sqrt(y.size)
    assert not np.array_equal(y[0], y[1])


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="Unknown way to apply experts 'raged'; did you mean 'ragged'"):
        apply_experts(moe.mlp_expert, {}, jnp.zeros((1, 1, 1)), how="raged")
