import itertools

import jax
import numpy as np
import pytest
from trees import random_params

from kitlib import configs
from kitlib.ensembles.methods import Mimo, mc_dropout
from kitlib.models import checkpoint
from kitlib.models.vit import ViT
from kitlib.training import classification

SIZES = {"width": 8, "depth": 1, "mlp_dim": 12, "num_heads": 2, "image_size": (8, 8), "channels": 1, "num_classes": 3}
TINY = configs.vit("tiny/4", **SIZES)
MOE = configs.MoEConfig(num_experts=4, capacity_factor=4.0)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (6, 8, 8, 1)).astype(np.float32)
DROPOUT = TINY.replace(dropout=0.5)


def mc(config, params, images=IMAGES, num_samples=3, **fields):
    return mc_dropout(ViT(config), params, images, num_samples, **{"batch_size": 6} | fields)


@pytest.mark.slow
def test_dropout_samples_differ_and_the_seed_decides():
    params = random_params(DROPOUT)
    samples = mc(DROPOUT, params)
    assert samples.shape == (3, 6, 3) and samples.dtype == np.float32
    for a, b in itertools.combinations(samples, 2):
        assert np.all(np.abs(a - b).max(axis=-1) > 1e-3)
    np.testing.assert_array_equal(mc(DROPOUT, params), samples)
    np.testing.assert_array_equal(mc(DROPOUT, params, num_samples=2), samples[:2])
    assert np.all(np.abs(mc(DROPOUT, params, seed=1) - samples).max(axis=-1) > 1e-3)
    # The padding of the last batch changes nothing.
    whole = mc(DROPOUT, params, np.concatenate([IMAGES, IMAGES]))
    for n in (1, 6, 7, 11):
        some = mc(DROPOUT, params, np.concatenate([IMAGES, IMAGES])[:n])
        np.testing.assert_allclose(some, whole[:, :n], rtol=1e-5, atol=1e-5, strict=True)


def test_every_image_has_its_own_mask():
    samples = mc(DROPOUT, random_params(DROPOUT), np.repeat(IMAGES[:1], 12, axis=0), num_samples=1)[0]
    for a, b in itertools.combinations(samples, 2):  # two batches of six
        assert np.abs(a - b).max() > 1e-4


RATE = 0.25
COIN = TINY.replace(width=2, num_heads=1, mlp_dim=1, dropout=RATE)


def coin_params():
    """A ViT that throws a coin. All is zero up to the MLP, which adds its last bias (1, 0) to the class token.

    Dropout acts on the branch: (1, 0) / keep with probability keep, else (0, 0). The last LayerNorm turns these into
    (1, -1) and (0, 0), whatever the size. With rows (2, 0, -4) and (0, 0, 0), the head gives the logits
    (1, 2, 3) + (2, 0, -4) or (1, 2, 3).
    """
    params = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), checkpoint.expected_shapes(COIN))
    params["Transformer"]["encoderblock_0"]["MlpBlock_0"]["Dense_1"]["bias"] = np.float32([1, 0])
    params["Transformer"]["encoder_norm"]["scale"] = np.ones(2, np.float32)
    params["head"] = {"kernel": np.float32([[2, 0, -4], [0, 0, 0]]), "bias": np.float32([1, 2, 3])}
    return params


@pytest.mark.slow
def test_dropout_samples_have_the_distribution_worked_out_by_hand():
    samples = mc(COIN, coin_params(), num_samples=100).reshape(600, 3)
    heads = np.abs(samples - [3, 2, -1]).max(axis=-1) < 1e-4
    tails = np.abs(samples - [1, 2, 3]).max(axis=-1) < 1e-4
    assert np.all(heads ^ tails)
    keep, n = 1 - RATE, 600
    assert abs(heads.mean() - keep) < 4 * np.sqrt(keep * (1 - keep) / n)
    # The mean of the samples: the logits at keep, not those without dropout (3, 2, -1), where the coin is always heads.
    error = 4 * np.abs([2, 0, -4]) * np.sqrt(keep * (1 - keep) / n) + 1e-4
    assert np.all(np.abs(samples.mean(axis=0) - [1 + 2 * keep, 2, 3 - 4 * keep]) < error)
    certain = classification.predict(ViT(COIN), coin_params(), IMAGES, batch_size=6)
    np.testing.assert_allclose(certain, np.tile([3.0, 2.0, -1.0], (6, 1)), atol=1e-4)
    # Images and samples are independent: neighbours agree as often as two coins do, keep^2 + (1 - keep)^2.
    agree = keep**2 + (1 - keep) ** 2
    for a, b in ((heads[1:], heads[:-1]), (heads[6:], heads[:-6])):
        assert abs((a == b).mean() - agree) < 4 * np.sqrt(agree * (1 - agree) / len(a))


@pytest.mark.slow
def test_router_noise_and_stochastic_depth_are_off():
    """Experts with dropout at a rate so low that no unit is dropped: only noise could make a difference."""
    moe = MOE.replace(num_experts=2, expert_dropout=1e-9, noise_std=100.0)
    config = TINY.replace(moe=moe, moe_blocks=(0,), drop_path=0.5)
    params, model = random_params(config), ViT(config)
    samples = mc(config, params)
    certain = classification.predict(model, params, IMAGES, batch_size=6)
    np.testing.assert_allclose(samples, np.tile(certain, (3, 1, 1)), atol=1e-4)
    # The dropout of experts is sampled alike with and without router noise.
    noisy = TINY.replace(moe=MOE.replace(num_experts=2, expert_dropout=0.5), moe_blocks=(0,))
    quiet = noisy.replace(moe=noisy.moe.replace(noise_std=0.0, load_weight=0.0))
    params = random_params(noisy)
    samples = mc(noisy, params)
    assert np.abs(samples[0] - samples[1]).max() > 1e-3
    np.testing.assert_array_equal(mc(quiet, params), samples)


def test_what_has_no_dropout_is_refused():
    for fields in ({"drop_path": 0.5}, {"moe": MOE, "moe_blocks": (0,)}):
        with pytest.raises(ValueError, match="trained with dropout"):
            mc(TINY.replace(**fields), {})
    with pytest.raises(TypeError, match="for a ViT, got Mimo"):
        mc_dropout(Mimo(TINY.replace(dropout=0.1), 2), {}, IMAGES, 2)


@pytest.mark.slow
def test_each_sample_of_an_e3_has_all_its_members():
    """Samples are the outer axis, members the inner one. Member 0's experts push one channel down, member 1's up."""
    config = TINY.replace(moe=MOE.replace(expert_dropout=0.5), moe_blocks=(0,), e3=configs.E3Config(2))
    params = random_params(config)
    params["Transformer"]["encoderblock_0"]["Moe"]["Mlp"]["Dense_1"]["bias"][:, 0] = [-100, -100, 100, 100]
    params["Transformer"]["encoder_norm"] = {"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}
    params["head"]["kernel"][0] = 10.0
    samples = mc(config, params, IMAGES[:5], batch_size=3)
    assert samples.shape == (6, 5, 3)
    assert np.all(samples[::2] < 0) and np.all(samples[1::2] > 0)
    for a, b in itertools.combinations(samples, 2):
        assert np.abs(a - b).max() > 1e-4
