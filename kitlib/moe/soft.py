"""Soft MoE (2308.00951): every slot is a weighted mean of all tokens, every output a weighted mean of all slots.

Nothing is dropped, nothing is discrete, and the order of the tokens does not matter.

Built in notebooks/06_expert_choice_and_soft_moe.ipynb.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kitlib.moe import dispatch


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


def soft_moe(x: jax.Array, mu: jax.Array, scale: jax.Array, experts: Callable, valid=None, *, dtype=jnp.float32):
    """Soft MoE, one sequence per group: x float[G, S, D] -> (y float32[G, S, D], out).

    out: as of `moe_layer.MoEMlp`, but "probabilities" are the shares of a token in an expert's slots (over tokens).

    mu float32[D, E, C], scale float32[]; experts: a function from buffers float[E, G * C, D], which have this dtype, to
    outputs of the same shape; valid bool[G, S]: real tokens; None: all are.
    """
    tokens = x.astype(jnp.float32)  # [G, S, D]
    # Tokens and slots are both normalised (2308.00951, section 2.3): the logits do not grow with the width.
    logits = scale * jnp.einsum("gsd,dec->gsec", _unit(tokens, -1), _unit(mu, 0))  # [G, S, E, C]
    dispatch_weights, combine_weights = soft_weights(logits, valid)  # [G, S, E, C] both
    buffers = jnp.einsum("gsec,gsd->gecd", dispatch_weights, tokens).astype(dtype)  # [G, E, C, D]
    outputs = experts(dispatch.to_experts(buffers))  # [E, G * C, D]
    outputs = dispatch.to_tokens(outputs, len(x)).astype(jnp.float32)  # [G, E, C, D]
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
