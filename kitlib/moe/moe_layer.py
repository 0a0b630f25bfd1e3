"""The Mixture-of-Experts layer: a router and E copies of an MLP in place of one MLP.

    layer = MoEMlp(configs.MoEConfig(num_experts=8), mlp_dim=1536)
    y, out = layer.apply(variables, x)        # x float[B, N, D]; out["metrics"], out["auxiliary_loss"], ...

tokens -> groups -> router -> dispatch -> experts -> combine -> tokens; token choice, expert choice or Soft MoE.
Parameter names are those of V-MoE: Router/dense/kernel [D, E], Mlp/Dense_0/kernel [E, D, F], Mlp/Dense_0/bias, ...

Built in notebooks/04_dispatch_and_capacity.ipynb; Soft MoE in notebooks/06_expert_choice_and_soft_moe.ipynb.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kitlib.configs import MoEConfig
from kitlib.configs.arguments import whole
from kitlib.moe import routing
from kitlib.moe.dispatch import to_experts, to_tokens
from kitlib.moe.expert_parallel import dispatch_and_combine
from kitlib.moe.experts import Experts
from kitlib.moe.routing import capacity, route
from kitlib.parallel import mesh

# ---------------------------------------------------------------------------------------------- groups


def to_groups(x: jax.Array, valid: jax.Array | None, group_size: int | None):
    """Cuts the tokens of a batch into equal groups of at most `group_size`: ([G, S, D], valid bool[G, S] or None).

    x float[B, N, D], valid bool[B, N] or None: all tokens are real. Any batch and length fit, even a single image: if
    the tokens do not divide into equal groups, the last group is padded, and `valid` is False there. On a mesh, each of
    the P parts of the batch is cut by itself, so that no group spans two devices; group_size None is one group per
    part. Raises ValueError for a batch without tokens, or one that does not divide among the parts.
    """
    b, n = x.shape[:2]
    parts = mesh.num_shards()  # P
    if not b * n:
        raise ValueError(f"A mixture of experts needs at least one token, got a batch of shape {x.shape}.")
    if b % parts:
        raise ValueError(f"A batch of {b} does not divide among the {parts} parts of the mesh.")
    total = b * n // parts  # tokens per part
    limit = total if group_size is None else whole("group_size", group_size, 1)
    groups = -(-total // min(limit, total))  # G / P
    size = -(-total // groups)  # S
    padding = groups * size - total
    if padding and valid is None:
        valid = jnp.ones((b, n), bool)

    def cut(a):  # [B, N, ...] -> [G, S, ...]
        a = a.reshape(parts, total, *a.shape[2:])
        a = jnp.pad(a, ((0, 0), (0, padding), *((0, 0),) * (a.ndim - 2)))
        return a.reshape(parts * groups, size, *a.shape[2:])

    return cut(x), None if valid is None else cut(valid)


def from_groups(y: jax.Array, batch: int, num_tokens: int) -> jax.Array:
    """The inverse of `to_groups` without the padding: [G, S, ...] -> [B, N, ...]."""
    parts = mesh.num_shards()
    y = y.reshape(parts, -1, *y.shape[2:])[:, : batch * num_tokens // parts]
    return y.reshape(batch, num_tokens, *y.shape[2:])


# ---------------------------------------------------------------------------------------------- Soft MoE


def soft_weights(logits: jax.Array, valid: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """(dispatch weights, combine weights), both float32[G, S, E, C], from logits of that shape (2308.00951, 2.1).

    Every slot takes a weighted mean of all tokens (softmax over S), every token one of all slots (softmax over E and
    C). valid bool[G, S]: real tokens; None: all are.
    """
    if valid is not None:  # the lowest number and not -inf, so that a sequence of padding alone is no division by zero
        logits = jnp.where(valid[..., None, None], logits, jnp.finfo(logits.dtype).min)
    dispatch_weights = jax.nn.softmax(logits, axis=1)
    flat = logits.reshape(*logits.shape[:2], -1)
    combine_weights = jax.nn.softmax(flat if valid is None else jnp.where(valid[..., None], flat, 0.0), axis=-1)
    return dispatch_weights, combine_weights.reshape(logits.shape)


def soft_moe(x: jax.Array, mu: jax.Array, scale: jax.Array, experts, valid=None, *, dtype=jnp.float32):
    """Soft MoE (2308.00951): every slot is a weighted mean of all tokens, every output a weighted mean of all slots.

    x float[G, S, D], one sequence per group -> (y float32[G, S, D], out as of `MoEMlp`, but "probabilities" are the
    shares of a token in an expert's slots). Nothing is dropped, and the order of the tokens does not matter.
    mu float32[D, E, C], scale float32[]; experts: from buffers float[E, G * C, D] of this dtype to the same shape;
    valid bool[G, S]: real tokens; None: all are.
    """
    tokens = x.astype(jnp.float32)  # [G, S, D]
    # Tokens and slots are both normalised (2308.00951, section 2.3): the logits do not grow with the width.
    logits = scale * jnp.einsum("gsd,dec->gsec", _unit(tokens, -1), _unit(mu, 0))  # [G, S, E, C]
    dispatch_weights, combine_weights = soft_weights(logits, valid)  # [G, S, E, C] both
    buffers = jnp.einsum("gsec,gsd->gecd", dispatch_weights, tokens).astype(dtype)  # [G, E, C, D]
    outputs = experts(to_experts(buffers))  # [E, G * C, D]
    outputs = to_tokens(outputs, len(x)).astype(jnp.float32)  # [G, E, C, D]
    y = jnp.einsum("gsec,gecd->gsd", combine_weights, outputs)  # [G, S, D]
    out = {
        "auxiliary_loss": jnp.zeros(()),
        "probabilities": dispatch_weights.sum(axis=-1),  # [G, S, E]
        "combine_weights": combine_weights.sum(axis=-1),  # [G, S, E]
    }
    return y, out


def _unit(x: jax.Array, axis: int) -> jax.Array:
    # 1e-12 is added under the root: at zero, as padding often is, the gradient of a norm is not defined.
    return x * jax.lax.rsqrt(jnp.square(x).sum(axis=axis, keepdims=True) + 1e-12)


# ---------------------------------------------------------------------------------------------- Linen modules


class Router(nn.Module):
    """x float[G, S, D] -> logits float32[G, S, E] and the same with noise, which is None at test time. No bias."""

    num_experts: int
    noise_std: float

    @nn.compact
    def __call__(self, x, train: bool = False):
        # float32 for every dtype of the model: in bfloat16, close logits would become equal.
        logits = nn.Dense(self.num_experts, use_bias=False, dtype=jnp.float32, name="dense")(x.astype(jnp.float32))
        if not (train and self.noise_std):
            return logits, None
        return logits, routing.add_noise(logits, self.make_rng("router"), self.noise_std)


class MoEMlp(nn.Module):
    """x float[B, N, D] -> (float[B, N, D], out); valid bool[B, N] marks real tokens, None if all are.

    out: "metrics" (`routing.metrics`; none for Soft MoE), "auxiliary_loss" float32[], weighted and summed,
    "probabilities" float32[B, N, E] (without noise), "combine_weights" float32[B, N, E] (0 where an expert does not
    process a token). A token that no expert processes gets zeros; the residual connection around the layer keeps it.
    """

    config: MoEConfig
    mlp_dim: int  # F
    gated: bool = False
    dtype: jax.typing.DTypeLike = jnp.float32
    activation: str = "gelu"  # see `vit_layers.ACTIVATIONS`, of gated experts `t5_layers.ACTIVATIONS`

    @nn.compact
    def __call__(self, x, valid=None, train: bool = False):
        c, (b, n, d) = self.config, x.shape
        mlps = Experts(c, self.mlp_dim // c.granularity, self.gated, self.activation, name="Mlp")(d, train)
        if c.router == "soft":  # a group is one sequence, so that images do not mix
            mu = self.param("mu", nn.initializers.lecun_normal(), (d, c.num_experts, capacity(c, n)))  # [D, E, C]
            scale = self.param("scale", nn.initializers.ones, ())
            y, out = soft_moe(x, mu, scale, mlps, valid, dtype=self.dtype)
            return y.astype(self.dtype), out  # [B, N, D]

        groups, valid = to_groups(x, valid, c.group_size)  # [G, S, D], bool[G, S] or None
        logits, noisy = Router(c.num_experts, c.noise_std, name="Router")(groups, train)  # [G, S, E]
        dispatcher, loss = route(c, logits, noisy, valid)
        weights = dispatcher.combine_weights  # [G, S, E]
        y = dispatch_and_combine(c, mlps, groups.astype(self.dtype), dispatcher)  # [G, S, D]
        probabilities = jax.nn.softmax(logits)  # [G, S, E]
        num_selected = c.num_selected if c.router == "top_k" else None
        out = {
            "metrics": routing.metrics(weights > 0, probabilities, num_selected=num_selected, valid=valid),
            "auxiliary_loss": loss,
            "probabilities": from_groups(probabilities, b, n),  # [B, N, E]
            "combine_weights": from_groups(weights, b, n),  # [B, N, E]
        }
        return from_groups(y, b, n).astype(self.dtype), out  # [B, N, D]
