"""kitlib.models.vit: two parts compute what the whole model does; parameters come back; refusals."""

import jax
import numpy as np
import pytest
from trees import random_params

from kitlib import configs
from kitlib.configs import BatchEnsembleConfig
from kitlib.models import vit
from kitlib.models.vit import ViT
from kitlib.upcycling import surgery

DENSE = configs.vit("tiny/7", image_size=(28, 28), channels=1, num_classes=10, depth=4, layer_scale=0.1)
SPARSE = surgery.vision_recipe(DENSE, num_experts=4)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (5, 28, 28, 1)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", [DENSE, SPARSE, DENSE.replace(pool="gap", representation_size=8), DENSE.replace(pool="map")]
)
@pytest.mark.parametrize("first", [1, 2])
def test_two_parts_compute_what_the_whole_does(config, first):
    params = random_params(config, spread=0.1)
    lower, upper = vit.split(params, first)
    tokens = vit.tokens_before(config, lower, IMAGES, first)
    assert tokens.shape == (5, config.num_tokens, 64)
    logits, out = vit.UpperViT(vit.upper_config(config, first)).apply({"params": upper}, tokens)
    whole, everything = ViT(config).apply({"params": params}, IMAGES)
    np.testing.assert_allclose(logits, whole, atol=1e-5)
    np.testing.assert_allclose(out["encoded"], everything["encoded"], atol=1e-5)
    assert ("auxiliary_loss" in out) == (config is SPARSE)


def test_parts_come_together_again():
    params = random_params(DENSE, spread=0.1)
    lower, upper = vit.split(params, 3)
    assert "head" not in lower and set(lower["Transformer"]) == {f"encoderblock_{i}" for i in range(3)}
    assert "head" in upper and set(upper["Transformer"]) == {"encoderblock_0", "encoder_norm"}
    jax.tree.map(np.testing.assert_array_equal, vit.join(lower, upper, 3), params)


def test_what_cannot_be_split():
    members = DENSE.replace(batch_ensemble=BatchEnsembleConfig((3,), 2))
    for config, first, message in (
        (DENSE, 0, "first is 0; with 4 blocks it must be 1 to 3"),
        (DENSE, 4, "first is 4"),
        (SPARSE, 3, r"experts in blocks \[2\]"),
        (members, 2, "batch_ensemble=BatchEnsembleConfig"),
    ):
        with pytest.raises(ValueError, match=message):
            vit.upper_config(config, first)
