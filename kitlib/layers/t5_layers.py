"""The layers of T5: relative positions, RMSNorm, attention without scaling, gated MLP, the pre-norm layer.

The mathematics are pure functions on plain arrays; the Linen modules below them only hold parameters. Parameter names
and shapes are those of t5x's checkpoints, which are therefore loaded without renaming.

Built in notebooks/08_t5_and_upcycling.ipynb.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kitlib.configs import T5Config
from kitlib.layers.vit_layers import gelu

# ---------------------------------------------------------------------------------------------- pure functions

ACTIVATIONS = {"gelu": gelu, "silu": nn.silu}  # of gated MLPs: T5 1.1 (GEGLU), UL2 (SwiGLU); 2002.05202


def relative_buckets(relative: jax.Array, bidirectional: bool, num_buckets: int = 32, max_distance: int = 128):
    """Buckets int32[...] of relative positions int[...], position of the key minus position of the query.

    Half of the buckets hold one distance each, the widths of the others grow logarithmically up to max_distance, and
    all larger distances share the last one (1910.10683, section 2.1). Bidirectional: half of the buckets are for keys
    before the query, half for keys after it. Causal: all are for keys before it; later keys, masked anyway, count as
    distance 0.
    """
    side = num_buckets // 2 if bidirectional else num_buckets
    exact = side // 2
    distance = np.arange(max_distance + 1)
    with np.errstate(divide="ignore"):
        # 1e-9 is for results that are integers, e.g. at twice `exact`: rounding must not lower them by one.
        steps = np.log(distance / exact) / np.log(max_distance / exact) * (side - exact) + 1e-9
    far = np.minimum(exact + np.maximum(steps, 0.0), side - 1)
    table = jnp.asarray(np.where(distance < exact, distance, far), jnp.int32)  # the bucket of each distance
    distance = jnp.abs(relative) if bidirectional else jnp.maximum(-relative, 0)
    bucket = table[jnp.minimum(distance, max_distance)]
    return bucket + side * (relative > 0) if bidirectional else bucket


def rms_norm(x: jax.Array, scale: jax.Array, eps: float = 1e-6) -> jax.Array:
    """x float[..., D] divided by its root mean square, times scale float32[D] (1910.07467); computed in float32."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + eps)
    return (y * scale[(None,) * (x.ndim - 1)]).astype(x.dtype)


def attention_weights(query: jax.Array, key: jax.Array, bias: jax.Array | None, mask: jax.Array) -> jax.Array:
    """softmax(Q K^T + bias), float32[B, H, N, M]: T5 does not divide by sqrt(d), the initial values account for it.

    query float[B, H, N, d], key float[B, H, M, d], bias float32[1, H, N, M], mask bool[B or 1, 1, N, M]. A query
    without any unmasked key (padding) gets equal weights, not NaN.
    """
    scores = jnp.einsum("bhnd,bhmd->bhnm", query, key, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = add_bias(scores, bias)
    return jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min), axis=-1)


@jax.custom_vjp
def add_bias(scores: jax.Array, bias: jax.Array) -> jax.Array:
    """scores float[B, ...] + bias float[1, ...], where all B examples get the same bias.

    The gradient of the bias is a sum over B. On a CPU it is computed one example after the other: XLA's sum over the
    first of four axes takes twenty times as long, and took a fifth of a training step with few-shot prompts.
    """
    return scores + bias


def _add_bias_forward(scores, bias):
    return add_bias(scores, bias), None


def _add_bias_backward(_, gradient):
    def one_by_one(g):
        return jax.lax.fori_loop(0, len(g), lambda i, total: total + g[i], jnp.zeros_like(g[0]))

    total = jax.lax.platform_dependent(gradient, cpu=one_by_one, default=lambda g: g.sum(axis=0))
    return gradient, total[None]


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def segment_mask(query_segments: jax.Array, key_segments: jax.Array) -> jax.Array:
    """bool[B, 1, N, M]: True where query int32[B, N] and key int32[B, M] belong to the same example."""
    return (query_segments[:, :, None] == key_segments[:, None])[:, None]


def flat(layer: Callable, x: jax.Array) -> jax.Array:
    """layer on x [B, N, D] as [B * N, D]: on a CPU, the backward pass of a matmul is faster with one leading axis."""
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


# ---------------------------------------------------------------------------------------------- Linen modules

FAN_IN = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
FAN_IN_TRUNCATED = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


class RMSNorm(nn.Module):
    """`rms_norm` with its scale: float[..., D] -> float[..., D]."""

    @nn.compact
    def __call__(self, x):
        return rms_norm(x, self.param("scale", nn.initializers.ones, (x.shape[-1],)))


class RelativeBias(nn.Module):
    """relative int[N, M] (key minus query) -> float32[1, H, N, M], a learned number per bucket and head."""

    config: T5Config
    bidirectional: bool

    @nn.compact
    def __call__(self, relative):
        c = self.config
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        table = self.param("rel_embedding", init, (c.num_heads, c.rel_buckets))
        return table[:, relative_buckets(relative, self.bidirectional, c.rel_buckets, c.rel_max_distance)][None]


