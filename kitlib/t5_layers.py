"""The parts of a T5: relative positions, RMSNorm, attention without scale, gated MLP, the pre-norm layer.

The mathematics are pure functions on plain arrays; the Linen modules below them only hold parameters. Parameter names
and shapes are those of t5x's checkpoints, so that loading one is the identity on names.

Built in notebooks/08_t5_and_upcycling.ipynb.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kitlib.configs import MoEConfig, T5Config
from kitlib.moe import ACTIVATIONS, MoEMlp

# ---------------------------------------------------------------------------------------------- pure functions


def relative_buckets(relative: jax.Array, bidirectional: bool, num_buckets: int = 32, max_distance: int = 128):
    """Buckets int32[...] of relative positions int[...], place of the key minus place of the query.

    Half of the buckets are single distances, the other half grow logarithmically up to max_distance; all that is
    further away shares the last (1910.10683, section 2.1). Bidirectional: one half of the buckets looks back, the other
    ahead. Causal: all look back, and what lies ahead, masked anyway, is at distance 0.
    """
    side = num_buckets // 2 if bidirectional else num_buckets
    exact = side // 2
    distance = np.arange(max_distance + 1)
    with np.errstate(divide="ignore"):
        # The small number is for whole results, e.g. at twice `exact`: rounding must not take them down by one.
        steps = np.log(distance / exact) / np.log(max_distance / exact) * (side - exact) + 1e-9
    far = np.minimum(exact + np.maximum(steps, 0.0), side - 1)
    table = jnp.asarray(np.where(distance < exact, distance, far), jnp.int32)  # the bucket of every distance
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

    query float[B, H, N, d], key float[B, H, M, d], bias float32[1, H, N, M], mask bool[B or 1, 1, N, M]. A query that
    may see nothing (padding) gets equal weights, not NaN.
    """
    scores = jnp.einsum("bhnd,bhmd->bhnm", query, key, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = add_bias(scores, bias)
    return jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min), axis=-1)


@jax.custom_vjp
def add_bias(scores: jax.Array, bias: jax.Array) -> jax.Array:
    """scores float[B, ...] + bias float[1, ...], the same for all B.

    The gradient of the bias is a sum over B. On a CPU it is made one example after the other: XLA's sum over the first
    of four axes takes twenty times as long as that, and took a fifth of a training step with few-shot prompts.
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
    """layer([B * N, D]) for x [B, N, D]: on a CPU, the backward pass of a matmul is faster with one leading axis."""
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
    """Multi-head attention without biases; kernels are [D, H * d] and, out, [H * d, D]."""

    config: T5Config

    def setup(self):
        c = self.config
        dense = functools.partial(nn.Dense, use_bias=False, dtype=jnp.dtype(c.dtype), kernel_init=FAN_IN)

        def query_init(*args):
            return FAN_IN(*args) / np.sqrt(c.head_dim)  # instead of the division in every attention

        self.query = dense(c.num_heads * c.head_dim, kernel_init=query_init)
        self.key, self.value = dense(c.num_heads * c.head_dim), dense(c.num_heads * c.head_dim)
        self.out = dense(c.width)
        self.drop = nn.Dropout(c.dropout)

    def keys_values(self, x):
        """What x float[B, M, D] offers to queries: (keys, values), both float[B, H, M, d]."""
        return self.heads(flat(self.key, x)), self.heads(flat(self.value, x))

    def heads(self, x):
        # Heads before tokens: one matmul a head follows, and a decoder's cache need not be transposed at every token.
        return x.reshape(*x.shape[:2], self.config.num_heads, self.config.head_dim).swapaxes(1, 2)

    def __call__(self, x, keys_values, bias, mask, train: bool = False):
        """x float[B, N, D] -> (float[B, N, D], weights float32[B, H, N, M])."""
        keys, values = keys_values
        weights = attention_weights(self.heads(flat(self.query, x)), keys, bias, mask)
        dropped = self.drop(weights, deterministic=not train).astype(values.dtype)
        mixed = jnp.einsum("bhnm,bhmd->bhnd", dropped, values)  # "->bnhd" in one go takes a CPU twice as long
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
    """One pre-norm layer of either stack, float[B, N, D] -> (float[B, N, D], its intermediates by name).

    Encoder: self-attention and MLP. Decoder: cross-attention between the two. With `moe`, a mixture is in the MLP's
    place. Every branch is x + Branch(RMSNorm(x)).
    """

    config: T5Config
    decoder: bool
    moe_config: MoEConfig | None

    def setup(self):
        c = self.config
        if self.decoder:
            self.pre_self_attention_layer_norm, self.self_attention = RMSNorm(), Attention(c)
            self.pre_cross_attention_layer_norm, self.encoder_decoder_attention = RMSNorm(), Attention(c)
        else:
            self.pre_attention_layer_norm, self.attention = RMSNorm(), Attention(c)
        self.pre_mlp_layer_norm = RMSNorm()
        if self.moe_config:
            dtype = jnp.dtype(c.dtype)
            self.moe = MoEMlp(self.moe_config, c.mlp_dim, gated=True, dtype=dtype, activation=c.activation)
        else:
            self.mlp = GatedMlp(c)
        self.drop = nn.Dropout(c.dropout)

    def __call__(self, x, bias, mask, cross=None, cross_mask=None, *, valid=None, past=None, place=0, train=False):
        """past: (keys, values) float[B, H, T, d] of earlier tokens, into which those of x go at `place`, for a decoder
        that gets its tokens one by one. cross: the encoder's. out["keys_values"]: what the queries of x looked at."""
        out = {}

        def residual(name, branch):
            out[name] = branch
            out[f"+{name}"] = x + self.drop(branch, deterministic=not train)
            return out[f"+{name}"]

        attention = self.self_attention if self.decoder else self.attention
        normed = (self.pre_self_attention_layer_norm if self.decoder else self.pre_attention_layer_norm)(x)
        keys_values = attention.keys_values(normed)
        if past is not None:
            keys_values = jax.tree.map(
                lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, place, axis=2), past, keys_values
            )
        out["keys_values"] = keys_values
        branch, out["attention"] = attention(normed, keys_values, bias, mask, train)
        x = residual("sa", branch)
        if self.decoder:
            normed = self.pre_cross_attention_layer_norm(x)
            branch, out["cross_attention"] = self.encoder_decoder_attention(normed, cross, None, cross_mask, train)
            x = residual("ca", branch)
        normed = self.pre_mlp_layer_norm(x)
        if self.moe_config:
            branch, out["moe"] = self.moe(normed, valid, train)
        else:
            branch = self.mlp(normed, train)
        return residual("mlp", branch), out
