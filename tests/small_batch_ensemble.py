"""A ViT of two blocks and its BatchEnsembles, for the tests of the layer and of the way to it from a dense model."""

import dataclasses

import numpy as np

from kitlib import configs
from kitlib.models.vit import ViT
from kitlib.training import classification

SIZES = {"width": 8, "depth": 2, "mlp_dim": 12, "num_heads": 2, "image_size": (8, 8), "channels": 1, "num_classes": 3}
TINY = configs.vit("tiny/4", **SIZES)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 1)).astype(np.float32)


def ensemble(blocks=(1,), num_members=2, **fields):
    return configs.BatchEnsembleConfig(blocks, num_members, **fields)


def logits_of(config, params):
    """Configurations that differ only in how fast weights are drawn are compiled once: here they are given."""
    if config.batch_ensemble:
        drawn = dataclasses.replace(config.batch_ensemble, spread=0.5, sign_probability=None)
        config = config.replace(batch_ensemble=drawn)
    return classification.predict(ViT(config), params, IMAGES, batch_size=4)


def is_fast(name: str) -> bool:
    return "fast_weight_" in name
