"""The Mixture-of-Experts layer: a router and E copies of an MLP in place of one MLP.

    layer = MoEMlp(configs.MoEConfig(num_experts=8), mlp_dim=1536)
    y, out = layer.apply(variables, x)        # x float[B, N, D]; out["metrics"], out["auxiliary_loss"], ...

tokens -> groups -> router -> choice -> plan -> dispatch -> experts -> combine -> tokens. The configuration selects
token choice, expert choice or Soft MoE. Parameter names are those of V-MoE: Router/dense/kernel [D, E],
Mlp/Dense_0/kernel [E, D, F], Mlp/Dense_0/bias [E, F], Mlp/Dense_1/kernel [E, F, D], ...

Built in notebooks/04_dispatch_and_capacity.ipynb; Soft MoE in notebooks/06_expert_choice_and_soft_moe.ipynb.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from kitlib.configs import MoEConfig
from kitlib.configs.arguments import whole
from kitlib.moe import routing
from kitlib.moe.dispatch import Plan, capacity, plan_expert_choice, plan_token_choice
from kitlib.moe.expert_parallel import dispatch_and_combine, on_buffers
from kitlib.moe.experts import Experts
from kitlib.moe.soft import soft_moe
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


# ---------------------------------------------------------------------------------------------- routing


def route(c: MoEConfig, logits: jax.Array, noisy: jax.Array | None, valid: jax.Array | None) -> tuple[Plan, jax.Array]:
    """(the plan, the weighted auxiliary loss float32[]) from the router's logits float32[G, S, E].

    noisy: the logits with noise, by which tokens are routed; None: no noise. valid bool[G, S]: real tokens; None: all.
    """
    probabilities = jax.nn.softmax(logits if noisy is None else noisy)  # float32[G, S, E]
    if c.router == "expert_choice":
        loss = c.z_weight * routing.z_loss(logits, valid) if c.z_weight else jnp.zeros(())
        return plan_expert_choice(c, probabilities, valid), loss
    choice = routing.top_k(probabilities, c.num_selected, valid)  # [G, S, K]
    return plan_token_choice(c, choice, valid), auxiliary_loss(c, logits, noisy, choice, valid)


def auxiliary_loss(c: MoEConfig, logits, noisy, choice: routing.Choice, valid) -> jax.Array:
    """The weighted sum of the router's losses, float32[]. A term of weight 0 is not computed: it adds no NaN gradient.

    logits float32[G, S, E]; noisy the same with router noise, or None; choice [G, S, K]; valid bool[G, S] or None.
    """
    probabilities = jax.nn.softmax(logits)
    total = jnp.zeros(())
    if c.importance_weight:
        total += c.importance_weight * routing.importance_loss(probabilities, valid)
    if c.load_weight and noisy is not None:  # without noise, as at test time, the load has no gradient
        total += c.load_weight * routing.load_loss(logits, noisy, c.num_selected, c.noise_std, valid)
    if c.balance_weight:
        total += c.balance_weight * routing.balance_loss(probabilities, choice.expert, valid)
    if c.z_weight:
        total += c.z_weight * routing.z_loss(logits, valid)
    return total


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
    dtype: jnp.dtype = jnp.float32
    activation: str = "gelu"  # see `vit_layers.ACTIVATIONS`, of gated experts `t5_layers.ACTIVATIONS`

    @nn.compact
    def __call__(self, x, valid=None, train: bool = False):
        c, (b, n, d) = self.config, x.shape
        mlps = Experts(c, self.mlp_dim // c.granularity, self.gated, self.activation, name="Mlp")(d, train)
        if c.router == "soft":  # a group is one sequence, so that images do not mix
            mu = self.param("mu", nn.initializers.lecun_normal(), (d, c.num_experts, capacity(c, n)))  # [D, E, C]
            scale = self.param("scale", nn.initializers.ones, ())
            y, out = soft_moe(x, mu, scale, functools.partial(on_buffers, mlps), valid, dtype=self.dtype)
            return y.astype(self.dtype), out  # [B, N, D]

        groups, valid = to_groups(x, valid, c.group_size)  # [G, S, D], bool[G, S] or None
        logits, noisy = Router(c.num_experts, c.noise_std, name="Router")(groups, train)  # [G, S, E]
        plan, loss = route(c, logits, noisy, valid)
        y = dispatch_and_combine(c, mlps, groups.astype(self.dtype), plan)  # [G, S, D]
        probabilities = jax.nn.softmax(logits)  # [G, S, E]
        num_selected = c.num_selected if c.router == "top_k" else None
        processed = plan.combine_weights > 0  # bool[G, S, E]
        out = {
            "metrics": routing.metrics(processed, probabilities, num_selected=num_selected, valid=valid),
            "auxiliary_loss": loss,
            "probabilities": from_groups(probabilities, b, n),  # [B, N, E]
            "combine_weights": from_groups(plan.combine_weights, b, n),  # [B, N, E]
        }
        return from_groups(y, b, n).astype(self.dtype), out  # [B, N, D]
