"""Training: one jitted step, one loop, checkpoints that survive `kill -9`.

    state = train.init_state(params, tx, seed=0)
    step = train.make_step(train.classification_loss(model), tx)
    state, history = train.fit(step, state, batches, num_steps=1000, checkpoint_dir="run", save_every=200)

The step knows nothing of vision: a loss is any function (params, batch, key) -> (scalar, {name: scalar}).

Built in notebooks/02_train_and_measure.ipynb.
"""

import functools
import pathlib
from collections.abc import Callable, Iterator

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from kitlib import optim


@flax.struct.dataclass
class TrainState:
    """Everything that a run needs to go on: with the iterator's state, it determines the rest of the run bit by bit."""

    step: jax.Array  # int32[], updates done
    params: dict
    opt_state: optax.OptState
    key: jax.Array  # of the run; step t draws from fold_in(key, t), so a resumed run draws the same numbers


class NonFiniteLoss(FloatingPointError):
    """The loss became NaN or infinite; the message names the first such step and the last good checkpoint."""


def init_state(params, tx: optax.GradientTransformation, seed: int = 0) -> TrainState:
    """A fresh state. The parameters are copied: the step donates its input, and would delete the caller's."""
    params = jax.tree.map(jnp.array, params)
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), jax.random.key(seed))


# ---------------------------------------------------------------------------------------------- losses


def classification_loss(model, *, mixup: float = 0.0, sigmoid: bool = False, of_mean: bool = False) -> Callable:
    """Mean cross-entropy of `model` (images, train) -> (logits, out) on {"image": float[B, ...], "label": int[B]}.

    sigmoid: one binary problem a class, summed over classes (JFT pre-training), instead of the softmax.
    A V-MoE's auxiliary loss is added, and its routers are reported (`router_metrics`).
    Of an ensemble, logits float32[M, B, V] (labels [B], or [M, B] where members see different pictures), loss and
    accuracy are the mean over members of each one's own: none is excused by the others (2110.03360). of_mean: the loss
    of the members' mean probability instead, by which an ensemble is judged; softmax only.
    mixup: alpha of the Beta distribution of 1710.09412, as in big_vision: one weight a batch, each example mixed with
    its neighbour. Zero: no mixup.
    """

    def loss_fn(params, batch, key):
        images, labels = batch["image"], batch["label"]
        mix_key, dropout_key, path_key, router_key = jax.random.split(key, 4)
        rngs = {"dropout": dropout_key, "drop_path": path_key, "router": router_key}
        if mixup and labels.ndim != 1:
            raise ValueError(f"mixup is for one label a picture, labels [B]; got {labels.shape}.")
        if mixup:
            weight = jax.random.beta(mix_key, mixup, mixup)
            weight = jnp.maximum(weight, 1.0 - weight)  # the larger share stays with the example itself
            images = weight * images + (1.0 - weight) * jnp.roll(images, 1, axis=0)
        logits, out = model.apply({"params": params}, images, train=True, rngs=rngs)
        if of_mean and (sigmoid or logits.ndim != 3 or labels.ndim != 1):
            raise ValueError(
                "of_mean is for the softmax of an ensemble, logits [M, B, V] and labels [B]; got logits "
                f"{logits.shape}, labels {labels.shape}, sigmoid={sigmoid}."
            )
        labels = jnp.broadcast_to(labels, logits.shape[:-1])  # of every member the same, where there are members
        targets = jax.nn.one_hot(labels, logits.shape[-1])
        if mixup:
            targets = weight * targets + (1.0 - weight) * jnp.roll(targets, 1, axis=-2)
        if sigmoid:
            losses = optax.sigmoid_binary_cross_entropy(logits, targets).sum(axis=-1)
        elif of_mean:
            mean = jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(logits.shape[0])
            losses = -(targets[0] * mean).sum(axis=-1)
        else:
            losses = optax.softmax_cross_entropy(logits, targets)
        metrics = {"accuracy": jnp.mean(logits.argmax(axis=-1) == labels)}
        if not out or "auxiliary_loss" not in out:
            return losses.mean(), metrics
        return losses.mean() + out["auxiliary_loss"], metrics | router_metrics(out)

    return loss_fn


def router_metrics(out: dict) -> dict[str, jax.Array]:
    """From a V-MoE's intermediates: "auxiliary_loss", and of every router, in the order of the blocks, "dropped" and
    "unprocessed" float32[L'], "load" float32[L', E]; see `routing.metrics`. Soft MoE has only the first."""
    blocks = [value for name, value in sorted(out.items()) if name.startswith("block") and "moe" in value]
    routers = [block["moe"]["metrics"] for block in blocks if "metrics" in block["moe"]]
    stacked = {name: jnp.stack([m[name] for m in routers]) for name in ("dropped", "unprocessed", "load") if routers}
    return {"auxiliary_loss": out["auxiliary_loss"], **stacked}


