"""Training: one jitted step, one loop, checkpoints that survive `kill -9`.

    state = loop.init_state(params, tx, seed=0)
    step = loop.make_step(classification.classification_loss(model), tx)
    state, history = loop.fit(step, state, batches, num_steps=1000, checkpoint_dir="run", save_every=200)

The loop is the same for every task: a loss is any function (params, batch, key) -> (scalar, {name: scalar}). The losses
are in `classification` (images), `models.t5` (text) and `models.palix` (both).

On a mesh, a state is born divided, so that no device ever holds a whole large model; the batches are divided, too:

    shardings = loop.state_shardings(shapes, tx, devices)             # of TrainState, by `parallel.rules`
    state = loop.init_sharded(make_params, tx, devices, seed=0)       # every device draws its own part
    step = loop.make_step(loss_fn, tx, shardings=shardings)
    with jax.set_mesh(devices):                                       # devices: a Mesh, from `parallel.mesh`
        state, metrics = step(state, mesh.global_batch(devices, batch))

Built in notebooks/02_train_and_measure.ipynb, the mesh in notebooks/16_from_laptop_to_pod.ipynb.
"""

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Iterator

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from kitlib.configs import arguments
from kitlib.parallel import mesh, processes, rules
from kitlib.training import checkpoints


class TrainState(flax.struct.PyTreeNode):
    """All that a run needs to continue: with the iterator's state, it determines the rest of the run bitwise."""

    step: jax.Array  # int32[], updates done
    params: dict
    opt_state: optax.OptState
    key: jax.Array  # of the run; step t draws from fold_in(key, t), so a resumed run draws the same numbers


class NonFiniteLoss(FloatingPointError):
    """The loss or its gradient became NaN or infinite; the message names the first such step and what is saved."""


def init_state(params, tx: optax.GradientTransformation, seed: int = 0) -> TrainState:
    """A fresh state. The parameters are copied, because the step donates its input and would delete the caller's."""
    params = jax.tree.map(jnp.array, params)
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), jax.random.key(seed))


# ---------------------------------------------------------------------------------------------- the state on a mesh


def state_shapes(params, tx: optax.GradientTransformation) -> TrainState:
    """The shapes of a fresh state for parameters, arrays or shapes; nothing is computed."""
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    return jax.eval_shape(lambda p: init_state(p, tx), shapes)


def state_specs(params, tx: optax.GradientTransformation, devices: Mesh) -> TrainState:
    """The PartitionSpecs of a state; raises ValueError as `rules.specs` and `rules.state_specs` do."""
    specs = rules.specs(params, devices)
    moments = rules.state_specs(tx, params, specs)
    return TrainState(P(), specs, moments, P())  # type: ignore[arg-type]  # specs in place of arrays


def state_shardings(params, tx: optax.GradientTransformation, devices: Mesh) -> TrainState:
    """The NamedShardings of a state on a mesh."""
    return rules.shardings(state_specs(params, tx, devices), devices)


def init_sharded(make_params: Callable, tx: optax.GradientTransformation, devices: Mesh, seed: int = 0) -> TrainState:
    """A fresh state on a mesh. make_params(): the initial parameters, the same on every process, such as
    `lambda: t5.init_params(model)`; it is compiled into one program that computes each device's part there."""
    shardings = state_shardings(jax.eval_shape(make_params), tx, devices)
    return jax.jit(lambda: init_state(make_params(), tx, seed), out_shardings=shardings)()


# ---------------------------------------------------------------------------------------------- the step


def make_step(loss_fn: Callable, tx: optax.GradientTransformation, *, accumulate: int = 1, shardings=None) -> Callable:
    """(state, batch) -> (state, {"loss", "grad_norm", ...}), jitted, the old state donated (its memory is reused).

    accumulate: the batch is cut into this many equal parts, which are computed one after the other (see `gradients`).
    shardings: of the state on a mesh (`state_shardings`), which the new state keeps.
    """
    arguments.whole("accumulate", accumulate, 1)

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=None if shardings is None else (shardings, None))
    def step(state: TrainState, batch):
        key = jax.random.fold_in(state.key, state.step)
        (loss, metrics), grads = gradients(loss_fn, state.params, batch, key, accumulate)
        norm = optax.tree.norm(grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, "grad_norm": norm, **metrics}
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return step


