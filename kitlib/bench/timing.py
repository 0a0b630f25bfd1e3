"""Timing for all benchmarks: the calls of a table are compiled first, then timed one after the other, in rounds.

Absolute times on a shared machine mean little, but ratios of medians within one run are reliable. The floor of a
training step is the time of its matrix multiplications (as many as in three forward passes) at the speed of a plain
large matmul in the same run.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor

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


def medians(calls: dict[str, Callable]) -> dict[str, float]:
    """Median seconds of every call, from `interleaved`."""
    return {name: statistics.median(seconds) for name, seconds in interleaved(calls).items()}


class OtherProcess(ProcessPoolExecutor):
    """Calls that run in a process of their own, so that two libraries share neither memory nor threads.

        with OtherProcess(make) as peer:            # make() -> {name: call}, a function of a module
            interleaved({"ours": call, "theirs": peer.call("step")})

    Raises the error that `make` raised there, such as ImportError.
    """

    def __init__(self, make: Callable[[], dict[str, Callable]]):
        super().__init__(1, mp_context=multiprocessing.get_context("spawn"))  # JAX does not survive a fork
        self.submit(_make, make).result()

    def call(self, name: str) -> Callable[[], None]:
        """A call that returns when the call of that name has ended there."""
        return lambda: self.submit(_run, name).result()


_CALLS: dict[str, Callable] = {}  # in that process


def _make(make: Callable) -> None:
    _CALLS.update(make())


def _run(name: str) -> None:
    _CALLS[name]()


def stepper(step, state, batches: Iterable) -> Callable:
    """A call that makes one training step on the next batch, and keeps the state for the next call."""
    batches = iter(batches)

    def call():
        nonlocal state
        state, metrics = step(state, next(batches))
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
