"""BatchEnsemble (2002.06715): M members that differ by a rank-one factor in some of their kernels.

    config = configs.vit("B/32", batch_ensemble=configs.BatchEnsembleConfig((9, 10, 11), num_members=2))
    logits, out = ViT(config).apply(variables, images)                 # float32[M, B, V]

Member m's kernel is W * (alpha_m gamma_m^T), elementwise, but this kernel is never computed: scaling the inputs by
alpha_m and the outputs by gamma_m gives the same result, with one matrix product by W for all members. This adds
M * (C + D) parameters to a kernel of C * D; each member has its own biases. Tokens are copied before the first block of
this kind; the head is such a layer too. A layer's parameters have the names of the public code (edward2); the names of
the layers differ, and `models.checkpoint.load_vit` translates them.

The layout of every ensemble in one model, here and in E3 (`moe.e3`), is one copy of the batch per member on the batch
axis. On one device, members are outermost: a b c -> a b c a b c. On a mesh, each device holds the members of its own
part of the batch, so that copying a token moves nothing between devices: with two, a b | c d -> a b a b | c d c d.

    x = tile(x, 2)                # [B, ...] -> [M * B, ...]
    x = split(x, 2)               # [M * B, ...] -> [M, B, ...]
    x = merge(x)                  # and back

Built in notebooks/09_ensembles_and_uncertainty.ipynb, the layout in notebooks/10_e3.ipynb.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from kitlib.configs import BatchEnsembleConfig
from kitlib.parallel import mesh

# ---------------------------------------------------------------------------------------------- the layout


def tile(x: jax.Array, num_members: int) -> jax.Array:
    """One copy of the batch per member: [B, ...] -> [M * B, ...]."""
    return merge(jnp.broadcast_to(x[None], (num_members, *x.shape)))


def split(x: jax.Array, num_members: int) -> jax.Array:
    """Gives members an axis of their own: [M * B, ...] -> [M, B, ...]. Raises ValueError for parts that are unequal."""
    check_members(x, num_members)
    parts = mesh.num_shards()
    x = x.reshape(parts, num_members, -1, *x.shape[1:]).swapaxes(0, 1)  # [M, parts, B / parts, ...]
    return x.reshape(num_members, -1, *x.shape[3:])


def merge(x: jax.Array) -> jax.Array:
    """The inverse of `split`: [M, B, ...] -> [M * B, ...]."""
    m, b = x.shape[:2]
    parts = mesh.num_shards()
    if b % parts:
        raise ValueError(f"A batch of {b} does not divide among the {parts} parts of the mesh.")
    x = x.reshape(m, parts, b // parts, *x.shape[2:]).swapaxes(0, 1)  # [parts, M, B / parts, ...]
    return x.reshape(m * b, *x.shape[3:])


def check_members(x: jax.Array, num_members: int) -> None:
    """Raises ValueError unless the first axis of x holds M members of equally many examples, on each part of a mesh."""
    parts = mesh.num_shards()
    if not x.shape or x.shape[0] % (parts * num_members):
        where = f" on each of {parts} parts of the mesh" * (parts > 1)
        what = f"{num_members} members of equally many examples{where}"
        raise ValueError(f"The first axis of {x.shape} does not hold {what}.")


# ---------------------------------------------------------------------------------------------- the layer


def rank_one_dense(x: jax.Array, kernel: jax.Array, alpha: jax.Array, gamma: jax.Array) -> jax.Array:
    """x float[M, R, C], kernel [C, D], alpha [M, C], gamma [M, D] -> float[M, R, D]: x_m (W * alpha_m gamma_m^T)."""
    return ((x * alpha[:, None]) @ kernel) * gamma[:, None]


def fast_weight_init(config: BatchEnsembleConfig):
    """The initialiser (key, shape) -> float32 of alpha and gamma."""

    def init(key, shape):
        if config.sign_probability is None:
            return 1.0 + config.spread * jax.random.normal(key, shape)
        return jnp.where(jax.random.bernoulli(key, config.sign_probability, shape), 1.0, -1.0)

    return init


class Dense(nn.Module):
    """Replaces `nn.Dense` and `nn.DenseGeneral`: float[M * B, ..., *inputs] -> float[M * B, ..., *features].

    axis: the last axis, or the last two, which are the inputs. Parameters: kernel [*inputs, *features], bias
    [M, *features], fast_weight_alpha [M, *inputs], fast_weight_gamma [M, *features].
    """

    config: BatchEnsembleConfig
    features: int | tuple[int, ...]
    axis: int | tuple[int, ...] = -1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x):
        m, kept = self.config.num_members, x.ndim - (1 if isinstance(self.axis, int) else len(self.axis))
        inputs = x.shape[kept:]
        outputs = (self.features,) if isinstance(self.features, int) else tuple(self.features)
        c, d = math.prod(inputs), math.prod(outputs)
        x = split(x, m)  # [M, B, ..., *inputs]

        def kernel_init(key, shape):  # drawn as a matrix, as in nn.DenseGeneral
            return self.kernel_init(key, (c, d)).reshape(shape)

        kernel = self.param("kernel", kernel_init, (*inputs, *outputs)).reshape(c, d)
        alpha = self.param("fast_weight_alpha", fast_weight_init(self.config), (m, *inputs)).reshape(m, c)
        gamma = self.param("fast_weight_gamma", fast_weight_init(self.config), (m, *outputs)).reshape(m, d)
        rows = x.reshape(m, -1, c).astype(self.dtype)
        y = rank_one_dense(rows, *(w.astype(self.dtype) for w in (kernel, alpha, gamma)))
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (m, *outputs)).reshape(m, 1, d)
            y += bias.astype(self.dtype)
        return merge(y.reshape(*x.shape[: kept + 1], *outputs))