def gradients(loss_fn: Callable, params, batch, key: jax.Array, accumulate: int = 1):
    """((loss, metrics), gradients) of loss_fn(params, batch, key) for a whole batch, a tree of [B, ...].

    accumulate: the batch is cut into this many equal parts (or ValueError), and their gradients are averaged: for a
    loss that is a mean over examples, the same gradients as of the whole batch, in the memory of one part and one more
    set of gradients. (A mean over tokens, as of T5 and PaLI-X, becomes the mean of the parts' means: tokens of a part
    with fewer of them count more.) On a mesh, each device cuts its own rows, so that no example moves, and devices
    along `data` average their gradients once, at the end; along `fsdp` and `expert`, each part's gradients are added up
    at once, as whole ones would not fit there.
    """
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    if arguments.whole("accumulate", accumulate, 1) == 1:
        return grad_fn(params, batch, key)
    here = mesh.current()
    rows, devices = jax.tree.leaves(batch)[0].shape[0], mesh.num_shards()
    if rows % (accumulate * devices):
        parts = f"{accumulate} equal parts" + f" on each of {devices} devices" * (devices > 1)
        raise ValueError(f"A batch of {rows} cannot be cut into {parts}; change one of them.")

    def accumulated(params, batch, key):
        parts = jax.tree.map(functools.partial(_cut, accumulate=accumulate), batch)
        keys = jax.random.split(key, accumulate)
        first = jax.tree.map(lambda x: x[0], (parts, keys))
        total = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(grad_fn, params, *first))

        def add(total, part):
            return jax.tree.map(jnp.add, total, grad_fn(params, *part)), None

        total, _ = jax.lax.scan(add, total, (parts, keys))
        return jax.tree.map(lambda x: x / accumulate, total)

    if mesh.free_axes(here).get("data", 1) == 1:
        return accumulated(params, batch, key)

    def on_one_row(params, batch, key):  # of the mesh along `data`: nothing is averaged before the end
        key = jax.random.fold_in(key, jax.lax.axis_index("data"))
        return jax.lax.pmean(accumulated(params, batch, key), "data")

    run = jax.shard_map(
        on_one_row, mesh=here, in_specs=(P(), P("data"), P()), out_specs=P(), axis_names={"data"}, check_vma=False
    )
    return run(params, batch, key)


def _cut(x: jax.Array, accumulate: int) -> jax.Array:
    """[B, ...] -> [parts, B / parts, ...]; on a mesh, every device cuts its own rows."""
    x = x.reshape(mesh.num_shards(), accumulate, -1, *x.shape[1:]).swapaxes(0, 1)  # [parts, devices, rows, ...]
    return x.reshape(accumulate, -1, *x.shape[3:])


# ---------------------------------------------------------------------------------------------- the loop


class Preempted(SystemExit):
    """The run was asked to end; saved: its state is kept. Ends a program with the status that SIGTERM gives, 143."""

    def __init__(self, step: int, *, saved: bool):
        self.step = step
        print(f"Asked to end (SIGTERM) at step {step}; " + ("saved, the same command goes on." if saved else "lost."))
        super().__init__(128 + signal.SIGTERM)


class Watch:
    """Notices SIGTERM inside its `with` block, instead of dying of it: clusters that take a machine away send it, and
    some seconds later SIGKILL. Signals reach only the main thread; in others, it notices nothing.

    every: steps between two agreements of several processes. A checkpoint needs all of them, and the signal may reach
    only one; a process alone looks after every step.
    """

    def __init__(self, every: int):
        self.every, self.received, self.old = every, False, None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self.old = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *_):
        if self.old is not None:
            signal.signal(signal.SIGTERM, self.old)

    def _receive(self, *_):
        self.received = True

    def asked(self, step: int) -> bool:
        """Whether any process has been asked to end, after `step` steps; the same answer on all of them."""
        if jax.process_count() == 1:
            return self.received
        return step % self.every == 0 and any(processes.gather_json(self.received))


