"""MC dropout (1506.02142): several passes through one model with dropout left on.

    logits = mc_dropout(model, params, images, num_samples=8)        # float32[8, B, V]

Built in notebooks/09_ensembles_and_uncertainty.ipynb.
"""

import functools

import jax
import numpy as np

from kitlib.configs.arguments import whole
from kitlib.models.vit import ViT
from kitlib.training import classification


def mc_dropout(model, params, images, num_samples: int, *, seed: int = 0, batch_size: int = 500) -> np.ndarray:
    """Logits float32[M, B, V] of M passes with dropout on; router noise and drop path are off, as at test time.

    Raises ValueError if the model has no dropout: all passes would be the same.
    """
    if not isinstance(model, ViT):
        raise TypeError(f"MC dropout is for a ViT, got {type(model).__name__}.")
    whole("num_samples", num_samples, 1), whole("seed", seed, 0)
    config = model.config
    moe = config.moe and config.moe.replace(noise_std=0.0, load_weight=0.0)
    if not (config.dropout or (moe and moe.expert_dropout)):
        raise ValueError("MC dropout needs a model trained with dropout; set dropout or moe.expert_dropout above 0.")
    noisy, axis = _noisy_apply(ViT(config.replace(drop_path=0.0, moe=moe))), int(classification.has_members(model))
    images, samples = classification.in_range(images), []
    for m in range(num_samples):
        key = jax.random.fold_in(jax.random.key(seed), m)
        samples.append(
            classification.in_batches(
                lambda x, start, key=key: noisy(params, x, jax.random.fold_in(key, start)),
                images,
                batch_size,
                axis=axis,
            )
        )
    return np.stack(samples).reshape(-1, *samples[0].shape[-2:])


@functools.cache
def _noisy_apply(model):
    return jax.jit(lambda params, x, key: model.apply({"params": params}, x, train=True, rngs={"dropout": key})[0])
