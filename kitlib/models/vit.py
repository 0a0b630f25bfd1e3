"""Vision Transformer: from images to logits, with every intermediate by name.

    model = vit.ViT(configs.vit("tiny/7", image_size=(28, 28), channels=1, num_classes=10))
    params = model.init(jax.random.key(0), images)["params"]
    logits, out = model.apply({"params": params}, images)
    out["block01"]["attention"]     # float32[B, H, N, N]; a plot needs no hooks

Built in notebooks/01_vit_from_pixels_to_logits.ipynb, V-MoE in notebooks/05_v_moe.ipynb.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from kitlib.configs import ViTConfig
from kitlib.layers import batch_ensemble
from kitlib.layers.vit_layers import EncoderBlock, MAPHead, PatchEmbedding, sincos_positions
from kitlib.models import stacking
from kitlib.moe import MoEMlp, e3
from kitlib.moe.e3 import E3Mlp
from kitlib.parallel import mesh


class Encoder(nn.Module):
    """`depth` blocks and a final LayerNorm: float[B, N, D] -> (float[B, N, D], {"block00": {...}, ...}).

    If the model is an ensemble, tokens are copied in the first block with members: the output is float[M * B, N, D].
    With `scan`, equal blocks are one loop (see `stacking`).
    """

    config: ViTConfig

    @nn.compact
    def __call__(self, x, train: bool = False):
        c, blocks = self.config, []
        rates = jnp.linspace(0.0, c.drop_path, c.depth) if c.depth > 1 else jnp.full((1,), c.drop_path)
        for segment in stacking.vit_segments(c):
            first, period, repeats = segment
            if repeats == 1:
                for i in range(first, first + period):
                    x, out = apply_block(c, i, x, rates[i], train)
                    blocks.append(out)
            else:
                loop = stacking.scanned(Period, segment, num_scanned=1, num_broadcast=1)
                loop = loop(c, first, period, name=f"encoderblock_{first}_to_{segment.last}")
                x, stacked = loop(x, rates[first : segment.last + 1].reshape(repeats, period), train)
                blocks += stacking.by_block(segment, stacked)
        out = {f"block{i:02d}": block for i, block in enumerate(blocks)}
        return nn.LayerNorm(use_bias=c.norm_bias, dtype=jnp.dtype(c.dtype), name="encoder_norm")(x), out


class Period(nn.Module):
    """The body of a loop, blocks first ... first + period - 1: (float[B, N, D], drop rates [period]) -> (x, outs)."""

    config: ViTConfig
    first: int
    period: int

    @nn.compact
    def __call__(self, x, drop_rates, train: bool):
        outs = []
        for i in range(self.period):
            x, out = apply_block(self.config, self.first + i, x, drop_rates[i], train)
            outs.append(out)
        return x, tuple(outs)


def apply_block(c: ViTConfig, i: int, x, drop_rate, train: bool):
    """Block i inside a compact module: x float[B, N, D] -> (x, its intermediates)."""
    x = mesh.constrain(x, "tokens")
    if i == c.tiled_block and not c.tiled_after_attention:
        x = e3.tile(x, c.num_members)  # [M * B, N, D]
    block = stacking.rematerialised(EncoderBlock, c.remat, train_argument=3, scan=c.scan)
    x, out = block(**block_fields(c, i), name=f"encoderblock_{i}")(x, drop_rate, train)
    return mesh.constrain(x, "tokens"), out


def block_fields(c: ViTConfig, i: int) -> dict:
    """The fields of `EncoderBlock` for block i; experts and members only where it has them."""
    dtype = jnp.dtype(c.dtype)
    fields = {
        "mlp_dim": c.mlp_dim,
        "num_heads": c.num_heads,
        "dropout": c.dropout,
        "stochastic_depth": c.drop_path > 0,
        "parallel": c.parallel,
        "qk_norm": c.qk_norm,
        "qkv_bias": c.qkv_bias,
        "norm_bias": c.norm_bias,
        "layer_scale": c.layer_scale,
        "activation": c.activation,
        "dtype": dtype,
    }
    if i == c.tiled_block and c.tiled_after_attention:
        fields["members"] = c.num_members
    if i in c.moe_blocks:
        layer = functools.partial(E3Mlp, c.moe, c.e3) if c.e3 else functools.partial(MoEMlp, c.moe)
        fields["moe"] = functools.partial(layer, mlp_dim=c.mlp_dim, dtype=dtype, activation=c.activation)
    if c.batch_ensemble and i in c.batch_ensemble.blocks:
        fields["mlp_dense"] = functools.partial(batch_ensemble.Dense, c.batch_ensemble)
        if c.batch_ensemble.attention:
            fields["attention_dense"] = fields["mlp_dense"]
    return fields


class ViT(nn.Module):
    """(images float[B, height, width, channels] in [-1, 1]) -> (logits float32[B, V], out).

    `out` holds every intermediate: "stem" (patch embeddings), "with_posemb", "block00" ... (each with "sa",
    "attention", "+sa", "mlp", "+mlp"), "encoded" float[B, N, D], "pooled" float[B, D], "pre_logits", "logits".
    With `num_classes=0` the logits are the representation that a head would see; with `pool="none"`, of every token.
    Dropout draws from the rng "dropout", stochastic depth from "drop_path", router noise from "router".

    An ensemble in one model (`config.e3`, `config.batch_ensemble`) has logits float32[M, B, V]. From where its tokens
    are copied, intermediates have a batch axis of M * B, members outermost (`e3.split` makes two axes of it).

    In a V-MoE (`config.moe`), out["block05"]["moe"] has the intermediates of its router (see `moe.MoEMlp`), and
    out["auxiliary_loss"], the sum over the blocks, must be added to the loss (`classification_loss` does so).

    The class token has row 0 of the position table (2010.11929, eq. 1), as in Google's checkpoints. The class-token
    models of big_vision have no such row: `checkpoint` loads them with a row of zeros, which is the same function.
    """

    config: ViTConfig

    @nn.compact
    def __call__(self, images, train: bool = False):
        c = self.config
        dtype = jnp.dtype(c.dtype)
        check_images(images, c)
        out = {}

        x = out["stem"] = PatchEmbedding(c.width, c.patch_size, dtype, name="embedding")(images)  # [B, N, D]
        if c.pool == "tok":
            cls = self.param("cls", nn.initializers.zeros, (1, 1, c.width)).astype(dtype)
            x = jnp.concatenate([jnp.broadcast_to(cls, (x.shape[0], 1, c.width)), x], axis=1)  # one token more
        x = out["with_posemb"] = x + self.positions().astype(dtype)
        x = nn.Dropout(c.dropout, deterministic=not train)(x)

        x, blocks = Encoder(c, name="Transformer")(x, train)  # [B, N, D], or [M * B, N, D]
        return pool_and_head(c, x, out | blocks)

    def positions(self):
        """float32[1, N, D]."""
        c = self.config
        if c.posemb == "learn":
            init = nn.initializers.normal(stddev=c.width**-0.5)
            return self.param("pos_embedding", init, (1, c.num_tokens, c.width))
        table = jnp.asarray(sincos_positions(c.grid, c.width))
        return jnp.pad(table, ((0, 0), (int(c.pool == "tok"), 0), (0, 0)))  # zeros for the class token: no position


def pool_and_head(c: ViTConfig, x, out: dict):
    """Pooling and head inside a compact module: x float[B, N, D] after the encoder, out: the intermediates so far ->
    (logits float32[B, V], all intermediates)."""
    dtype = jnp.dtype(c.dtype)
    if c.moe:
        out["auxiliary_loss"] = sum(out[f"block{i:02d}"]["moe"]["auxiliary_loss"] for i in c.moe_blocks)
    out["encoded"] = x

    x = out["pooled"] = mesh.constrain(pooled(c, x), "tokens")  # [B, D]; [B, N, D] for pool="none"
    if c.representation_size:
        x = out["pre_logits"] = jnp.tanh(nn.Dense(c.representation_size, dtype=dtype, name="pre_logits")(x))
    if c.num_classes:
        # A zero head makes the first prediction uniform: the loss starts at log V, for every size.
        dense = functools.partial(batch_ensemble.Dense, c.batch_ensemble) if c.batch_ensemble else nn.Dense
        x = dense(c.num_classes, kernel_init=nn.initializers.zeros, dtype=dtype, name="head")(x)  # [B, V]
    x = x.astype(jnp.float32)
    logits = out["logits"] = e3.split(x, c.num_members) if c.num_members else x  # [M, B, V] or [B, V]
    return logits, out


def pooled(c: ViTConfig, x):
    """float[B, N, D] -> float[B, D]; unchanged for pool="none"."""
    if c.pool == "tok":
        return x[:, 0]
    if c.pool == "gap":
        return x.mean(axis=1)
    if c.pool == "map":
        return MAPHead(
            c.mlp_dim, c.num_heads, c.qkv_bias, c.qk_norm, c.norm_bias, jnp.dtype(c.dtype), name="MAPHead_0"
        )(x)
    return x


def check_images(images, config: ViTConfig) -> None:
    """Raises ValueError or TypeError unless images is float[B, *config.image_size, config.channels]."""
    expected = (*config.image_size, config.channels)
    if images.ndim != 4:
        raise ValueError(f"Images must be float[B, height, width, channels], got shape {images.shape}; add the axis.")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"Images must be floats in [-1, 1], got {images.dtype}; scale them: images / 127.5 - 1.")
    if images.shape[1:] != expected:
        raise ValueError(
            f"Images are {images.shape[1:]}, the model expects {expected} (height, width, channels); resize them, or "
            "build the model with config.replace(image_size=...) and resize its position table."
        )
