"""MIMO (2010.06610): one network reads M images at once and has M heads.

    logits, out = Mimo(config, num_members=2).apply(variables, images)       # float32[2, B, V]

Built in notebooks/09_ensembles_and_uncertainty.ipynb.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from kitlib.configs import ViTConfig
from kitlib.configs.arguments import number, whole
from kitlib.models.vit import ViT
from kitlib.training import classification


class Mimo(nn.Module):
    """A ViT that reads M images, concatenated over channels, and classifies each: (logits float32[M, B, V], out).

    images: float[M, B, height, width, channels] in training, different for each member; or float[B, height, width,
    channels] in testing, the same for all members. `config` describes the plain ViT, which the model is if M = 1.
    """

    config: ViTConfig
    num_members: int

    @nn.compact
    def __call__(self, images, train: bool = False):
        c, m = self.config, self.num_members
        if c.num_members or not c.num_classes or c.pool == "none":
            raise ValueError("MIMO is made of a plain ViT with a head and one answer a picture, without members.")
        if images.ndim == 4:
            images = jnp.broadcast_to(images, (m, *images.shape))
        if images.ndim != 5 or len(images) != m:
            raise ValueError(f"Expected images [M={m}, B, height, width, channels] or [B, ...], got {images.shape}.")
        x = jnp.moveaxis(images, 0, -2).reshape(*images.shape[1:4], m * images.shape[4])
        wide = c.replace(channels=m * c.channels, num_classes=m * c.num_classes)
        logits, out = ViT(wide, name="ViT")(x, train)
        logits = logits.reshape(-1, m, c.num_classes).swapaxes(0, 1)
        return logits, out | {"logits": logits}


def mimo_batch(batch: dict, key: jax.Array, num_members: int, *, repetitions: int = 1, same: float = 0.0) -> dict:
    """The members' training batch: "image" [B, ...], "label" [B] -> [M, R * B, ...], [M, R * B].

    Args:
      repetitions: R, how often each member reads each image of the batch ("batch repetition").
      same: share of positions at which all members read the same image ("input repetition probability"): with 0 the
        members' inputs are independent, with 1 equal. At the other positions each member has its own order of images.
    """
    whole("num_members", num_members, 1), whole("repetitions", repetitions, 1), number("same", same, 0.0, 1.0)
    total = repetitions * len(batch["label"])
    apart = round((1.0 - same) * total)
    order = jax.random.permutation(jax.random.fold_in(key, 0), total)
    keys = jax.random.split(jax.random.fold_in(key, 1), num_members)
    own = jax.vmap(lambda k: jax.random.permutation(k, order[:apart]))(keys)
    index = jnp.concatenate([own, jnp.tile(order[apart:], (num_members, 1))], axis=1) % len(batch["label"])
    return {name: jnp.asarray(values)[index] for name, values in batch.items()}


def mimo_loss(model: Mimo, *, repetitions: int = 1, same: float = 0.0) -> Callable:
    """`classification.classification_loss` on the batches that `mimo_batch` makes."""
    inner = classification.classification_loss(model)

    def loss_fn(params, batch, key):
        deal, rest = jax.random.split(key)
        return inner(params, mimo_batch(batch, deal, model.num_members, repetitions=repetitions, same=same), rest)

    return loss_fn
