"""The experts: E copies of an MLP, each applied to its own rows.

    outputs = apply_experts(mlp_expert, params, buffers)      # float[E, C, D] -> float[E, C, D]

Pure functions first, then the Linen module that holds the parameters. Their names are V-MoE's: Dense_0/kernel
[E, D, F], Dense_0/bias [E, F], Dense_1/kernel [E, F, D], ...

Built in notebooks/04_dispatch_and_capacity.ipynb.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kitlib.configs import MoEConfig
from kitlib.configs.arguments import one_of
from kitlib.layers import t5_layers, vit_layers
from kitlib.layers.vit_layers import BIAS_INIT

# ---------------------------------------------------------------------------------------------- one expert


def linear_layer(x: jax.Array, layer: dict) -> jax.Array:
    """x float[..., D] times layer["kernel"] [D, D'], plus layer["bias"] [D'] if there is one, in the dtype of x."""
    y = x @ layer["kernel"].astype(x.dtype)
    return y + layer["bias"].astype(x.dtype)[(None,) * (y.ndim - 1)] if "bias" in layer else y


def mlp_expert(linear, params: dict, x: jax.Array, key=None, *, dropout: float = 0.0, activation="gelu") -> jax.Array:
    """One ViT expert: Dense, GELU, dropout, Dense. x float[C, D] -> float[C, D]."""
    h = vit_layers.ACTIVATIONS[activation](linear(x, params["Dense_0"]))
    return linear(_dropped(h, key, dropout), params["Dense_1"])


def gated_mlp_expert(linear, params: dict, x: jax.Array, key=None, *, dropout=0.0, activation="gelu") -> jax.Array:
    """One T5 1.1 expert: (GELU(x wi_0) * (x wi_1)) wo, no biases; UL2: SiLU. x float[C, D] -> float[C, D]."""
    h = t5_layers.ACTIVATIONS[activation](linear(x, params["wi_0"])) * linear(x, params["wi_1"])
    return linear(_dropped(h, key, dropout), params["wo"])


def _dropped(h: jax.Array, key, rate: float) -> jax.Array:
    if key is None or not rate:
        return h
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, h.shape), h / (1.0 - rate), 0.0).astype(h.dtype)


# ---------------------------------------------------------------------------------------------- all experts


def apply_experts(expert: Callable, params, x: jax.Array, *, owner=None, keys=None, how=None) -> jax.Array:
    """Applies every expert to its own rows: buffers, R = E, or blocks, x float[R, C, D] -> float[R, C, D'].

    Args:
      expert: (linear, params of one expert, x [C, D], key) -> [C, D'], with `linear(x, {"kernel", "bias"})` for its
        linear layers: see `mlp_expert`.
      params: a tree of arrays with a leading E axis.
      owner: int32[R], ascending, the expert of each block; None: row e belongs to expert e.
      keys: one random key per row, for dropout, or None.
      how: "batched" matrix multiplications, "ragged" ones (`jax.lax.ragged_dot`), or a "loop" over blocks. None: for
        buffers "batched"; for blocks "ragged"; "loop" on a CPU, whose ragged ones compute every expert on every row.
    """
    if how is not None:
        one_of("way to apply experts", how, ("batched", "ragged", "loop"))
    if how is None and owner is not None:

        def by(how):
            return lambda *args: apply_experts(expert, *args[:2], owner=args[2], keys=args[3], how=how)

        return jax.lax.platform_dependent(params, x, owner, keys, cpu=by("loop"), default=by("ragged"))
    if how in (None, "batched"):
        params = params if owner is None else jax.tree.map(lambda p: p[owner], params)
        return jax.vmap(functools.partial(expert, linear_layer))(params, x, keys)
    owner = jnp.arange(len(x)) if owner is None else owner
    if how == "loop":
        return _loop(expert, params, owner, x, keys)

    r, c, _ = x.shape
    num_experts = jax.tree.leaves(params)[0].shape[0]
    sizes = jnp.zeros(num_experts, jnp.int32).at[owner].add(c)

    def ragged_dense(x, layer):
        y = jax.lax.ragged_dot(x, layer["kernel"].astype(x.dtype), sizes)
        return y + jnp.repeat(layer["bias"][owner], c, axis=0).astype(x.dtype) if "bias" in layer else y

    key = None if keys is None else keys[0]
    return expert(ragged_dense, params, x.reshape(r * c, -1), key).reshape(r, c, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loop(expert: Callable, params, owner, x, keys):
    """Computes one block after the other, each with the weights of its owner.

    So does the backward pass: it computes each hidden layer again instead of storing it, and adds the gradient of each
    block in place to that of its owner. The gradient that JAX derives adds a whole [E, ...] array per block.
    """
    return jax.lax.map(
        lambda row: expert(linear_layer, jax.tree.map(lambda p: p[row[0]], params), *row[1:]), (owner, x, keys)
    )


def _loop_forward(expert, params, owner, x, keys):
    return _loop(expert, params, owner, x, keys), (params, owner, x, keys)


def _loop_backward(expert, residuals, cotangent):
    params, owner, x, keys = residuals

    def step(total, row):
        e, x, key, g = row
        _, vjp = jax.vjp(lambda p, x: expert(linear_layer, p, x, key), jax.tree.map(lambda p: p[e], params), x)
        grad, dx = vjp(g)
        return jax.tree.map(lambda t, d: t.at[e].add(d), total, grad), dx

    grads, dx = jax.lax.scan(step, jax.tree.map(jnp.zeros_like, params), (owner, x, keys, cotangent))
    return grads, None, dx, None


_loop.defvjp(_loop_forward, _loop_backward)


# ---------------------------------------------------------------------------------------------- Linen modules


class ExpertDense(nn.Module):
    """Holds the parameters of E linear layers: {"kernel" [E, D, F], "bias" [E, F]}. Computes nothing.

    With `split_init` every expert has initial values of its own. Otherwise all start as copies of one, as in V-MoE, and
    differ from the first step on because they process different tokens.
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


class Mlps(NamedTuple):
    """The experts of a layer, ready to be applied: buffers float[R, C, D] -> the same shape, see `apply_experts`."""

    expert: Callable
    params: dict  # every leaf with a leading E axis
    key: jax.Array | None  # for dropout

    def __call__(self, buffers: jax.Array, owner: jax.Array | None = None) -> jax.Array:
        keys = None if self.key is None else jax.random.split(self.key, len(buffers))
        return apply_experts(self.expert, self.params, buffers, owner=owner, keys=keys)


class Experts(nn.Module):
    """Holds the parameters of E MLPs from D to D; computes nothing. Call: width D -> `Mlps`."""

    config: MoEConfig
    mlp_dim: int
    gated: bool
    activation: str

    @nn.compact
    def __call__(self, width: int, train: bool = False) -> Mlps:
        c = self.config
        hidden, last = (("wi_0", "wi_1"), "wo") if self.gated else (("Dense_0",), "Dense_1")

        def layer(name, inputs, outputs):
            return ExpertDense(c.num_experts, outputs, not self.gated, c.split_init, name=name)(inputs)

        params = {name: layer(name, width, self.mlp_dim) for name in hidden}
        params[last] = layer(last, self.mlp_dim, width)
        key = self.make_rng("dropout") if train and c.expert_dropout else None
        return Mlps(_expert(self.gated, c.expert_dropout, self.activation), params, key)


@functools.cache  # one object per kind: JAX would compile the same function again for another object
def _expert(gated: bool, dropout: float, activation: str = "gelu"):
    return functools.partial(gated_mlp_expert if gated else mlp_expert, dropout=dropout, activation=activation)