# ---------------------------------------------------------------------------------------------- the step


def make_step(loss_fn: Callable, tx: optax.GradientTransformation, *, accumulate: int = 1) -> Callable:
    """(state, batch) -> (state, {"loss", "grad_norm", ...}), jitted, the old state donated (its memory is reused).

    accumulate: the batch is cut into that many equal parts, one after the other, and their gradients averaged: the same
    update as the whole batch at once (for a mean loss), in less memory.
    """
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def gradients(params, batch, key):
        if accumulate == 1:
            return grad_fn(params, batch, key)
        size = jax.tree.leaves(batch)[0].shape[0]
        if size % accumulate:
            raise ValueError(f"A batch of {size} cannot be cut into {accumulate} equal parts; change one of them.")
        parts = jax.tree.map(lambda x: x.reshape(accumulate, size // accumulate, *x.shape[1:]), batch)
        keys = jax.random.split(key, accumulate)
        results = jax.lax.map(lambda part: grad_fn(params, *part), (parts, keys))
        return jax.tree.map(lambda x: x.mean(axis=0), results)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch):
        (loss, metrics), grads = gradients(state.params, batch, jax.random.fold_in(state.key, state.step))
        norm = optax.tree.norm(grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, "grad_norm": norm, **metrics}
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return step


# ---------------------------------------------------------------------------------------------- the loop


def fit(
    step: Callable,
    state: TrainState,
    batches: Iterator,
    num_steps: int,
    *,
    checkpoint_dir=None,
    save_every: int = 0,
    check_every: int = 50,
    progress: str | None = None,
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Trains until `state.step == num_steps`; returns the state and {"loss": float32[num_steps], ...}.

    With `checkpoint_dir` the run resumes from the newest checkpoint there, if any, and saves every `save_every` steps
    and at the end; `batches` must then be a Grain iterator (get_state, set_state). Checkpoints appear atomically, so a
    run killed at any moment and started again ends with the same parameters, bit by bit, as one that was never killed.

    Every `check_every` steps, and before each save, the losses are fetched: NonFiniteLoss names the first bad step, and
    a bad state is never saved. `progress`: the label of a progress bar on stderr; None: silent.
    """
    if save_every and not checkpoint_dir:
        raise ValueError("save_every needs a checkpoint_dir to save into.")
    saver = _Saver(checkpoint_dir) if checkpoint_dir else None
    history = {}
    if saver and saver.latest is not None:
        state, history = saver.restore(state, batches)
    start = int(np.max(state.step))  # of an ensemble, one step for each member
    if start > num_steps:
        raise ValueError(f"{checkpoint_dir} is already at step {start}, beyond the {num_steps} asked for.")

    pending = []  # metrics still on the device: fetching one would wait for its step
    bar = tqdm(total=num_steps, initial=start, desc=progress, disable=progress is None, mininterval=1.0)
    for t in range(start, num_steps):
        try:
            batch = next(batches)
        except StopIteration:
            raise ValueError(f"The data ended at step {t} of {num_steps}; let it repeat (num_epochs=None).") from None
        state, metrics = step(state, batch)
        pending.append(metrics)
        done = t + 1
        save = saver and (done == num_steps or (save_every and done % save_every == 0))
        if save or done == num_steps or done % check_every == 0:
            history = _extend(history, pending, saver)
            bar.set_postfix(loss=f"{history['loss'][-1].mean():.3f}", refresh=False)
            pending = []
        if save:
            saver.save(done, state, batches, history)
        bar.update()
    bar.close()
    if saver:
        saver.close()
    return state, history


def _extend(history: dict, pending: list[dict], saver) -> dict:
    new = {name: np.array([m[name] for m in jax.device_get(pending)], np.float32) for name in pending[0]}
    first = len(history.get("loss", ()))
    bad = np.flatnonzero(~np.isfinite(new["loss"]).reshape(len(pending), -1).all(axis=1))
    if bad.size:
        kept = (
            f"the last good checkpoint is step {saver.latest}" if saver and saver.latest is not None else "none saved"
        )
        raise NonFiniteLoss(
            f"The loss is {new['loss'][bad[0]]} at step {first + bad[0]} ({kept}); lower the learning rate, warm up "
            "longer or clip the gradients."
        )
    return {name: np.concatenate([history[name], values]) if history else values for name, values in new.items()}


class _Saver:
    """Orbax checkpoints of (state, data iterator, history): written beside, then renamed, so never half there."""

    def __init__(self, directory):
        import orbax.checkpoint as ocp  # here, because it takes longer to import than a small model to train

        self.ocp = ocp
        self.directory = pathlib.Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        try:
            self.manager = ocp.CheckpointManager(self.directory, options=options)
        except OSError as error:
            raise OSError(f"Cannot write checkpoints to {self.directory} ({error}); choose another folder.") from error

    @property
    def latest(self) -> int | None:
        return self.manager.latest_step()

    def save(self, step: int, state: TrainState, batches, history: dict) -> None:
        args = self.ocp.args
        self.manager.save(
            step,
            args=args.Composite(
                state=args.StandardSave(state.replace(key=jax.random.key_data(state.key))),
                data=args.JsonSave(batches.get_state()),
                history=args.StandardSave(history),
            ),
        )

    def restore(self, like: TrainState, batches) -> tuple[TrainState, dict]:
        args = self.ocp.args
        like = like.replace(key=jax.random.key_data(like.key))
        try:
            got = self.manager.restore(
                self.latest,
                args=args.Composite(
                    state=args.StandardRestore(like), data=args.JsonRestore(), history=args.StandardRestore()
                ),
            )
        except (ValueError, KeyError, OSError) as error:
            raise ValueError(
                f"The checkpoint of step {self.latest} in {self.directory} cannot be read or is of another model or "
                f"optimiser: {error}"
            ) from error
        batches.set_state(got.data)
        state = got.state.replace(key=jax.random.wrap_key_data(got.state.key))
        return state, {name: np.asarray(values) for name, values in got.history.items()}

    def close(self) -> None:
        self.manager.close()


def fit_images(
    model,
    source,
    *,
    seed: int = 0,
    num_steps: int = 800,
    batch_size: int = 128,
    peak: float = 4e-3,
    warmup: int = 100,
    weight_decay: float = 0.1,
    augment: str = "flip",
    progress: str | None = None,
) -> tuple[dict, dict[str, np.ndarray]]:
    """The recipe of the notebooks: AdamW, cosine, clipping at 1, for any image classifier on any `data.Source`.

    The seed decides the initial parameters, the order of the pictures and the dropout. Returns (parameters, history).
    The defaults are for the tiny ViT on the kit's 10,000 Fashion-MNIST pictures.
    """
    from kitlib import pipeline  # here, because Grain takes longer to import than JAX

    params = init_params(model, (1, *source.image_shape), seed)
    tx, step = image_step(model, num_steps, peak, warmup, weight_decay)
    batches = pipeline.batches(source, batch_size, seed=seed, augment=augment)
    state, history = fit(step, init_state(params, tx, seed), batches, num_steps, progress=progress)
    return state.params, history


@functools.cache  # several seeds of one model compile once
def image_step(model, num_steps: int, peak: float = 4e-3, warmup: int = 100, weight_decay: float = 0.1):
    """(optimiser, step) of `fit_images`."""
    schedule = optim.cosine(peak, num_steps, warmup)
    tx = optim.assemble(optax.scale_by_adam(), schedule, weight_decay=weight_decay, clip_norm=1.0)
    return tx, make_step(classification_loss(model), tx)


def init_params(model, image_shape: tuple[int, ...], seed: int = 0) -> dict:
    """Initial parameters, drawn in one compiled call (op by op it takes ten times as long)."""
    return _jitted_init(model)(jax.random.key(seed), jnp.zeros(image_shape))["params"]


@functools.cache
def _jitted_init(model):
    return jax.jit(model.init)


# ---------------------------------------------------------------------------------------------- evaluation


def predict(model, params, images, *, batch_size: int = 500) -> np.ndarray:
    """Logits float32[n, V] of images float[n, ...] in [-1, 1], of an ensemble in one model float32[M, n, V].

    Batch by batch; the last is padded: one compilation.
    """
    apply, axis = _jitted_apply(model), 1 if has_members(model) else 0
    chunks = []
    for start in range(0, len(images), batch_size):
        chunk = np.asarray(images[start : start + batch_size])
        padded = np.pad(chunk, ((0, batch_size - len(chunk)), *((0, 0),) * (chunk.ndim - 1)))
        chunks.append(np.asarray(apply(params, padded)).take(range(len(chunk)), axis))
    return np.concatenate(chunks, axis)


def has_members(model) -> bool:
    """Does the model predict logits [M, B, V], one row for every member of an ensemble?"""
    return bool(getattr(model, "num_members", None) or getattr(getattr(model, "config", None), "num_members", None))


@functools.cache
def _jitted_apply(model):
    return jax.jit(lambda params, images: model.apply({"params": params}, images)[0])
