"""Ensembles of several trainings, several dropout masks or several inputs; all predict logits float32[M, B, V].

    params, history = ensembles.fit_images(model, source, seeds=(0, 1, 2))     # deep ensemble: three trained as one
    logits = ensembles.predict(model, ensembles.unstack(params), images)       # float32[3, B, V]
    logits = ensembles.mc_dropout(model, params, images, num_samples=8)        # float32[8, B, V]

`uncertainty` and `metrics` take it from there. *Deep ensemble* (1612.01474): members trained apart. *MC dropout*
(1506.02142): one model, dropout left on. *MIMO* (2010.06610): one network reads M pictures at once and has M heads.
BatchEnsemble and E3 are models of their own (`batch_ensemble`, `e3`): for them `train.predict` is enough.

Built in notebooks/09_ensembles_and_uncertainty.ipynb.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from kitlib import batch_ensemble, checkpoint, train
from kitlib.configs import ViTConfig
from kitlib.vit import ViT

# ---------------------------------------------------------------------------------------------- deep ensembles


def stack(trees: Sequence):
    """M trees of the same shapes -> one tree with a leading M axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree) -> list:
    """The inverse of `stack`: one tree for each member."""
    return [jax.tree.map(lambda leaf, m=m: leaf[m], tree) for m in range(len(jax.tree.leaves(tree)[0]))]


def fit_images(
    model,
    source,
    seeds: Sequence[int],
    *,
    num_steps: int = 800,
    batch_size: int = 128,
    augment: str = "flip",
    progress: str | None = None,
    **recipe,
) -> tuple[dict, dict[str, np.ndarray]]:
    """`train.fit_images` for several seeds as one program: the same members, all leaves with a leading M axis.

    Every member has its own initial parameters and its own order of the pictures. On an accelerator that small models
    do not fill, M members train in little more than the time of one; a CPU core is full with one (`kit bench e3`).
    """
    from kitlib import pipeline  # here, because Grain takes longer to import than JAX

    if not seeds:
        raise ValueError("An ensemble has at least one member, got no seeds.")
    tx, step = train.image_step(model, num_steps, **recipe)
    shape = (1, *source.image_shape)
    state = stack([train.init_state(train.init_params(model, shape, seed), tx, seed) for seed in seeds])
    each = [pipeline.batches(source, batch_size, seed=seed, augment=augment) for seed in seeds]
    state, history = train.fit(
        _together(step), state, map(_stack_batches, zip(*each, strict=True)), num_steps, progress=progress
    )
    return state.params, {name: np.moveaxis(values, 0, 1) for name, values in history.items()}


@functools.cache
def _together(step: Callable) -> Callable:
    return jax.jit(jax.vmap(step), donate_argnums=0)


def _stack_batches(batches):
    return jax.tree.map(lambda *arrays: np.stack(arrays), *batches)


def predict(model, members: Sequence[dict], images, *, batch_size: int = 500) -> np.ndarray:
    """Logits float32[M, B, V] of M trainings of one model; if it has M' members itself, float32[M * M', B, V]."""
    if not members:
        raise ValueError("An ensemble has at least one member, got no parameters.")
    logits = np.stack([train.predict(model, params, images, batch_size=batch_size) for params in members])
    return logits.reshape(-1, *logits.shape[-2:])


# ---------------------------------------------------------------------------------------------- MC dropout


def mc_dropout(model, params, images, num_samples: int, *, seed: int = 0, batch_size: int = 500) -> np.ndarray:
    """Logits float32[M, B, V] of M passes with dropout left on; everything else (router noise, ...) is as at test time.

    Raises ValueError if the model has no dropout: all passes would be the same.
    """
    if not isinstance(model, ViT):
        raise TypeError(f"MC dropout is for a ViT, got {type(model).__name__}.")
    if num_samples < 1:
        raise ValueError(f"MC dropout takes at least one pass, got num_samples={num_samples}.")
    config = model.config
    moe = config.moe and config.moe.replace(noise_std=0.0, load_weight=0.0)
    if not (config.dropout or (moe and moe.expert_dropout)):
        raise ValueError("MC dropout needs a model trained with dropout; set dropout or moe.expert_dropout above 0.")
    noisy, axis = _noisy_apply(ViT(config.replace(drop_path=0.0, moe=moe))), int(train.has_members(model))
    samples = []
    for m in range(num_samples):
        chunks = []
        for start in range(0, len(images), batch_size):
            chunk = np.asarray(images[start : start + batch_size])
            padded = np.pad(chunk, ((0, batch_size - len(chunk)), *((0, 0),) * (chunk.ndim - 1)))
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), m), start)
            chunks.append(np.asarray(noisy(params, padded, key)).take(range(len(chunk)), axis))
        samples.append(np.concatenate(chunks, axis))
    return np.stack(samples).reshape(-1, *samples[0].shape[-2:])


