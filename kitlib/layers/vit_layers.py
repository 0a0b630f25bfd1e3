"""The layers of a Vision Transformer: patches, positions, attention, MLP, the pre-LayerNorm block, attention pooling.

The mathematics are pure functions on plain arrays; the Linen modules below them only hold parameters. Parameter names
and shapes are those of big_vision's checkpoints, which are therefore loaded without renaming.

Built in notebooks/01_vit_from_pixels_to_logits.ipynb.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kitlib.configs.arguments import number, whole
from kitlib.layers import batch_ensemble

# ---------------------------------------------------------------------------------------------- pure functions


def patchify(images: jax.Array, patch_size: int) -> jax.Array:
    """Cuts images into non-overlapping square patches, row by row.

    images float[B, height, width, channels] -> float[B, N, p * p * channels], N = (height / p) * (width / p), with p =
    patch_size. A linear layer on the result is a convolution whose stride is its kernel size (2010.11929, eq. 1).
    """
    b, height, width, c = images.shape
    if height % whole("patch_size", patch_size, 1) or width % patch_size:
        raise ValueError(f"Images of {height} x {width} pixels do not divide into patches of {patch_size}.")
    rows, cols = height // patch_size, width // patch_size
    x = images.reshape(b, rows, patch_size, cols, patch_size, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * cols, patch_size * patch_size * c)


def sincos_positions(grid: tuple[int, int], width: int, temperature: float = 10_000.0) -> np.ndarray:
    """Fixed two-dimensional sine-cosine positions, float32[1, rows * cols, D] (MoCo v3, 2104.02057).

    A quarter of the channels each for sin x, cos x, sin y, cos y, at D/4 frequencies from 1 down to 1/temperature.
    """
    number("temperature", temperature, above=0.0)
    if whole("width", width, 1) % 4:
        raise ValueError(f"Sine-cosine positions need a width divisible by 4, got {width}.")
    y, x = np.mgrid[: grid[0], : grid[1]]
    omega = temperature ** -(np.arange(width // 4) / max(1, width // 4 - 1))
    x, y = x.reshape(-1, 1) * omega, y.reshape(-1, 1) * omega
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)[None].astype(np.float32)


def resize_positions(
    table: jax.Array, old_grid: tuple[int, int], new_grid: tuple[int, int], *, cubic: bool = False
) -> jax.Array:
    """Position table for another resolution: the grid is resized, a class-token entry in front is kept.

    table float[1, N, D] with N = old rows * cols, or one more -> float[1, N', D] (2010.11929, section 3.2). Bilinear,
    corners stay on corners, as in `scipy.ndimage.zoom`, which the reference codes call; image resizing would move them.
    cubic: as DINOv2 does it with PyTorch's bicubic image resizing (a = -0.75, not antialiased).
    """
    extra = table.shape[1] - old_grid[0] * old_grid[1]
    if extra not in (0, 1):
        raise ValueError(f"{table.shape[1]} positions are not a {old_grid} grid, with or without class token.")
    if tuple(old_grid) == tuple(new_grid):
        return table
    slot, patches = table[:, :extra], table[:, extra:]
    weights = _cubic_matrix if cubic else _zoom_matrix
    rows, cols = (weights(old, new) for old, new in zip(old_grid, new_grid, strict=True))
    zoomed = jnp.einsum("rR,cC,bRCd->brcd", rows, cols, patches.reshape(1, *old_grid, -1))
    return jnp.concatenate([slot, zoomed.reshape(1, new_grid[0] * new_grid[1], -1)], axis=1)


def _zoom_matrix(old: int, new: int) -> np.ndarray:
    """float32[new, old]: the weight of each old position in each new one; at most two neighbours are not zero."""
    places = np.linspace(0, old - 1, new)[:, None]
    return np.maximum(0.0, 1.0 - np.abs(places - np.arange(old))).astype(np.float32)


def _cubic_matrix(old: int, new: int) -> np.ndarray:
    """float32[new, old]: Keys' cubic convolution (1981) with a = -0.75; pixels have area, edges are repeated."""
    places = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.zeros((new, old))
    for shift in range(-1, 3):  # the four neighbours
        neighbours = np.floor(places).astype(int) + shift
        x, a = np.abs(places - neighbours), -0.75
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1  # where x <= 1
        far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a  # where 1 < x < 2
        np.add.at(weights, (np.arange(new), np.clip(neighbours, 0, old - 1)), np.where(x <= 1, near, far))
    return weights.astype(np.float32)


def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
    """softmax(Q K^T / sqrt(d)) V for every head.

    query float[B, N, H, d], key and value float[B, M, H, d] -> (output float[B, N, H, d], weights float32[B, H, N, M]).
    The softmax is computed in float32, whatever the dtype of the inputs.
    """
    # Scaling the queries costs N*d products; scaling the scores would cost N*M.
    query = query / np.sqrt(query.shape[-1]).astype(query.dtype)
    scores = jnp.einsum("bnhd,bmhd->bhnm", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores, axis=-1)
    return jnp.einsum("bhnm,bmhd->bnhd", weights.astype(value.dtype), value), weights


def drop_path(x: jax.Array, rate: jax.Array | float, key: jax.Array) -> jax.Array:
    """Stochastic depth (1603.09382): a residual branch x float[B, N, D] is dropped for whole examples. Kept ones are
    divided by the keep probability, so that the expectation is unchanged."""
    keep = jax.random.bernoulli(key, 1.0 - rate, (x.shape[0], 1, 1))
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


@jax.checkpoint
def gelu(x: jax.Array) -> jax.Array:
    """GELU, tanh form. The backward pass computes it again from x: one array per hidden layer is stored, not three.

    On a CPU this is also faster, by 3 to 10 % of a whole MLP: new memory costs more time than a few products.
    """
    return nn.gelu(x)


@jax.checkpoint
def gelu_exact(x: jax.Array) -> jax.Array:
    """GELU, x times the normal distribution function, as PyTorch's models have it; computed again as `gelu` is."""
    return nn.gelu(x, approximate=False)


ACTIVATIONS = {"gelu": gelu, "gelu_exact": gelu_exact}


# ---------------------------------------------------------------------------------------------- Linen modules

BIAS_INIT = nn.initializers.normal(stddev=1e-6)


class PatchEmbedding(nn.Module):
    """images float[B, height, width, channels] -> float[B, N, D]; the parameters are those of a strided convolution."""

    width: int
    patch_size: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images):
        p, c = self.patch_size, images.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (p, p, c, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
        return patchify(images.astype(self.dtype), p) @ kernel.reshape(p * p * c, self.width) + bias[None, None]


class MultiHeadDotProductAttention(nn.Module):
    """Multi-head attention from inputs_q float[B, N, D] to inputs_kv float[B, M, D] -> (float[B, N, D], weights).

    Kernels are (D, H, D/H) and (H, D/H, D). With `qk_norm`, queries and keys pass a LayerNorm over the d = D/H channels
    of each head, scale only, shared by the heads: ViT-22B (2302.05442), as Flax and timm implement it.
    """

    num_heads: int
    qkv_bias: bool = True
    qk_norm: bool = False
    dtype: jax.typing.DTypeLike = jnp.float32
    dense: Callable = nn.DenseGeneral  # class of the linear layers; or `batch_ensemble.Dense`

    @nn.compact
    def __call__(self, inputs_q, inputs_kv):
        width = inputs_q.shape[-1]
        heads = (self.num_heads, width // self.num_heads)
        init = {"kernel_init": nn.initializers.xavier_uniform(), "dtype": self.dtype}
        query = self.dense(heads, use_bias=self.qkv_bias, name="query", **init)(inputs_q)
        key = self.dense(heads, use_bias=self.qkv_bias, name="key", **init)(inputs_kv)
        value = self.dense(heads, use_bias=self.qkv_bias, name="value", **init)(inputs_kv)
        if self.qk_norm:
            query = nn.LayerNorm(use_bias=False, dtype=self.dtype, name="query_ln")(query)
            key = nn.LayerNorm(use_bias=False, dtype=self.dtype, name="key_ln")(key)
        mixed, weights = attention(query, key, value)
        return self.dense(width, axis=(-2, -1), name="out", **init)(mixed), weights


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch (2103.17239): float[B, N, D] -> float[B, N, D]."""

    initial: float

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.constant(self.initial), (x.shape[-1],))
        return x * scale.astype(x.dtype)[None, None]


class MlpBlock(nn.Module):
    """Dense, GELU, dropout, Dense: float[B, N, D] -> float[B, N, D]."""

    mlp_dim: int
    dropout: float = 0.0
    dtype: jax.typing.DTypeLike = jnp.float32
    dense: Callable = nn.Dense  # class of the linear layers; or `batch_ensemble.Dense`
    activation: str = "gelu"  # one of ACTIVATIONS

    @nn.compact
    def __call__(self, x, train: bool = False):
        b, n, d = x.shape
        init = {"kernel_init": nn.initializers.xavier_uniform(), "bias_init": BIAS_INIT, "dtype": self.dtype}
        x = x.reshape(b * n, d)  # on a CPU, the backward pass of a matmul is faster with one leading axis
        x = ACTIVATIONS[self.activation](self.dense(self.mlp_dim, name="Dense_0", **init)(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return self.dense(d, name="Dense_1", **init)(x).reshape(b, n, d)


class EncoderBlock(nn.Module):
    """One pre-LayerNorm block, float[B, N, D] -> (float[B, N, D], its intermediates by name).

    Sequential (2010.11929, eq. 2-3):  y = x + Attention(LN(x));  z = y + MLP(LN(y)).
    Parallel (2302.05442, section 2):  z = x + Attention(LN(x)) + MLP(LN(x)), one LayerNorm for both.
    """

    mlp_dim: int
    num_heads: int
    dropout: float = 0.0
    stochastic_depth: bool = False  # whether `drop_rate` matters; if not, no random numbers are drawn
    parallel: bool = False
    qk_norm: bool = False
    qkv_bias: bool = True
    norm_bias: bool = True
    dtype: jax.typing.DTypeLike = jnp.float32
    moe: Callable | None = None  # makes the layer that replaces the MLP: `moe_layer.MoEMlp` -> (y, its intermediates)
    members: int = 1  # copies of each token after the attention, on the batch axis (`batch_ensemble.tile`)
    mlp_dense: Callable = nn.Dense  # see MlpBlock.dense
    attention_dense: Callable = nn.DenseGeneral  # see MultiHeadDotProductAttention.dense
    layer_scale: float = 0.0  # initial value of `LayerScale` on both branches; 0: none
    activation: str = "gelu"  # of the MLP, one of ACTIVATIONS

    @nn.compact
    def __call__(self, x, drop_rate=0.0, train: bool = False):
        def norm(name):
            return nn.LayerNorm(use_bias=self.norm_bias, dtype=self.dtype, name=name)

        def residual(branch):
            branch = nn.Dropout(self.dropout, deterministic=not train)(branch)
            if train and self.stochastic_depth:
                branch = drop_path(branch, drop_rate, self.make_rng("drop_path"))
            return branch

        fields = (self.num_heads, self.qkv_bias, self.qk_norm, self.dtype, self.attention_dense)
        mha = MultiHeadDotProductAttention(*fields, name="MultiHeadDotProductAttention_0")
        out = {}

        def scaled(branch, name):
            return LayerScale(self.layer_scale, name=name)(branch) if self.layer_scale else branch

        def mlp(x):
            if self.moe is None:
                fields = (self.mlp_dim, self.dropout, self.dtype, self.mlp_dense, self.activation)
                y = MlpBlock(*fields, name="MlpBlock_0")(x, train)
            else:
                y, out["moe"] = self.moe(name="Moe")(x, train=train)
            return scaled(y, "LayerScale_1")

        normed = norm("LayerNorm_0")(x)
        attended, out["attention"] = mha(normed, normed)
        out["sa"] = scaled(attended, "LayerScale_0")
        if self.parallel:
            out["mlp"] = mlp(normed)
            x = out["+mlp"] = x + residual(out["sa"] + out["mlp"])
        else:
            x = out["+sa"] = batch_ensemble.tile(x + residual(out["sa"]), self.members)
            out["mlp"] = mlp(norm("LayerNorm_1")(x))
            x = out["+mlp"] = x + residual(out["mlp"])
        return x, out


class MAPHead(nn.Module):
    """Multi-head attention pooling: a learned probe attends over all tokens, then a residual MLP.

    float[B, N, D] -> float[B, D] (2106.04560, after Set Transformer).
    """

    mlp_dim: int
    num_heads: int
    qkv_bias: bool = True
    qk_norm: bool = False
    norm_bias: bool = True
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x):
        b, _, d = x.shape
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, d))
        probe = jnp.broadcast_to(probe, (b, 1, d)).astype(x.dtype)
        fields = (self.num_heads, self.qkv_bias, self.qk_norm, self.dtype)
        x, _ = MultiHeadDotProductAttention(*fields, name="MultiHeadDotProductAttention_0")(probe, x)
        y = nn.LayerNorm(use_bias=self.norm_bias, dtype=self.dtype, name="LayerNorm_0")(x)
        return (x + MlpBlock(self.mlp_dim, dtype=self.dtype, name="MlpBlock_0")(y))[:, 0]
