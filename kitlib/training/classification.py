"""The image classifier: loss, training recipe and predictions, for single models and for ensembles in one model.

    params, history = train_classifier(model, data.load("fashion_mnist"), num_steps=800)
    logits = predict(model, params, images)

Built in notebooks/02_train_and_measure.ipynb.
"""

import functools
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kitlib.configs.arguments import flag, indices, number, whole
from kitlib.layers import initialize
from kitlib.moe.routing import router_metrics
from kitlib.training import loop
from kitlib.training.optim import adamw_cosine_step


def classification_loss(
    model, *, mixup: float = 0.0, sigmoid: bool = False, of_mean: bool = False, train: bool = True
) -> Callable:
    """Mean cross-entropy of `model` (images, train) -> (logits, out) on {"image": float[B, ...], "label": int[B]}.

    The auxiliary loss of a V-MoE is added, and the metrics of its routers are reported (`router_metrics`). For an
    ensemble with logits float32[M, B, V] (labels [B], or [M, B] if members get different images), loss and accuracy are
    means over the members' own values, so that every member has to be right (2110.03360). of_mean: instead the loss of
    the members' mean probability, by which an ensemble is evaluated; softmax only. sigmoid: one binary problem per
    class, summed over classes (JFT pre-training). mixup: alpha of the Beta distribution of 1710.09412, as in big_vision
    one weight per batch, each example mixed with its neighbour; zero: none. train=False: without dropout and router
    noise, to evaluate. Raises ValueError for labels that mixup or of_mean cannot take, and for those of classes that
    there are not; in a compiled program, which cannot raise, the loss of these is NaN.
    """
    number("mixup", mixup, 0.0), flag("sigmoid", sigmoid), flag("of_mean", of_mean), flag("train", train)

    def loss_fn(params, batch, key):
        images, labels = batch["image"], batch["label"]
        mix_key, dropout_key, path_key, router_key = jax.random.split(key, 4)
        rngs = {"dropout": dropout_key, "drop_path": path_key, "router": router_key}
        if mixup and labels.ndim != 1:
            raise ValueError(f"mixup is for one label per image, labels [B]; got {labels.shape}.")
        if mixup:
            weight = jax.random.beta(mix_key, mixup, mixup)
            weight = jnp.maximum(weight, 1.0 - weight)  # the example itself has the larger weight
            images = weight * images + (1.0 - weight) * jnp.roll(images, 1, axis=0)
        logits, out = model.apply({"params": params}, images, train=train, rngs=rngs)
        if of_mean and (sigmoid or logits.ndim != 3 or labels.ndim != 1):
            got = f"logits {logits.shape}, labels {labels.shape}, sigmoid={sigmoid}"
            raise ValueError(f"of_mean is for the softmax of an ensemble, logits [M, B, V], labels [B]; got {got}.")
        if not isinstance(labels, jax.core.Tracer):
            indices("labels", labels, logits.shape[-1], (None,) * labels.ndim)
        labels = jnp.broadcast_to(labels, logits.shape[:-1])  # [B], or [M, B]
        targets = jax.nn.one_hot(labels, logits.shape[-1])  # [B, V], or [M, B, V]
        if mixup:
            targets = weight * targets + (1.0 - weight) * jnp.roll(targets, 1, axis=-2)
        if sigmoid:
            losses = optax.sigmoid_binary_cross_entropy(logits, targets).sum(axis=-1)
        elif of_mean:
            mean = jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(logits.shape[0])
            losses = -(targets[0] * mean).sum(axis=-1)
        else:
            losses = optax.softmax_cross_entropy(logits, targets)
        known = (labels >= 0) & (labels < logits.shape[-1])
        losses = jnp.where(known[0] if of_mean else known, losses, jnp.nan)
        metrics = {"accuracy": jnp.mean(logits.argmax(axis=-1) == labels)}
        if not out or "auxiliary_loss" not in out:
            return losses.mean(), metrics
        return losses.mean() + out["auxiliary_loss"], metrics | router_metrics(out)

    return loss_fn