class Attention(nn.Module):
    """Multi-head attention without biases; kernels are [D, H * d], and [H * d, D] for the output."""

    config: T5Config

    def setup(self):
        c = self.config
        dense = functools.partial(nn.Dense, use_bias=False, dtype=jnp.dtype(c.dtype), kernel_init=FAN_IN)

        def query_init(*args):
            return FAN_IN(*args) / np.sqrt(c.head_dim)  # instead of dividing the scores by sqrt(d)

        self.query = dense(c.num_heads * c.head_dim, kernel_init=query_init)
        self.key, self.value = dense(c.num_heads * c.head_dim), dense(c.num_heads * c.head_dim)
        self.out = dense(c.width)
        self.drop = nn.Dropout(c.dropout)

    def keys_values(self, x):
        """The (keys, values) of x float[B, M, D], both float[B, H, M, d]."""
        return self.heads(flat(self.key, x)), self.heads(flat(self.value, x))

    def heads(self, x):
        # Heads before tokens: attention is one matmul per head, and a decoder's cache is not transposed at each token.
        return x.reshape(*x.shape[:2], self.config.num_heads, self.config.head_dim).swapaxes(1, 2)

    def __call__(self, x, keys_values, bias, mask, train: bool = False):
        """x float[B, N, D] -> (float[B, N, D], weights float32[B, H, N, M])."""
        keys, values = keys_values
        weights = attention_weights(self.heads(flat(self.query, x)), keys, bias, mask)
        dropped = self.drop(weights, deterministic=not train).astype(values.dtype)
        mixed = jnp.einsum("bhnm,bhmd->bhnd", dropped, values)  # "->bnhd" directly takes twice as long on a CPU
        return flat(self.out, mixed.swapaxes(1, 2).reshape(*x.shape[:2], -1)), weights


class GatedMlp(nn.Module):
    """(act(x wi_0) * (x wi_1)) wo, without biases (2002.05202): float[B, N, D] -> float[B, N, D]."""

    config: T5Config

    @nn.compact
    def __call__(self, x, train: bool = False):
        c, (b, n, d) = self.config, x.shape
        dense = functools.partial(nn.Dense, use_bias=False, dtype=jnp.dtype(c.dtype), kernel_init=FAN_IN_TRUNCATED)
        x = x.reshape(b * n, d)  # as in `flat`
        h = ACTIVATIONS[c.activation](dense(c.mlp_dim, name="wi_0")(x)) * dense(c.mlp_dim, name="wi_1")(x)
        h = nn.Dropout(c.dropout, deterministic=not train)(h)
        return dense(d, name="wo")(h).reshape(b, n, d)


class Layer(nn.Module):
    """One pre-norm layer of encoder or decoder, float[B, N, D] -> (float[B, N, D], its intermediates by name).

    Encoder: self-attention, MLP. Decoder: self-attention, cross-attention, MLP. Each step is x + Branch(RMSNorm(x)).
    make_moe: makes the module that replaces the MLP, such as `moe_layer.MoEMlp`; None: the MLP.
    """

    config: T5Config
    decoder: bool
    make_moe: Callable[[], nn.Module] | None = None

    def setup(self):
        c = self.config
        if self.decoder:
            self.pre_self_attention_layer_norm, self.self_attention = RMSNorm(), Attention(c)
            self.pre_cross_attention_layer_norm, self.encoder_decoder_attention = RMSNorm(), Attention(c)
        else:
            self.pre_attention_layer_norm, self.attention = RMSNorm(), Attention(c)
        self.pre_mlp_layer_norm = RMSNorm()
        if self.make_moe:
            self.moe = self.make_moe()
        else:
            self.mlp = GatedMlp(c)
        self.drop = nn.Dropout(c.dropout)

    def __call__(
        self, x, bias, mask, valid=None, encoded=None, cross_mask=None, cross=None, past=None, position=0, train=False
    ):
        """encoded float[B, N, D]: the encoder's output, or cross: its (keys, values). past: (keys, values) float[B, H,
        T, d] of earlier tokens, for a decoder that gets its tokens one by one; the keys and values of x are written
        into them at `position`. out["keys_values"]: the (keys, values) used in self-attention."""
        out = {}

        def residual(name, branch):
            out[name] = branch
            out[f"+{name}"] = x + self.drop(branch, deterministic=not train)
            return out[f"+{name}"]

        attention = self.self_attention if self.decoder else self.attention
        normed = (self.pre_self_attention_layer_norm if self.decoder else self.pre_attention_layer_norm)(x)
        keys_values = attention.keys_values(normed)
        if past is not None:
            write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=position, axis=2)
            keys_values = jax.tree.map(write, past, keys_values)
        out["keys_values"] = keys_values
        branch, out["attention"] = attention(normed, keys_values, bias, mask, train)
        x = residual("sa", branch)
        if self.decoder:
            normed = self.pre_cross_attention_layer_norm(x)
            cross = self.encoder_decoder_attention.keys_values(encoded) if cross is None else cross
            branch, out["cross_attention"] = self.encoder_decoder_attention(normed, cross, None, cross_mask, train)
            x = residual("ca", branch)
        normed = self.pre_mlp_layer_norm(x)
        if self.make_moe:
            branch, out["moe"] = self.moe(normed, valid, train)
        else:
            branch = self.mlp(normed, train)
        return residual("mlp", branch), out
