"""`kit bench vit`: the training step of the kit's ViT next to a ViT of Flax's own layers and to the matmul floor."""

import functools
import statistics
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kitlib import configs
from kitlib.bench import timing
from kitlib.models import flops
from kitlib.models.vit import ViT


class StockViT(nn.Module):
    """A ViT from Flax's own layers, as in public Linen code: convolution, MultiHeadDotProductAttention, MLP.

    `kit bench vit` compares with it: the same function without our code.
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


VIT_ROWS = (
    ("tiny/7 28 px, batch 128", configs.vit("tiny/7", image_size=(28, 28), channels=1, num_classes=10), 128),
    ("Ti/16 224 px, batch 8", configs.vit("Ti/16"), 8),
    ("S/16 224 px, batch 8", configs.vit("S/16"), 8),
)


def main() -> None:
    """Training step (forward, backward, AdamW) of our ViT, ours scanned, and a stock Flax ViT; the matmul floor."""
    n = 2048
    square = jnp.asarray(np.random.default_rng(0).normal(size=(n, n)), jnp.float32)
    matmul = jax.jit(jnp.matmul)
    heads = ("ms", "images/s", "GFLOP/s", "of floor", "vs stock", "compile s")
    print(f"\n{'model':26}{'variant':10}" + "".join(f"{head:>11}" for head in heads))
    for name, config, batch_size in VIT_ROWS:
        scanned = ViT(config.replace(scan=True, remat="full"))
        models = {"kitlib": ViT(config), "scanned": scanned, "stock": StockViT(config)}
        batch = timing.random_batch(config, batch_size)
        calls, compile_seconds = {"matmul": functools.partial(matmul, square, square)}, {}
        for variant, model in models.items():
            start = time.perf_counter()
            calls[variant] = timing.stepper(*timing.step_and_state(model, config), batch)
            jax.block_until_ready(calls[variant]())
            compile_seconds[variant] = time.perf_counter() - start
        seconds = {k: statistics.median(v) for k, v in timing.interleaved(calls).items()}
        floor = 2 * n**3 / seconds["matmul"]  # FLOP/s
        work = 3 * batch_size * sum(flops.vit_forward_flops(config).values())
        print(f"{name:26}{'matmul':10}{seconds['matmul'] * 1e3:11.1f}{'':11}{floor / 1e9:11.0f}")
        for variant in models:
            s = seconds[variant]
            shares = f"{work / s / 1e9:11.0f}{work / s / floor:11.2f}{s / seconds['stock']:11.2f}"
            print(f"{name:26}{variant:10}{s * 1e3:11.1f}{batch_size / s:11.1f}{shares}{compile_seconds[variant]:11.1f}")