def fit(
    step: Callable,
    state: TrainState,
    batches: Iterator,
    num_steps: int,
    *,
    checkpoint_dir=None,
    recipe: str = "",
    save_every: int = 0,
    check_every: int = 50,
    evaluate: Callable[[TrainState], dict[str, float]] | None = None,
    evaluate_every: int = 0,
    writer=None,
    progress: str | None = None,
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Trains until `state.step == num_steps`; returns the state and {"loss": float32[num_steps], ...}.

    checkpoint_dir: the run resumes from the newest checkpoint there, if any, and saves every `save_every` steps and at
    the end; `batches` must then be a Grain iterator (get_state, set_state). A run that is killed at any moment and
    started again ends with bitwise the same parameters as without the kill. It goes on with the data that it began with
    and the same `recipe`: what else must not change, in words. Asked to end by SIGTERM, it saves and raises Preempted.

    Every `check_every` steps, and before each save, losses and norms of gradients are fetched: NonFiniteLoss names the
    first bad step, and a bad state is never saved. `evaluate(state)` is called every `evaluate_every` steps and at the
    end. writer: see `metric_writers`, or a function that makes one once the folder is ours; evaluations are
    "eval/name". progress: the label of a progress bar on stderr. Raises ValueError for data that end too early, a
    folder in use, and checkpoints of another model, recipe or data, that are damaged, or beyond num_steps.
    """
    for name, count in {"num_steps": num_steps, "save_every": save_every, "evaluate_every": evaluate_every}.items():
        arguments.whole(name, count, 0)
    arguments.whole("check_every", check_every, 1)
    if save_every and not checkpoint_dir:
        raise ValueError("save_every needs a checkpoint_dir to save into.")

    def due(done: int, every: int) -> bool:
        return done == num_steps or bool(every and done % every == 0)

    with Watch(check_every) as watch, contextlib.ExitStack() as stack:
        saver = checkpoints.Saver(checkpoint_dir, recipe) if checkpoint_dir else None
        if saver:
            stack.callback(saver.close)
        if callable(writer) and (writer := writer()):
            stack.callback(writer.close)
        history = {}
        if saver and saver.latest is not None:
            state, history = saver.restore(state, batches)
        elif saver:
            saver.begin(batches)
        start = int(np.max(state.step))  # a deep ensemble has one step per member
        if start > num_steps:
            raise ValueError(f"{checkpoint_dir} is already at step {start}, beyond the {num_steps} asked for.")
        if writer:
            writer.rewind(start)
        pending = []  # metrics still on the device: fetching one would wait for its step
        bar = tqdm(total=num_steps, initial=start, desc=progress, disable=progress is None, mininterval=1.0)
        stack.callback(bar.close)
        for t in range(start, num_steps):
            try:
                batch = next(batches)
            except StopIteration:
                instead = "let it repeat (num_epochs=None)"
                raise ValueError(f"The data ended at step {t} of {num_steps}; {instead}.") from None
            state, metrics = step(state, batch)
            pending.append(metrics)
            done = t + 1
            ends = watch.asked(done)
            save = saver and (due(done, save_every) or ends)
            if save or due(done, check_every) or due(done, evaluate_every) or ends:
                history = _extend(history, pending, saver)
                bar.set_postfix(loss=f"{history['loss'][-1].mean():.3f}", refresh=False)
                if writer:
                    writer.write(done, {name: float(np.mean(values[-1])) for name, values in history.items()})
                pending = []
            if evaluate and due(done, evaluate_every):
                scores = evaluate(state)
                if writer:
                    writer.write(done, {f"eval/{name}": float(value) for name, value in scores.items()})
            if save:
                saver.save(done, state, batches, history)
            if ends:
                raise Preempted(done, saved=bool(saver) and saver.latest == done)
            bar.update()
    return state, history


def _extend(history: dict, pending: list[dict], saver) -> dict:
    new = {name: np.array([m[name] for m in jax.device_get(pending)], np.float32) for name in pending[0]}
    first = len(history.get("loss", ()))
    # A finite loss may have a gradient that is not (a square root at 0): the parameters after this step would be NaN.
    for name, what in (("loss", "loss"), ("grad_norm", "norm of its gradient")):
        values = new.get(name, np.zeros(len(pending)))
        bad = np.flatnonzero(~np.isfinite(values).reshape(len(pending), -1).all(axis=1))
        if bad.size:
            latest = saver and saver.latest
            kept = "none saved" if latest is None else f"the last good checkpoint is step {latest}"
            raise NonFiniteLoss(
                f"The {what} is {values[bad[0]]} at step {first + bad[0]} ({kept}); lower the learning rate, warm up "
                "longer or clip the gradients; labels of classes that there are not give NaN, too."
            )
    return {name: np.concatenate([history[name], values]) if history else values for name, values in new.items()}
