"""Vision Transformer: from images to logits, with every intermediate by name.

    model = vit.ViT(configs.vit("tiny/7", image_size=(28, 28), channels=1, num_classes=10))
    params = model.init(jax.random.key(0), images)["params"]
    logits, out = model.apply({"params": params}, images)
    out["block01"]["attention"]     # float32[B, H, N, N]; a plot needs no hooks

A ViT may be cut in two parts, which together compute what the whole does: the lower blocks, frozen and run once per
picture, and the upper ones, which are trained. (A model is upcycled as a whole, before it is split.)

    lower, upper = vit.split(params, 9)                         # and join(lower, upper, 9); upper blocks count from 0
    tokens = vit.tokens_before(config, lower, images, 9)        # float[B, N, D], to be kept
    logits, out = UpperViT(vit.upper_config(config, 9)).apply({"params": upper}, tokens)

Built in notebooks/01_vit_from_pixels_to_logits.ipynb, V-MoE in notebooks/05_v_moe.ipynb.
"""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

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
    same = (
        "mlp_dim",
        "num_heads",
        "dropout",
        "parallel",
        "qk_norm",
        "qkv_bias",
        "norm_bias",
        "layer_scale",
        "activation",
    )
    fields = {name: getattr(c, name) for name in same} | {"stochastic_depth": c.drop_path > 0, "dtype": dtype}
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
        fields = c.mlp_dim, c.num_heads, c.qkv_bias, c.qk_norm, c.norm_bias, jnp.dtype(c.dtype)
        return MAPHead(*fields, name="MAPHead_0")(x)
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


# ---------------------------------------------------------------------------------------------- in two parts

BLOCK = re.compile(r"Transformer/encoderblock_(\d+)/(.*)")


class UpperViT(nn.Module):
    """(tokens float[B, N, D]) -> (logits, out), as `ViT` from its first block on. `config`: see `upper_config`."""

    config: ViTConfig

    @nn.compact
    def __call__(self, tokens, train: bool = False):
        x, out = Encoder(self.config, name="Transformer")(tokens, train)
        return pool_and_head(self.config, x, out)


def upper_config(config: ViTConfig, first: int) -> ViTConfig:
    """The configuration of the blocks from `first` on. Raises ValueError if experts are below, if no block is left on
    one of the two sides, and for scanned blocks, batch_ensemble and drop_path."""
    if not 0 < first < config.depth:
        raise ValueError(f"first is {first}; with {config.depth} blocks it must be 1 to {config.depth - 1}.")
    below = [i for i in config.moe_blocks if i < first]
    if below or config.batch_ensemble or config.scan or config.drop_path:
        raise ValueError(
            f"Only a plain dense lower part can be split off; got experts in blocks {below}, batch_ensemble="
            f"{config.batch_ensemble}, scan={config.scan}, drop_path={config.drop_path}."
        )
    return config.replace(depth=config.depth - first, moe_blocks=tuple(i - first for i in config.moe_blocks))


def split(params: dict, first: int) -> tuple[dict, dict]:
    """(lower, upper): embedding, positions and the blocks before `first`; the other blocks, final norm and head."""
    lower, upper = {}, {}
    for name, leaf in flatten_dict(params, sep="/").items():
        match = BLOCK.fullmatch(name)
        if match and int(match[1]) >= first:
            upper[f"Transformer/encoderblock_{int(match[1]) - first}/{match[2]}"] = leaf
        elif match or name.startswith(("embedding/", "cls", "pos_embedding")):
            lower[name] = leaf
        else:
            upper[name] = leaf
    return unflatten_dict(lower, sep="/"), unflatten_dict(upper, sep="/")


def join(lower: dict, upper: dict, first: int) -> dict:
    """The inverse of `split`."""
    flat = flatten_dict(lower, sep="/")
    for name, leaf in flatten_dict(upper, sep="/").items():
        match = BLOCK.fullmatch(name)
        flat[f"Transformer/encoderblock_{int(match[1]) + first}/{match[2]}" if match else name] = leaf
    return unflatten_dict(flat, sep="/")


def tokens_before(config: ViTConfig, lower: dict, images, first: int) -> jax.Array:
    """float[B, N, D]: the tokens that enter block `first` of the model, for one batch of images.

    lower: from `split`. The last block's output is taken before the final norm, which belongs to the upper part. For a
    whole data set, call it in `classification.in_batches`.
    """
    fields = {"pool": "tok" if config.pool == "tok" else "gap", "num_classes": 0, "representation_size": 0}
    return _lower(config.replace(depth=first, moe=None, moe_blocks=(), e3=None, **fields))(lower, images)


@functools.cache
def _lower(config: ViTConfig):
    ones = np.ones(config.width, np.float32)
    norm = {"scale": ones} | ({"bias": ones} if config.norm_bias else {})

    def run(lower, images):
        params = lower | {"Transformer": lower["Transformer"] | {"encoder_norm": norm}}  # its result is not used
        return ViT(config).apply({"params": params}, images)[1][f"block{config.depth - 1:02d}"]["+mlp"]

    return jax.jit(run)
