"""Ensembles of several training runs, several dropout masks or several inputs; all predict logits float32[M, B, V].

    params, history = train_deep_ensemble(model, source, seeds=(0, 1, 2))       # 1612.01474: three runs as one program
    logits = predict_members(model, unstack(params), images)                    # float32[3, B, V]
    logits = mc_dropout(model, params, images, num_samples=8)                   # 1506.02142: float32[8, B, V]
    logits, out = Mimo(config, num_members=2).apply(variables, images)          # 2010.06610: M images, M heads

`uncertainty` and `metrics` evaluate these logits. A BatchEnsemble or an E3 has all its members in one model
(`layers.batch_ensemble`, `moe.e3`), for which `training.classification.predict` is enough.

Built in notebooks/09_ensembles_and_uncertainty.ipynb.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kitlib.configs import ViTConfig
from kitlib.configs.arguments import number, whole
from kitlib.models.vit import ViT
from kitlib.training import classification, loop
from kitlib.training.optim import adamw_cosine_step

# ---------------------------------------------------------------------------------------------- deep ensembles


def stack(trees: Sequence):
    """M trees of the same shapes -> one tree whose leaves have a leading M axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree) -> list:
    """The inverse of `stack`: one tree per member."""
    return [jax.tree.map(lambda leaf, m=m: leaf[m], tree) for m in range(len(jax.tree.leaves(tree)[0]))]


def train_deep_ensemble(
    model,
    source,
    seeds: Sequence[int],
    *,
    num_steps: int = 800,
    batch_size: int = 128,
    peak: float = 4e-3,
    warmup: int = 100,
    weight_decay: float = 0.1,
    augment: str = "flip",
    progress: str | None = None,
) -> tuple[dict, dict[str, np.ndarray]]:
    """`classification.train_classifier` for several seeds as one program: the same members, with a leading M axis.

    Each member has its own initial parameters and its own order of the images. On an accelerator that a small model
    does not fill, M members train in little more time than one; a CPU core is busy with one (`kit bench e3`).
    """
    from kitlib.data import image_batches  # here, because Grain takes longer to import than JAX

    if not seeds:
        raise ValueError("An ensemble has at least one member, got no seeds.")
    loss, rates = classification.classification_loss, {"warmup": warmup, "weight_decay": weight_decay}
    tx, step = adamw_cosine_step(loss, model, num_steps, peak, **rates)
    shape = (1, *source.image_shape)
    state = stack([loop.init_state(classification.init_params(model, shape, seed), tx, seed) for seed in seeds])
    each = [image_batches.batches(source, batch_size, seed=seed, augment=augment) for seed in seeds]
    batches = (jax.tree.map(lambda *arrays: np.stack(arrays), *together) for together in zip(*each, strict=True))
    state, history = loop.fit(_together(step), state, batches, num_steps, progress=progress)
    return state.params, {name: np.moveaxis(values, 0, 1) for name, values in history.items()}


@functools.cache
def _together(step: Callable) -> Callable:
    return jax.jit(jax.vmap(step), donate_argnums=0)


def predict_members(model, members: Sequence[dict], images, *, batch_size: int = 500) -> np.ndarray:
    """Logits float32[M, B, V] of M training runs of a model; float32[M * M', B, V] if the model has M' members."""
    if not members:
        raise ValueError("An ensemble has at least one member, got no parameters.")
    logits = np.stack([classification.predict(model, params, images, batch_size=batch_size) for params in members])
    return logits.reshape(-1, *logits.shape[-2:])


# ---------------------------------------------------------------------------------------------- Monte Carlo dropout


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
        one_pass = functools.partial(lambda key, x, start: noisy(params, x, jax.random.fold_in(key, start)), key)
        samples.append(classification.in_batches(one_pass, images, batch_size, axis=axis))
    return np.stack(samples).reshape(-1, *samples[0].shape[-2:])


@functools.cache
def _noisy_apply(model):
    return jax.jit(lambda params, x, key: model.apply({"params": params}, x, train=True, rngs={"dropout": key})[0])


# ---------------------------------------------------------------------------------------------- MIMO


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
