"""Mixture-of-Experts layers: a router and E copies of an MLP in the place of one.

    layer = MoEMlp(configs.MoEConfig(num_experts=8), mlp_dim=1536)
    y, out = layer.apply(variables, x)        # x float[B, N, D]; out["metrics"], out["auxiliary_loss"], ...

`MoEMlp` is token choice, expert choice or Soft MoE (2308.00951), by its configuration. Parameter names are V-MoE's:
Router/dense/kernel [D, E], Mlp/Dense_0/kernel [E, D, F], Mlp/Dense_0/bias [E, F], Mlp/Dense_1/kernel [E, F, D], ...

Built in notebooks/04_dispatch_and_capacity.ipynb; Soft MoE in notebooks/06_expert_choice_and_soft_moe.ipynb.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from kitlib import dispatch, routing
from kitlib.configs import MoEConfig
from kitlib.layers import BIAS_INIT, gelu

# ---------------------------------------------------------------------------------------------- pure functions

ACTIVATIONS = {"gelu": gelu, "silu": nn.silu}  # of gated MLPs: T5 1.1 (GEGLU), UL2 (SwiGLU); 2002.05202


def mlp_expert(dense, params: dict, x: jax.Array, key=None, *, dropout: float = 0.0) -> jax.Array:
    """One ViT expert: Dense, GELU (tanh form), dropout, Dense. x float[C, D] -> float[C, D]."""
    h = gelu(dense(x, params["Dense_0"]))
    return dense(_dropped(h, key, dropout), params["Dense_1"])


def gated_mlp_expert(
    dense, params: dict, x: jax.Array, key=None, *, dropout: float = 0.0, activation: str = "gelu"
) -> jax.Array:
    """One T5 1.1 expert: (GELU(x wi_0) * (x wi_1)) wo, no biases; UL2: SiLU. x float[C, D] -> float[C, D]."""
    h = ACTIVATIONS[activation](dense(x, params["wi_0"])) * dense(x, params["wi_1"])
    return dense(_dropped(h, key, dropout), params["wo"])


def _dropped(h: jax.Array, key, rate: float) -> jax.Array:
    if key is None or not rate:
        return h
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, h.shape), h / (1.0 - rate), 0.0).astype(h.dtype)


def to_groups(x: jax.Array, valid: jax.Array | None, group_size: int | None):
    """Cuts the tokens of a batch into equal groups of at most `group_size`: ([G, S, D], valid bool[G, S] or None).

    x float[B, N, D], valid bool[B, N] or None. Any batch and length fit: where they do not divide, the last group is
    filled up with padding that `valid` marks. A group size fixed in the model breaks on a single image.
    """
    b, n, d = x.shape
    total = b * n
    if not total:
        raise ValueError(f"A mixture of experts needs at least one token, got a batch of shape {x.shape}.")
    groups = -(-total // min(group_size or total, total))
    size = -(-total // groups)
    padding = groups * size - total
    if padding and valid is None:
        valid = jnp.ones((b, n), bool)
    x = jnp.pad(x.reshape(total, d), ((0, padding), (0, 0))).reshape(groups, size, d)
    if valid is not None:
        valid = jnp.pad(valid.reshape(total), (0, padding)).reshape(groups, size)
    return x, valid


def from_groups(y: jax.Array, batch: int, num_tokens: int) -> jax.Array:
    """The inverse of `to_groups` without the padding: [G, S, ...] -> [B, N, ...]."""
    return y.reshape(-1, *y.shape[2:])[: batch * num_tokens].reshape(batch, num_tokens, *y.shape[2:])


def capacity(c: MoEConfig, num_tokens: int) -> int:
    """Slots of an expert in a group of that many tokens: as given, or from the factor, in the router's convention."""
    if c.capacity is not None:
        return min(c.capacity, num_tokens)
    if c.router == "top_k":
        multiple = c.capacity_multiple_of
        return routing.capacity_of_choices(
            num_tokens, c.num_experts, c.num_selected, c.capacity_factor, multiple_of=multiple
        )
    return routing.capacity_of_tokens(num_tokens, c.num_experts, c.capacity_factor)