@functools.cache
def _noisy_apply(model):
    return jax.jit(lambda params, x, key: model.apply({"params": params}, x, train=True, rngs={"dropout": key})[0])


# ---------------------------------------------------------------------------------------------- MIMO


class Mimo(nn.Module):
    """A ViT that reads M pictures, concatenated over channels, and answers for each: (logits float32[M, B, V], out).

    images float[M, B, height, width, channels], different ones in training; or float[B, height, width, channels], the
    same for all members, in a test. `config` is that of the plain ViT; with M = 1 the model is just that one.
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
    """What the members read in training: "image" [B, ...], "label" [B] -> [M, R * B, ...], [M, R * B].

    Args:
      repetitions: R, how often a batch holds each picture ("batch repetition").
      same: share of the places at which all members read the same picture ("input repetition probability"): at 0
        members are independent, at 1 they are one. Elsewhere each member has its own order of the pictures.
    """
    if repetitions < 1:
        raise ValueError(f"repetitions is {repetitions}; a batch holds each picture at least once.")
    if not 0.0 <= same <= 1.0:
        raise ValueError(f"same is {same}; it is a share in [0, 1].")
    total = repetitions * len(batch["label"])
    apart = round((1.0 - same) * total)
    order = jax.random.permutation(jax.random.fold_in(key, 0), total)
    keys = jax.random.split(jax.random.fold_in(key, 1), num_members)
    own = jax.vmap(lambda k: jax.random.permutation(k, order[:apart]))(keys)
    index = jnp.concatenate([own, jnp.tile(order[apart:], (num_members, 1))], axis=1) % len(batch["label"])
    return {name: jnp.asarray(values)[index] for name, values in batch.items()}


def mimo_loss(model: Mimo, *, repetitions: int = 1, same: float = 0.0) -> Callable:
    """`train.classification_loss` with the pictures of a batch dealt out by `mimo_batch`."""
    inner = train.classification_loss(model)

    def loss_fn(params, batch, key):
        deal, rest = jax.random.split(key)
        return inner(params, mimo_batch(batch, deal, model.num_members, repetitions=repetitions, same=same), rest)

    return loss_fn


# ---------------------------------------------------------------------------------------------- BatchEnsemble


def batch_ensemble_from_dense(params: dict, config: ViTConfig, key: jax.Array) -> dict:
    """The parameters of a BatchEnsemble that starts from those of a plain ViT: kernels shared, biases repeated.

    Fast weights are drawn as `config.batch_ensemble` says; with spread 0 they are 1, and every member is the ViT.
    """
    if config.batch_ensemble is None:
        raise ValueError("The configuration has no batch_ensemble; set one with replace(batch_ensemble=...).")
    shapes = flatten_dict(checkpoint.expected_shapes(config), sep="/")
    flat, new = flatten_dict(params, sep="/"), {}
    init = batch_ensemble.fast_weight_init(config.batch_ensemble)
    for i, (name, shape) in enumerate(shapes.items()):
        if "/fast_weight_" in name:
            new[name] = init(jax.random.fold_in(key, i), shape.shape)
            continue
        old = flat.pop(name, None)
        if old is None:
            raise ValueError(f"The checkpoint has no {name}; it must be of the same ViT without batch_ensemble.")
        layer, _, leaf = name.rpartition("/")
        own = leaf == "bias" and f"{layer}/fast_weight_alpha" in shapes  # [M, ...] here, one for all there
        expected = shape.shape[1:] if own else shape.shape
        if old.shape != expected:
            raise ValueError(f"{name} is {old.shape} in the checkpoint, expected {expected}.")
        new[name] = jnp.broadcast_to(old, shape.shape)
    if flat:
        raise ValueError(f"The checkpoint has {', '.join(sorted(flat)[:3])}, for which a BatchEnsemble has no place.")
    return unflatten_dict(new, sep="/")
