import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from trees import random_params
from zoo import SMALL, ensemble, is_fast, logits_of

from kitlib import configs
from kitlib.ensembles import Mimo
from kitlib.models import checkpoint, stacking
from kitlib.models.vit import ViT
from kitlib.upcycling.surgery import batch_ensemble_from_dense, mimo_from_single, split_routers


def test_split_routers():
    config = SMALL.replace(moe=configs.MoEConfig(num_experts=4), moe_blocks=(0, 1))
    params = random_params(config)
    split = flatten_dict(split_routers(params, 2), sep="/")
    for name, leaf in flatten_dict(params, sep="/").items():
        if name.endswith("Router/dense/kernel"):
            assert split[name].shape == (8, 2, 2)
            np.testing.assert_array_equal(split[name][:, 1, 0], leaf[:, 2])  # member 1 starts at expert 2 of 4
            borrowed = flatten_dict(split_routers(params, 2, overlap=1), sep="/")[name]
            np.testing.assert_array_equal(borrowed[:, 1], leaf[:, [2, 3, 0]])  # its own, and the next one
        else:
            np.testing.assert_array_equal(split[name], leaf)
    stacked = stacking.stack(params, config.replace(scan=True))
    for tree, members, overlap, message in (
        (params, 0, 0, "num_members is 0"),
        (params, 3, 0, "4 experts do not divide among 3"),
        (params, 2, 3, "can borrow 2 more, got 3"),
        (random_params(SMALL), 2, 0, "no routers"),
        (stacked, 2, 0, r"is \(2, 8, 4\), expected \[D, E\]"),
    ):
        with pytest.raises(ValueError, match=message):
            split_routers(tree, members, overlap)


@pytest.mark.slow
@pytest.mark.parametrize(("blocks", "m", "attention"), [((1,), 3, False), ((1, 0), 2, True), ((0,), 1, True)])
def test_with_spread_0_every_member_is_the_vit_it_came_from(blocks, m, attention):
    dense = random_params(SMALL)
    config = SMALL.replace(batch_ensemble=ensemble(blocks, m, attention=attention, spread=0.0))
    logits = logits_of(config, batch_ensemble_from_dense(dense, config, jax.random.key(0)))
    assert logits.shape == (m, 4, 3)
    np.testing.assert_allclose(logits, np.broadcast_to(logits_of(SMALL, dense), (m, 4, 3)), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"spread": 0.5}, {"sign_probability": 0.5}])
def test_from_dense_shares_kernels_repeats_biases_and_draws_fast_weights(fields):
    dense = random_params(SMALL)
    config = SMALL.replace(batch_ensemble=ensemble((1,), 3, **fields))
    convert = functools.partial(batch_ensemble_from_dense, dense, config)
    params, again, other = convert(jax.random.key(0)), convert(jax.random.key(0)), convert(jax.random.key(1))
    flat, shapes = flatten_dict(params, sep="/"), flatten_dict(checkpoint.expected_shapes(config), sep="/")
    checkpoint.compare(flat, shapes, "from_dense")
    for name, old in flatten_dict(dense, sep="/").items():
        np.testing.assert_array_equal(flat[name], np.broadcast_to(old, shapes[name].shape), err_msg=name)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    fast = [name for name in flat if is_fast(name)]
    assert len(fast) == 2 * 3  # two sides of the two layers of an MLP and of the head
    leaves = {tree[name].tobytes() for tree in (flat, flatten_dict(other, sep="/")) for name in fast}
    assert len(leaves) == 2 * len(fast)  # every key and every layer has its own draws, and so has every member
    assert not any(np.array_equal(flat[name][0], flat[name][1]) for name in fast)
    draws = np.concatenate([flat[name].ravel() for name in fast])
    n = draws.size
    assert n == 3 * (2 * (8 + 12) + 8 + 3)
    if "spread" in fields:
        assert abs(draws.mean() - 1.0) < 4 * 0.5 / np.sqrt(n) and abs(draws.std() - 0.5) < 4 * 0.5 / np.sqrt(2 * n)
    else:
        assert set(draws) == {-1.0, 1.0} and abs(draws.mean()) < 4 / np.sqrt(n)
    assert np.abs(np.diff(logits_of(config, params), axis=0)).max() > 1e-2


def changed(name, leaf):
    flat = flatten_dict(random_params(SMALL), sep="/")
    flat.pop(name, None)
    return unflatten_dict(flat if leaf is None else flat | {name: leaf}, sep="/")


@pytest.mark.parametrize(
    ("name", "leaf", "message"),
    [
        (
            "Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel",
            None,
            "missing: Transformer/encoderblock_1/MlpBlock_0",
        ),
        ("pre_logits/kernel", jnp.ones((8, 8)), "extra: pre_logits/kernel"),
        ("head/kernel", jnp.ones(3), r"head/kernel is \(3,\), expected \(8, 3\)"),
        ("head/bias", jnp.ones((3, 3)), r"head/bias is \(3, 3\), expected"),  # as if it were of three members
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(name, leaf, message):
    config = SMALL.replace(batch_ensemble=ensemble((1,), 2))
    with pytest.raises(ValueError, match=message):
        batch_ensemble_from_dense(changed(name, leaf), config, jax.random.key(0))


def test_from_dense_needs_a_dense_model_and_a_configuration_with_members():
    config = SMALL.replace(batch_ensemble=ensemble((1,), 2))
    for dense, sparse, message in (
        (config, config, r"extra: .*fast_weight_alpha"),
        (SMALL, SMALL, "no batch_ensemble"),
    ):
        with pytest.raises(ValueError, match=message):
            batch_ensemble_from_dense(random_params(dense), sparse, jax.random.key(0))


@pytest.mark.slow
@pytest.mark.parametrize("m", [1, 2, 3])
def test_a_mimo_that_reads_one_picture_m_times_is_the_model_it_came_from(m):
    params = random_params(SMALL)
    model = Mimo(SMALL, m)
    made = mimo_from_single(params, m)
    images = np.random.default_rng(0).normal(size=(4, *SMALL.image_size, SMALL.channels)).astype(np.float32)
    logits = model.apply({"params": made}, images)[0]
    alone = ViT(SMALL).apply({"params": params}, images)[0]
    np.testing.assert_allclose(logits, np.broadcast_to(alone, (m, 4, 3)), rtol=1e-5, atol=1e-5)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images))["params"]
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    with pytest.raises(ValueError, match="no head"):
        mimo_from_single({name: leaf for name, leaf in params.items() if name != "head"}, m)