def train_classifier(
    model,
    source,
    *,
    params: dict | None = None,
    seed: int = 0,
    num_steps: int = 800,
    batch_size: int = 128,
    peak: float = 4e-3,
    warmup: int = 100,
    weight_decay: float = 0.1,
    augment: str = "flip",
    progress: str | None = None,
    checkpoint_dir=None,
    save_every: int = 0,
) -> tuple[dict, dict[str, np.ndarray]]:
    """(parameters, history) of any image classifier on any `data.Source`, by the recipe of `optim.adamw_cosine_step`.

    The seed determines the initial parameters, the order of the images and the dropout. The defaults are for the tiny
    ViT on the kit's 10,000 images of Fashion-MNIST. params: start from these, such as upcycled ones, with a new
    optimiser and schedule (`upcycling.surgery` has what goes on with the old ones); they are not changed.
    checkpoint_dir, save_every: the run goes on from there, after whatever ended it, bit by bit as without an end (see
    `loop.fit`); with other arguments it is refused (of params it is only compared whether there were any). Raises
    ValueError for a model with fewer outputs than the source has classes.
    """
    from kitlib.data import image_batches  # here, because Grain takes longer to import than JAX

    outputs = getattr(getattr(model, "config", None), "num_classes", source.num_classes)
    if outputs < source.num_classes:
        classes = f"{source.name} has {source.num_classes} classes; use num_classes={source.num_classes}"
        raise ValueError(f"The model has {outputs} outputs, but {classes}.")
    if params is not None and not params:
        raise ValueError(f"params is {params}; expected the parameters of the model, or None to draw them.")
    whole("num_steps", num_steps, 1), whole("warmup", warmup, 0), whole("seed", seed, 0)
    number("peak", peak, 0.0), number("weight_decay", weight_decay, 0.0)
    # Copied, since the step overwrites what it is given.
    start = jax.tree.map(jnp.array, params) if params else init_params(model, (1, *source.image_shape), seed)
    tx, step = adamw_cosine_step(classification_loss, model, num_steps, peak, warmup=warmup, weight_decay=weight_decay)
    batches = image_batches.batches(source, batch_size, seed=seed, augment=augment)
    recipe = f"{getattr(model, 'config', model)}, {source.name}, {seed=}, {num_steps=}, {batch_size=}, {peak=}, "
    recipe += f"{warmup=}, {weight_decay=}, {augment=}" + ", from given parameters" * bool(params)
    state, history = loop.fit(
        step, loop.init_state(start, tx, seed), batches, num_steps, progress=progress,
        checkpoint_dir=checkpoint_dir, save_every=save_every, recipe=recipe if checkpoint_dir else "",
    )  # fmt: skip
    return state.params, history


def init_params(model, image_shape: tuple[int, ...], seed: int = 0) -> dict:
    """Initial parameters of an image model; image_shape: (1, height, width, channels)."""
    return initialize.init_params(model, np.zeros(image_shape, np.float32), seed=seed)


def predict(model, params, images, *, batch_size: int = 500) -> np.ndarray:
    """Logits float32[n, V] for images float[n, ...] in [-1, 1]; float32[M, n, V] from an ensemble in one model.

    Where images share the buffers of experts, a last batch that is not full is computed at its own size: images of
    padding would take the slots of real ones.
    """
    images = in_range(images)
    apply, padded = _jitted_apply(model), getattr(getattr(model, "config", None), "moe", None) is None
    return in_batches(lambda x, _: apply(params, x), images, batch_size, axis=int(has_members(model)), padded=padded)


def in_range(images) -> np.ndarray:
    """Pictures float[n, H, W, C] around -1 to 1 (normalised ones up to 10), or features float[n, ...] of any size; at
    least one. Raises ValueError for others: a model takes bytes, or 0 to 255, without a word. Warns of pictures that
    seem to be in [0, 1]."""
    images = np.asarray(images)
    right = images.ndim > 1 and images.size and jnp.issubdtype(images.dtype, jnp.floating)
    most = 10 if images.ndim == 4 else np.inf
    if not right or not (images.max() <= most and images.min() >= -most):  # written so that NaN fails
        got = f" from {images.min()} to {images.max()}" if images.size and images.dtype.kind in "biuf" else ""
        expected = "float[n, ...] in [-1, 1], as image_batches.to_float makes them of bytes"
        raise ValueError(f"The images are {images.dtype}{list(images.shape)}{got}; expected {expected}.")
    if images.ndim == 4 and 0 <= images.min() < images.max() <= 1:
        warnings.warn("No pixel is below 0: of pictures in [0, 1], make [-1, 1] by 2 * images - 1.", stacklevel=3)
    return images


def in_batches(apply: Callable, images, batch_size: int, *, axis: int = 0, padded: bool = True) -> np.ndarray:
    """apply(batch [batch_size, ...], index of its first image) for all images [n, ...], joined along `axis`.

    padded: the last batch is filled up with zeros, so that `apply` is compiled once; for functions of each image alone.
    """
    # Padding never takes more memory than the images, or than a batch of the default size.
    chunks, batch_size = [], min(whole("batch_size", batch_size, 1), max(len(images), 500))
    for start in range(0, len(images), batch_size):
        chunk = np.asarray(images[start : start + batch_size])
        missing = batch_size - len(chunk) if padded else 0
        filled = np.pad(chunk, ((0, missing), *((0, 0),) * (chunk.ndim - 1)))
        chunks.append(np.asarray(apply(filled, start)).take(range(len(chunk)), axis))
    return np.concatenate(chunks, axis)


def has_members(model) -> bool:
    """Whether the model is an ensemble with logits [M, B, V], one row per member."""
    return bool(getattr(model, "num_members", None) or getattr(getattr(model, "config", None), "num_members", None))


@functools.cache
def _jitted_apply(model):
    return jax.jit(lambda params, images: model.apply({"params": params}, images)[0])
