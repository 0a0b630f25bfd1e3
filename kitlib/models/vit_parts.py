"""A ViT in two parts: the lower blocks, frozen and run once per picture, and the upper ones, which are trained.

    lower, upper = vit_parts.split(params, 9)
    tokens = vit_parts.tokens_before(config, lower, images, 9)      # float[B, N, D], to be kept
    logits, out = UpperViT(vit_parts.upper_config(config, 9)).apply({"params": upper}, tokens)

The two parts together compute what the whole model does. A model is upcycled as a whole, before it is split; `join`
puts the parts together again. The blocks of the upper part count from 0.
"""

import functools
import re

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from kitlib.configs import ViTConfig
from kitlib.models.vit import Encoder, ViT, pool_and_head

BLOCK = re.compile(r"Transformer/encoderblock_(\d+)/(.*)")


class UpperViT(nn.Module):
    """(tokens float[B, N, D]) -> (logits, out), as `ViT` from its first block on. `config`: see `upper_config`."""

    config: ViTConfig

    @nn.compact
    def __call__(self, tokens, train: bool = False):
        x, out = Encoder(self.config, name="Transformer")(tokens, train)
        return pool_and_head(self.config, x, out)


def upper_config(config: ViTConfig, first: int) -> ViTConfig:
    """The configuration of the blocks from `first` on. Raises ValueError if experts are below, if no block is left on
    one of the two sides, and for scanned blocks, batch_ensemble and drop_path."""
    if not 0 < first < config.depth:
        raise ValueError(f"first is {first}; with {config.depth} blocks it must be 1 to {config.depth - 1}.")
    below = [i for i in config.moe_blocks if i < first]
    if below or config.batch_ensemble or config.scan or config.drop_path:
        raise ValueError(
            f"Only a plain dense lower part can be split off; got experts in blocks {below}, batch_ensemble="
            f"{config.batch_ensemble}, scan={config.scan}, drop_path={config.drop_path}."
        )
    return config.replace(depth=config.depth - first, moe_blocks=tuple(i - first for i in config.moe_blocks))


def split(params: dict, first: int) -> tuple[dict, dict]:
    """(lower, upper): embedding, positions and the blocks before `first`; the other blocks, final norm and head."""
    lower, upper = {}, {}
    for name, leaf in flatten_dict(params, sep="/").items():
        match = BLOCK.fullmatch(name)
        if match and int(match[1]) >= first:
            upper[f"Transformer/encoderblock_{int(match[1]) - first}/{match[2]}"] = leaf
        elif match or name.startswith(("embedding/", "cls", "pos_embedding")):
            lower[name] = leaf
        else:
            upper[name] = leaf
    return unflatten_dict(lower, sep="/"), unflatten_dict(upper, sep="/")


def join(lower: dict, upper: dict, first: int) -> dict:
    """The inverse of `split`."""
    flat = flatten_dict(lower, sep="/")
    for name, leaf in flatten_dict(upper, sep="/").items():
        match = BLOCK.fullmatch(name)
        flat[f"Transformer/encoderblock_{int(match[1]) + first}/{match[2]}" if match else name] = leaf
    return unflatten_dict(flat, sep="/")


def tokens_before(config: ViTConfig, lower: dict, images, first: int) -> jax.Array:
    """float[B, N, D]: the tokens that enter block `first` of the model, for one batch of images.

    lower: from `split`. The last block's output is taken before the final norm, which belongs to the upper part. For a
    whole data set, call it in `classification.in_batches`.
    """
    pool = "tok" if config.pool == "tok" else "gap"
    below = config.replace(
        depth=first, num_classes=0, representation_size=0, pool=pool, moe=None, moe_blocks=(), e3=None
    )
    return _lower(below)(lower, images)


@functools.cache
def _lower(config: ViTConfig):
    model, last = ViT(config), f"block{config.depth - 1:02d}"
    shapes = jax.eval_shape(
        model.init, jax.random.key(0), np.zeros((1, *config.image_size, config.channels), np.float32)
    )
    norm = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes["params"]["Transformer"]["encoder_norm"])

    def run(lower, images):
        params = lower | {"Transformer": lower["Transformer"] | {"encoder_norm": norm}}  # its result is not used
        return model.apply({"params": params}, images)[1][last]["+mlp"]

    return jax.jit(run)
