"""Measured speed, each figure beside the floor it stands on: `kit bench [vit] [moe] [e3] [t5] [import]`.

Absolute times on a shared machine mean little, ratios within one run do: all variants of a table are compiled first and
then timed in turn, round after round, and the medians are compared. The floor of a training step is its matrix
multiplications (three forward passes' worth) at the speed of a plain large matmul in the same run.
"""

import functools
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from kitlib import configs, flops, optim, train
from kitlib.vit import ViT

ROUNDS = 10


def main(names: tuple[str, ...] = ()) -> None:
    """Prints the tables named, or all of them."""
    from kitlib import bench_e3, bench_moe, bench_palix, bench_t5  # here: they measure with the tools of this module

    tables = {"vit": vit_table, "moe": bench_moe.main, "e3": bench_e3.main, "t5": bench_t5.main}
    tables |= {"palix": bench_palix.main, "import": import_table}
    for name in names:
        if name not in tables:
            raise SystemExit(f"There is no bench {name!r}; there are: {', '.join(tables)}.")
    device, tunables = jax.devices()[0], os.environ.get("GLIBC_TUNABLES", "unset")
    print(f"jax {jax.__version__}, {platform.machine()}, {device.device_kind}, float32, {ROUNDS} rounds")
    print(f"GLIBC_TUNABLES: {tunables}")
    for name in names or tables:
        tables[name]()


# ---------------------------------------------------------------------------------------------- timing


def interleaved(calls: dict[str, Callable], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of every call in every round, the calls taking turns; a first round is thrown away."""
    seconds = {name: [] for name in calls}
    for r in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if r:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def stepper(step, state, batch) -> Callable:
    """A call that makes one training step and keeps the state for the next."""

    def call():
        nonlocal state
        state, metrics = step(state, batch)
        return metrics["loss"]

    return call


# ---------------------------------------------------------------------------------------------- a stock ViT beside ours


class StockViT(nn.Module):
    """A ViT from Flax's own layers, as the public Linen codes write it: convolution, MultiHeadDotProductAttention, MLP.

    The peer that `kit bench vit` measures against: the same function, none of our code.
    """

    config: configs.ViTConfig

    @nn.compact
    def __call__(self, images, train: bool = False):
        c = self.config
        x = nn.Conv(c.width, (c.patch_size,) * 2, strides=(c.patch_size,) * 2, padding="VALID")(images)
        x = x.reshape(x.shape[0], -1, c.width)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, c.width))
        x = jnp.concatenate([jnp.tile(cls, (x.shape[0], 1, 1)), x], axis=1)
        x = x + self.param("pos_embedding", nn.initializers.normal(0.02), (1, c.num_tokens, c.width))
        for _ in range(c.depth):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(c.num_heads)(y, y)
            y = nn.LayerNorm()(x)
            x = x + nn.Dense(c.width)(nn.gelu(nn.Dense(c.mlp_dim)(y)))
        return nn.Dense(c.num_classes, kernel_init=nn.initializers.zeros)(nn.LayerNorm()(x)[:, 0]), {}


# ---------------------------------------------------------------------------------------------- tables


VIT_ROWS = (
    ("tiny/7 28 px, batch 128", configs.vit("tiny/7", image_size=(28, 28), channels=1, num_classes=10), 128),
    ("Ti/16 224 px, batch 8", configs.vit("Ti/16"), 8),
    ("S/16 224 px, batch 8", configs.vit("S/16"), 8),
)


def vit_table() -> None:
    """Training step (forward, backward, AdamW) of ours, ours scanned, and a stock Flax ViT; the matmul floor beside."""
    n = 2048
    square = jnp.asarray(np.random.default_rng(0).normal(size=(n, n)), jnp.float32)
    matmul = jax.jit(jnp.matmul)
    heads = ("ms", "images/s", "GFLOP/s", "of floor", "vs stock", "compile s")
    print(f"\n{'model':26}{'variant':10}" + "".join(f"{head:>11}" for head in heads))
    for name, config, batch_size in VIT_ROWS:
        models = {"kitlib": ViT(config), "scanned": ViT(config.replace(scan=True)), "stock": StockViT(config)}
        batch = random_batch(config, batch_size)
        calls, compile_seconds = {"matmul": functools.partial(matmul, square, square)}, {}
        for variant, model in models.items():
            start = time.perf_counter()
            calls[variant] = stepper(*training(model, config), batch)
            jax.block_until_ready(calls[variant]())
            compile_seconds[variant] = time.perf_counter() - start
        seconds = {k: statistics.median(v) for k, v in interleaved(calls).items()}
        floor = 2 * n**3 / seconds["matmul"]  # FLOP/s
        work = 3 * batch_size * sum(flops.vit_forward_flops(config).values())
        print(f"{name:26}{'matmul':10}{seconds['matmul'] * 1e3:11.1f}{'':11}{floor / 1e9:11.0f}")
        for variant in models:
            s = seconds[variant]
            shares = f"{work / s / 1e9:11.0f}{work / s / floor:11.2f}{s / seconds['stock']:11.2f}"
            print(f"{name:26}{variant:10}{s * 1e3:11.1f}{batch_size / s:11.1f}{shares}{compile_seconds[variant]:11.1f}")


def random_batch(config: configs.ViTConfig, batch_size: int) -> dict:
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (batch_size, *config.image_size, config.channels)).astype(np.float32)
    return {"image": jnp.asarray(images), "label": jnp.asarray(rng.integers(config.num_classes, size=batch_size))}


def training(model: nn.Module, config: configs.ViTConfig):
    """(step, state) of `model` under AdamW; nothing is compiled yet but the initialisation."""
    params = train.init_params(model, (1, *config.image_size, config.channels))
    tx = optim.assemble(optax.scale_by_adam(), 1e-3, weight_decay=0.05)
    return train.make_step(train.classification_loss(model), tx), train.init_state(params, tx)


def import_table() -> None:
    """Wall seconds of whole processes that only import, in turn."""
    lines = {
        "flax.linen + optax": "import flax.linen, optax",
        "kitlib": "import kitlib",
        "kitlib, its model and training": "import kitlib; kitlib.vit, kitlib.optim, kitlib.train",
        "... and its data pipeline (Grain)": "import kitlib; kitlib.train, kitlib.pipeline",
    }
    calls = {
        k: functools.partial(subprocess.run, [sys.executable, "-c", line], check=True) for k, line in lines.items()
    }
    seconds = {k: statistics.median(v) for k, v in interleaved(calls).items()}
    print(f"\n{'import':36}{'s':>6}{'ratio':>8}")
    for name, s in seconds.items():
        print(f"{name:36}{s:6.2f}{s / seconds['flax.linen + optax']:8.2f}")
