"""Timing for all benchmarks: the calls of a table are compiled first, then timed one after the other, in rounds.

Absolute times on a shared machine mean little, but ratios within one run are reliable: all variants of a table are
compiled first and then timed one after the other, round by round, and the medians are compared. The floor of a training
step is the time of its matrix multiplications (as many as in three forward passes) at the speed of a plain large matmul
in the same run.
"""

import multiprocessing
import time
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from kitlib import configs
from kitlib.training import classification, loop, optim

ROUNDS = 10


def interleaved(calls: dict[str, Callable], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of every call in every round. A round makes every call once; an additional first round is discarded."""
    seconds = {name: [] for name in calls}
    for r in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if r:
                seconds[name].append(time.perf_counter() - start)
    return seconds


class OtherProcess:
    """Calls that run in a process of their own, so that two libraries share neither memory nor threads.

        with OtherProcess(make) as peer:            # make() -> {name: call}, a function of a module
            interleaved({"ours": call, "theirs": peer.call("step")})

    Raises the error that `make` raised there, such as ImportError.
    """

    def __init__(self, make: Callable[[], dict[str, Callable]]):
        context = multiprocessing.get_context("spawn")  # JAX does not survive a fork
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make), daemon=True)
        self.process.start()
        self._answer()

    def call(self, name: str) -> Callable[[], None]:
        """A call that returns when the call of that name has ended there."""

        def run():
            self.pipe.send(name)
            self._answer()

        return run

    def _answer(self) -> None:
        if (error := self.pipe.recv()) is not None:
            raise error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.join()


def _serve(pipe, make: Callable) -> None:
    """Makes the calls, then one for each name that comes; the answer is None or an error."""
    try:
        calls = make()
        pipe.send(None)
        while True:
            calls[pipe.recv()]()
            pipe.send(None)
    except EOFError:  # the other side has gone
        pass
    except Exception as error:
        pipe.send(error)


def stepper(step, state, batch) -> Callable:
    """A call that makes one training step and keeps the state for the next."""

    def call():
        nonlocal state
        state, metrics = step(state, batch)
        return metrics["loss"]

    return call


def random_batch(config: configs.ViTConfig, batch_size: int) -> dict:
    """Random images and labels for a ViT."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (batch_size, *config.image_size, config.channels)).astype(np.float32)
    return {"image": jnp.asarray(images), "label": jnp.asarray(rng.integers(config.num_classes, size=batch_size))}


def step_and_state(model: nn.Module, config: configs.ViTConfig):
    """(step, state) of `model` with AdamW; only the initialisation is compiled so far."""
    params = classification.init_params(model, (1, *config.image_size, config.channels))
    tx = optim.assemble(optax.scale_by_adam(), 1e-3, weight_decay=0.05)
    return loop.make_step(classification.classification_loss(model), tx), loop.init_state(params, tx)
