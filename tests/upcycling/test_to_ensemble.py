import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from small_batch_ensemble import TINY, ensemble, is_fast, logits_of
from trees import random_params

from kitlib import configs
from kitlib.ensembles import Mimo
from kitlib.models import checkpoint, stacking
from kitlib.models.vit import ViT
from kitlib.upcycling.to_ensemble import batch_ensemble_from_dense, mimo_from_single, split_routers

# ---------------------------------------------------------------------------------------------- an E3


def test_split_routers():
    config = TINY.replace(moe=configs.MoEConfig(num_experts=4), moe_blocks=(0, 1))
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
    for members, overlap, message in (
        (0, 0, "num_members is 0"),
        (True, 0, "num_members is True"),
        (3, 0, "4 experts do not divide among 3"),
        (2, 3, "can borrow 2 more, got 3"),
        (2, -1, "overlap is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            split_routers(params, members, overlap)
    with pytest.raises(ValueError, match="no routers"):
        split_routers(random_params(TINY), 2)
    stacked = stacking.stack(params, config.replace(scan=True))
    with pytest.raises(ValueError, match=r"is \(2, 8, 4\), expected \[D, E\]; of scanned blocks, stacking.unstack"):
        split_routers(stacked, 2)


# ---------------------------------------------------------------------------------------------- a BatchEnsemble


@pytest.mark.slow
@pytest.mark.parametrize(("blocks", "m", "attention"), [((1,), 3, False), ((1, 0), 2, True), ((0,), 1, True)])
def test_with_spread_0_every_member_is_the_vit_it_came_from(blocks, m, attention):
    dense = random_params(TINY)
    config = TINY.replace(batch_ensemble=ensemble(blocks, m, attention=attention, spread=0.0))
    logits = logits_of(config, batch_ensemble_from_dense(dense, config, jax.random.key(0)))
    assert logits.shape == (m, 4, 3)
    np.testing.assert_allclose(logits, np.broadcast_to(logits_of(TINY, dense), (m, 4, 3)), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"spread": 0.5}, {"sign_probability": 0.5}])
def test_from_dense_shares_kernels_repeats_biases_and_draws_fast_weights(fields):
    dense = random_params(TINY)
    config = TINY.replace(batch_ensemble=ensemble((1,), 3, **fields))
    convert = functools.partial(batch_ensemble_from_dense, dense, config)
    params, again, other = convert(jax.random.key(0)), convert(jax.random.key(0)), convert(jax.random.key(1))
    flat, shapes = flatten_dict(params, sep="/"), flatten_dict(checkpoint.expected_shapes(config), sep="/")
    checkpoint.compare(flat, shapes, "from_dense")
    for name, old in flatten_dict(dense, sep="/").items():
        np.testing.assert_array_equal(flat[name], np.broadcast_to(old, shapes[name].shape), err_msg=name)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    fast = [name for name in flat if is_fast(name)]
    assert len(fast) == 2 * 3  # two sides of the two layers of an MLP and of the head
    for name in fast:
        assert not np.array_equal(flat[name], flatten_dict(other, sep="/")[name])
        assert not np.array_equal(flat[name][0], flat[name][1])
    same_shape = [flat[name] for name in fast if flat[name].shape == (3, 8)]
    assert len(same_shape) == 3  # the width: the MLP's inputs and outputs, the head's inputs
    for i in range(3):  # every layer has its own draws
        assert not np.array_equal(same_shape[i], same_shape[i - 1])
    draws = np.concatenate([flat[name].ravel() for name in fast])
    n = draws.size
    assert n == 3 * (2 * (8 + 12) + 8 + 3)
    if "spread" in fields:
        assert abs(draws.mean() - 1.0) < 4 * 0.5 / np.sqrt(n) and abs(draws.std() - 0.5) < 4 * 0.5 / np.sqrt(2 * n)
    else:
        assert set(draws) == {-1.0, 1.0} and abs(draws.mean()) < 4 / np.sqrt(n)
    assert np.abs(np.diff(logits_of(config, params), axis=0)).max() > 1e-2


def changed(name, leaf):
    flat = flatten_dict(random_params(TINY), sep="/")
    flat.pop(name, None)
    return unflatten_dict(flat if leaf is None else flat | {name: leaf}, sep="/")


@pytest.mark.parametrize(
    ("name", "leaf", "message"),
    [
        ("head/bias", None, "missing: head/bias"),
        (
            "Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel",
            None,
            "missing: Transformer/encoderblock_1/MlpBlock_0",
        ),
        ("pre_logits/kernel", jnp.ones((8, 8)), "extra: pre_logits/kernel"),
        ("head/kernel", jnp.ones((8, 5)), r"head/kernel is \(8, 5\), expected \(8, 3\)"),
        ("head/kernel", jnp.ones(3), r"head/kernel is \(3,\), expected \(8, 3\)"),
        ("head/bias", jnp.ones(5), r"head/bias is \(5,\), expected \(3,\)"),
        ("head/bias", jnp.ones((3, 3)), r"head/bias is \(3, 3\), expected"),
        ("pos_embedding", jnp.ones((1, 10, 8)), r"pos_embedding is \(1, 10, 8\), expected \(1, 5, 8"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(name, leaf, message):
    config = TINY.replace(batch_ensemble=ensemble((1,), 2))
    with pytest.raises(ValueError, match=message):
        batch_ensemble_from_dense(changed(name, leaf), config, jax.random.key(0))


def test_a_batch_ensemble_is_not_a_dense_checkpoint():
    config = TINY.replace(batch_ensemble=ensemble((1,), 2))
    with pytest.raises(ValueError, match=r"extra: .*fast_weight_alpha"):
        batch_ensemble_from_dense(random_params(config), config, jax.random.key(0))


def test_from_dense_needs_a_configuration_with_members():
    with pytest.raises(ValueError, match="has no batch_ensemble; set one"):
        batch_ensemble_from_dense(random_params(TINY), TINY, jax.random.key(0))


# ---------------------------------------------------------------------------------------------- a MIMO


@pytest.mark.slow
@pytest.mark.parametrize("m", [1, 2, 3])
def test_a_mimo_that_reads_one_picture_m_times_is_the_model_it_came_from(m):
    params = random_params(TINY)
    model = Mimo(TINY, m)
    made = mimo_from_single(params, m)
    images = np.random.default_rng(0).normal(size=(4, *TINY.image_size, TINY.channels)).astype(np.float32)
    logits = model.apply({"params": made}, images)[0]
    alone = ViT(TINY).apply({"params": params}, images)[0]
    np.testing.assert_allclose(logits, np.broadcast_to(alone, (m, 4, 3)), rtol=1e-5, atol=1e-5)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images))["params"]
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    with pytest.raises(ValueError, match="num_members is 0"):
        mimo_from_single(params, 0)
    with pytest.raises(ValueError, match="no head"):
        mimo_from_single({name: leaf for name, leaf in params.items() if name != "head"}, m)