def soft_weights(logits: jax.Array, valid: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Soft MoE (2308.00951, section 2.1): logits float32[G, S, E, C] -> weights of the same shape, to slots and back.

    Every slot takes a weighted mean of all tokens (softmax over S), every token of all slots (softmax over E and C):
    nothing is dropped, nothing is discrete, and no token order matters.
    """
    if valid is not None:
        logits = jnp.where(valid[..., None, None], logits, -jnp.inf)
    to_slots = jax.nn.softmax(logits, axis=1)
    flat = logits.reshape(*logits.shape[:2], -1)
    back = jax.nn.softmax(flat if valid is None else jnp.where(valid[..., None], flat, 0.0), axis=-1)
    return to_slots, back.reshape(logits.shape)


# ---------------------------------------------------------------------------------------------- Linen modules


class Router(nn.Module):
    """x float[G, S, D] -> (logits, noisy logits), both float32[G, S, E]. No bias; noise only in training."""

    num_experts: int
    noise_std: float

    @nn.compact
    def __call__(self, x, train: bool = False):
        # float32 whatever the model's type: close logits must not tie.
        logits = nn.Dense(self.num_experts, use_bias=False, dtype=jnp.float32, name="dense")(x.astype(jnp.float32))
        if train and self.noise_std:
            return logits, routing.add_noise(logits, self.make_rng("router"), self.noise_std)
        return logits, logits


class ExpertDense(nn.Module):
    """Holds the parameters of E linear layers: {"kernel" [E, D, F], "bias" [E, F]}. Computes nothing.

    With `split_init` every expert draws its own; without, all start as copies of one, as V-MoE's do: routing tells them
    apart from the first step on.
    """

    num_experts: int
    features: int
    use_bias: bool
    split_init: bool

    @nn.compact
    def __call__(self, width: int) -> dict:
        def stacked(init):
            def draw(key, shape):
                keys = jax.random.split(key, self.num_experts) if self.split_init else jnp.stack([key])
                return jnp.broadcast_to(jax.vmap(lambda k: init(k, shape[1:]))(keys), shape)

            return draw

        e, f = self.num_experts, self.features
        params = {"kernel": self.param("kernel", stacked(nn.initializers.xavier_uniform()), (e, width, f))}
        if self.use_bias:
            params["bias"] = self.param("bias", stacked(BIAS_INIT), (e, f))
        return params


class Experts(nn.Module):
    """E MLPs on their rows: float[R, C, D] -> float[R, C, D]; see `dispatch.apply_experts`."""

    config: MoEConfig
    mlp_dim: int
    gated: bool
    activation: str

    @nn.compact
    def __call__(self, x, owner=None, train: bool = False):
        c, width = self.config, x.shape[-1]
        hidden, last = (("wi_0", "wi_1"), "wo") if self.gated else (("Dense_0",), "Dense_1")

        def layer(name, inputs, outputs):
            return ExpertDense(c.num_experts, outputs, not self.gated, c.split_init, name=name)(inputs)

        params = {name: layer(name, width, self.mlp_dim) for name in hidden}
        params[last] = layer(last, self.mlp_dim, width)
        expert = _expert(self.gated, c.expert_dropout, self.activation)
        use_keys = train and c.expert_dropout
        keys = jax.random.split(self.make_rng("dropout"), len(x)) if use_keys else None
        return dispatch.apply_experts(expert, params, x, owner=owner, keys=keys)


@functools.cache  # one object a kind: JAX compiles a function again when it is another object
def _expert(gated: bool, dropout: float, activation: str = "gelu"):
    if gated:
        return functools.partial(gated_mlp_expert, dropout=dropout, activation=activation)
    return functools.partial(mlp_expert, dropout=dropout)


class MoEMlp(nn.Module):
    """x float[B, N, D] -> (float[B, N, D], out); valid bool[B, N] marks real tokens, None if all are.

    out: "metrics" (`routing.metrics`; none for Soft MoE), "auxiliary_loss" float32[], weighted and summed,
    "probabilities" float32[B, N, E] (clean), "combine_weights" float32[B, N, E] (0 where an expert does not work).
    A token that no expert works on gets zeros; the residual connection around the layer keeps it.
    """

    config: MoEConfig
    mlp_dim: int
    gated: bool = False
    dtype: jnp.dtype = jnp.float32
    activation: str = "gelu"  # of gated experts: see ACTIVATIONS

    @nn.compact
    def __call__(self, x, valid=None, train: bool = False):
        c, (b, n, _) = self.config, x.shape
        experts = Experts(c, self.mlp_dim // c.granularity, self.gated, self.activation, name="Mlp")
        if c.router == "soft":
            return self.soft(experts, x, valid, train)

        groups, valid = to_groups(x, valid, c.group_size)
        logits, noisy = Router(c.num_experts, c.noise_std, name="Router")(groups, train)
        plan, weights, aux = route(c, logits, noisy, valid)
        y = there_and_back(c, experts, groups.astype(self.dtype), plan, train)
        probabilities = jax.nn.softmax(logits)
        num_selected = c.num_selected if c.router == "top_k" else None
        out = {
            "metrics": routing.metrics(weights > 0, probabilities, num_selected=num_selected, valid=valid),
            "auxiliary_loss": aux,
            "probabilities": from_groups(probabilities, b, n),
            "combine_weights": from_groups(weights, b, n),
        }
        return from_groups(y, b, n).astype(self.dtype), out

    def soft(self, experts, x, valid, train):
        """Soft MoE; a group is one sequence, so that images do not mix."""
        c, (_, n, d) = self.config, x.shape
        mu = self.param("mu", nn.initializers.lecun_normal(), (d, c.num_experts, capacity(c, n)))
        scale = self.param("scale", nn.initializers.ones, ())
        # Both sides are normalised (2308.00951, section 2.3): the logits do not grow with the width.
        logits = scale * jnp.einsum("gsd,dec->gsec", _unit(x.astype(jnp.float32), -1), _unit(mu, 0))
        to_slots, back = soft_weights(logits, valid)
        buffers = jnp.einsum("gsec,gsd->egcd", to_slots, x.astype(jnp.float32))
        e, g, slots, _ = buffers.shape
        buffers = dispatch.on_experts(buffers.reshape(e, g * slots, d).astype(self.dtype))
        outputs = dispatch.on_experts(experts(buffers, None, train)).reshape(e, g, slots, d)
        y = jnp.einsum("gsec,egcd->gsd", back, outputs.astype(jnp.float32))
        out = {
            "auxiliary_loss": jnp.zeros(()),
            "probabilities": to_slots.sum(axis=-1),
            "combine_weights": back.sum(axis=-1),
        }
        return y.astype(self.dtype), out


def _unit(x: jax.Array, axis: int) -> jax.Array:
    # The small number is under the root: the gradient of a norm is not defined at zero, where padding often is.
    return x * jax.lax.rsqrt(jnp.square(x).sum(axis=axis, keepdims=True) + 1e-12)


def route(c: MoEConfig, logits: jax.Array, noisy: jax.Array, valid: jax.Array | None):
    """From logits float32[G, S, E] to (the plan, combine weights float32[G, S, E], the weighted auxiliary loss).

    The plan is an `Assignment`, or for dropless dispatch the `Blocks` of all groups together.
    """
    num_tokens = logits.shape[1]
    probabilities = jax.nn.softmax(noisy)
    if c.router == "expert_choice":
        slots = routing.expert_choice(probabilities, capacity(c, num_tokens), valid)
        if c.renormalize:
            slots = routing.renormalize(slots, num_tokens)
        aux = c.z_weight * routing.z_loss(logits, valid) if c.z_weight else jnp.zeros(())
        return slots, routing.by_token(slots, slots.weight, num_tokens), aux

    choice = routing.top_k(probabilities, c.num_selected, valid)
    return *place(c, choice, valid), auxiliary_loss(c, logits, noisy, choice, valid)


def place(c: MoEConfig, choice: routing.Choice, valid: jax.Array | None, slots: int | None = None):
    """From what tokens want, [G, S, K], to (the plan, combine weights float32[G, S, E]); see `route`.

    slots: of an expert in a group, where not `capacity` says how many.
    """
    num_tokens = choice.expert.shape[1]
    if c.dispatch == "dropless":
        if c.renormalize:
            total = choice.gate.sum(axis=-1, keepdims=True)
            choice = choice._replace(gate=choice.gate / jnp.where(total > 0, total, 1.0))
        weights = (jax.nn.one_hot(choice.expert, c.num_experts) * choice.gate[..., None]).sum(axis=2)
        flat = routing.Choice(*(x.reshape(1, -1, x.shape[-1]) for x in choice))
        flat_valid = None if valid is None else valid.reshape(1, -1)
        return dispatch.sort_into_blocks(flat, c.num_experts, flat_valid), weights
    slots = slots or capacity(c, num_tokens)
    plan = routing.assign(choice, c.num_experts, slots, batch_priority=c.batch_priority, valid=valid)
    if c.renormalize:
        plan = routing.renormalize(plan, num_tokens)
    return plan, routing.by_token(plan, plan.weight, num_tokens)


def there_and_back(c: MoEConfig, experts, groups: jax.Array, plan, train: bool) -> jax.Array:
    """Tokens float[G, S, D] to their experts (an `Experts`) and back, as `plan` says: float32[G, S, D]."""
    (g, s, d), transport, owner = groups.shape, jnp.dtype(c.transport), None
    x = groups
    if c.dispatch == "dropless":  # groups share capacity, and there is none: one group of all tokens
        plan, owner = plan
        x = groups.reshape(1, g * s, d)
    method = "einsum" if c.dispatch == "einsum" else "gather"
    buffers = dispatch.dispatch(x.astype(transport), plan, method).astype(groups.dtype)
    outputs = experts(buffers, owner, train).astype(transport)
    return dispatch.combine(outputs, plan, x.shape[1], method).reshape(g, s, d)


def auxiliary_loss(c: MoEConfig, logits, noisy, choice: routing.Choice, valid) -> jax.Array:
    """The weighted sum of the router's losses. A term of weight 0 is not computed: it cannot spoil the gradient."""
    probabilities = jax.nn.softmax(logits)
    total = jnp.zeros(())
    if c.importance_weight:
        total += c.importance_weight * routing.importance_loss(probabilities, valid)
    if c.load_weight and noisy is not logits:  # no noise, no load loss: out of training
        total += c.load_weight * routing.load_loss(logits, noisy, c.num_selected, c.noise_std, valid)
    if c.balance_weight:
        total += c.balance_weight * routing.balance_loss(probabilities, choice.expert, valid)
    if c.z_weight:
        total += c.z_weight * routing.z_loss(logits, valid)
    return total
