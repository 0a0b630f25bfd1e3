"""Sparse upcycling of a T5: the properties that test_surgery.py shows for a ViT, in two stacks."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trees import random_tree

from kitlib import configs
from kitlib.models import checkpoint, decode, t5
from kitlib.upcycling import surgery

pytestmark = pytest.mark.slow
E = 4
DENSE = configs.t5("tiny", width=32, mlp_dim=48, num_heads=2, vocab_size=96, num_encoder_layers=4, num_decoder_layers=3)
RNG = np.random.default_rng(2)
BATCH = {"inputs": RNG.integers(3, 90, (4, 16)), "targets": RNG.integers(3, 90, (4, 10))}
BATCH = {name: ids.astype(np.int32) for name, ids in BATCH.items()}
BATCH["inputs"][1, 11:] = BATCH["targets"][1, 6:] = 0  # padding takes no slot


def recipe(encoder=None, decoder=None):
    c = surgery.language_recipe(DENSE, num_experts=E)
    return c.replace(moe=c.moe.replace(**encoder or {}), decoder_moe=c.decoder_moe.replace(**decoder or {}))


@functools.cache
def random_params():
    return random_tree(checkpoint.expected_shapes(DENSE), spread=0.3)


def upcycled(config, params, seed=0):
    return surgery.apply(surgery.plan(params, config), params, jax.random.key(seed))


@functools.cache
def forward(config):
    inputs = BATCH["inputs"], t5.shift_right(jnp.asarray(BATCH["targets"]))
    return jax.jit(lambda params: t5.T5(config).apply({"params": params}, *inputs)[0])


def logits(config, params):
    """Only where there is a target: experts do not process padding."""
    return np.asarray(forward(config)(params))[BATCH["targets"] != 0]


def test_published_size_of_t5_base():
    # 32 experts in 6 of 12 layers of both stacks. Each of these layers adds 31 MLPs of 3 * 768 * 2048 parameters and a
    # router of 768 * 32: 247,577,856 + 12 * (31 * 4,718,592 + 24,576) = 2,003,188,992.
    dense = configs.t5("1.1-base")
    config = surgery.language_recipe(dense)
    origins = surgery.plan(checkpoint.expected_shapes(dense), config).origins
    assert sum(math.prod(origin.shape) for origin in origins.values()) == 2_003_188_992
    assert config.moe_layers == config.decoder_moe_layers == (1, 3, 5, 7, 9, 11)
    new = {name for name, origin in origins.items() if origin.how == "new"}
    assert new == {f"{s}/layers_{i}/moe/Router/dense/kernel" for s in ("encoder", "decoder") for i in config.moe_layers}


# As for the ViT: weights that sum to one, and capacity for every token.
CAPACITY, SUM_ONE, ONE = {"capacity_factor": float(E)}, {"renormalize": True}, {"num_selected": 1}
EXACT = {
    "expert choice, C=E; top-2": (CAPACITY, CAPACITY | SUM_ONE),
    "the same, renormalised": (CAPACITY | SUM_ONE, CAPACITY | SUM_ONE),
    "expert choice, C=E; top-E, raw": (CAPACITY, {"num_selected": E}),
    "top-1; top-1": (CAPACITY | SUM_ONE | ONE | {"router": "top_k", "load_weight": 0.0}, CAPACITY | SUM_ONE | ONE),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", EXACT)
def test_step_zero_is_the_dense_function(name, seed):
    params, config = random_params(), recipe(*EXACT[name])
    np.testing.assert_allclose(logits(config, upcycled(config, params, seed)), logits(DENSE, params), atol=1e-5)


def test_the_recipe_of_the_paper_is_not_the_dense_function():
    params = random_params()
    assert np.abs(logits(recipe(), upcycled(recipe(), params)) - logits(DENSE, params)).max() > 0.05


def both(run, params, config):
    """Results of the dense and of the sparse model."""
    return run(DENSE, params), run(config, upcycled(config, params))


def test_it_generates_the_same_text_as_the_dense_model():
    """Token by token, with the cache: each token is routed alone."""
    params, config = random_params(), recipe(CAPACITY, CAPACITY | SUM_ONE)
    dense, sparse = both(lambda c, p: decode.greedy(t5.T5(c), p, BATCH["inputs"], max_length=8), params, config)
    np.testing.assert_array_equal(sparse[0], dense[0])
    np.testing.assert_allclose(sparse[1], dense[1], atol=1e-4)


def test_a_prompt_of_one_token():
    """Fewer tokens than experts: each expert still has a slot, and takes that token."""
    params, config = random_params(), recipe({"renormalize": True}, CAPACITY | SUM_ONE)
    prompt, start = np.array([[7]], np.int32), np.array([[0]], np.int32)
    dense, sparse = both(lambda c, p: jax.jit(t5.T5(c).apply)({"params": p}, prompt, start)[0], params, config)
    np.testing.assert_allclose(sparse, dense, atol=1e-5)


def test_models_that_do_not_fit_are_refused():
    params = random_params()
    with pytest.raises(ValueError, match=r"sparse already \((en|de)coder/layers_1/moe/Mlp"):
        surgery.plan(upcycled(recipe(), params), recipe())
    with pytest.raises(checkpoint.CheckpointError, match="The dense model"):
        surgery.plan(params, surgery.vision_recipe(configs.vit("tiny/7"), num_experts=E))
    for changes in ({"router": "top_k", "renormalize": True, "load_weight": 0.0}, {"num_selected": 1}):
        with pytest.raises(ValueError, match="num_selected"):
            surgery.language_recipe(DENSE, **changes)
