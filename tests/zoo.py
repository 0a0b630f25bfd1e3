"""Tiny models, their parameters and programs, made once per test run: files that need the same one share it."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from trees import random_params

from kitlib import configs
from kitlib.models import checkpoint
from kitlib.models.t5 import T5
from kitlib.models.vit import ViT
from kitlib.training import classification

RNG = np.random.default_rng(0)
TINY = configs.vit("tiny/7", image_size=(28, 28), channels=1, num_classes=10)  # 17 tokens of width 64, 2 blocks
IMAGES = RNG.uniform(-1, 1, (3, 28, 28, 1)).astype(np.float32)
SIZES = {"width": 8, "depth": 2, "mlp_dim": 12, "num_heads": 2, "image_size": (8, 8), "channels": 1, "num_classes": 3}
SMALL = configs.vit("tiny/4", **SIZES)  # 5 tokens of width 8, 2 blocks
SMALL_IMAGES = RNG.uniform(-1, 1, (6, 8, 8, 1)).astype(np.float32)
AMPLE = configs.MoEConfig(num_experts=4, capacity_factor=4.0)  # nothing is dropped
EIGHT = {"moe": configs.MoEConfig(num_experts=8), "moe_blocks": (1,)}
VITS = {
    "class token": TINY,
    "fixed positions": TINY.replace(pool="gap", posemb="sincos2d"),
    "MAP, pre_logits": TINY.replace(pool="map", representation_size=24),
    "features": TINY.replace(pool="none", num_classes=0),
    "22B": TINY.replace(pool="map", **configs.VIT22B_BLOCK),
    "V-MoE": TINY.replace(**EIGHT),
    "V-MoE, scanned": TINY.replace(moe=AMPLE, moe_blocks=(1, 3), depth=4, scan=True),
    "Soft MoE": TINY.replace(moe=configs.MoEConfig(4, router="soft", capacity_factor=2.0), moe_blocks=(0, 1)),
    "E3": TINY.replace(e3=configs.E3Config(2), **EIGHT),
    "E3, borrowing": TINY.replace(e3=configs.E3Config(2, overlap=3), **EIGHT),
    "E3, shared routers": TINY.replace(e3=configs.E3Config(2, routers="shared"), **EIGHT),
    "BatchEnsemble": TINY.replace(batch_ensemble=configs.BatchEnsembleConfig((1,), 3)),
    "BatchEnsemble, attention": TINY.replace(batch_ensemble=configs.BatchEnsembleConfig((0, 1), 2, attention=True)),
}

# T5s whose results another library computed with the same weights: see reference/make_t5.py.
REFERENCE = Path(__file__).with_name("reference")
T5_SIZES = {"vocab_size": 40, "width": 16, "num_encoder_layers": 3, "num_decoder_layers": 2, "mlp_dim": 24}
T5_SIZES |= {"num_heads": 2, "head_dim": 6}
T5_CHANGES = {"gelu": {}, "silu": {"activation": "silu"}, "tied": {"tied": True}}
T5_CASES = {name: configs.T5Config(**T5_SIZES, **fields) for name, fields in T5_CHANGES.items()}


@functools.cache
def reference_t5(case):
    """(model, parameters) of one of T5_CASES."""
    return T5(T5_CASES[case]), checkpoint.load_t5(REFERENCE / f"t5_{case}.safetensors", T5_CASES[case])


@functools.cache
def params(config, spread=0.1, seed=0):
    """`trees.random_params` as JAX arrays; do not change the dictionaries."""
    with jax.ensure_compile_time_eval():  # arrays also where a program is traced
        return jax.tree.map(jnp.asarray, random_params(config, seed, spread))


@functools.cache
def applied(model, **fixed):
    """(params, *inputs, **fields) -> what the model returns, one compiled program per model, shapes and `fixed`."""
    return jax.jit(lambda params, *inputs, **fields: model.apply({"params": params}, *inputs, **fixed, **fields))


# ---------------------------------------------------------------------------------------------- BatchEnsembles of SMALL


def ensemble(blocks=(1,), num_members=2, **fields):
    return configs.BatchEnsembleConfig(blocks, num_members, **fields)


def logits_of(config, params):
    """Of four images. Configurations that differ only in how fast weights are drawn are compiled once."""
    if config.batch_ensemble:
        drawn = dataclasses.replace(config.batch_ensemble, spread=0.5, sign_probability=None)
        config = config.replace(batch_ensemble=drawn)
    return classification.predict(ViT(config), params, SMALL_IMAGES[:4], batch_size=4)


def is_fast(name: str) -> bool:
    return "fast_weight_" in name
