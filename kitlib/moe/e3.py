"""Efficient Ensemble of Experts (2110.03360): the E experts of a V-MoE divided among M members of an ensemble.

    model = vit.ViT(configs.e3("S/32", "last-2", num_members=2))
    logits, out = model.apply(variables, images)                 # float32[M, B, V], one prediction per member
    probs = uncertainty.combine(metrics.softmax(logits))         # float64[B, V], the ensemble's prediction: the mean

At the first layer with experts, every token is copied once per member. The copies pass through the same attention,
norms, dense MLPs and head, but each is routed by its member's own router among its member's own E / M experts. So
member m *is* a V-MoE with E / M experts (`member`), and the E3 has no more parameters than the V-MoE that it is made of
(`surgery.split_routers`).

Layout: members are the outer axis, [M * B, N, D], as in the paper's tiling; in the released code they are the inner
axis, [B * M, N, D] (`interleave`). If one is read as the other, predictions for different images are averaged.

Built in notebooks/10_e3.ipynb.
"""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from kitlib.configs import E3Config, MoEConfig, ViTConfig
from kitlib.layers.batch_ensemble import check_members, merge, split, tile  # noqa: F401  # part of this module's face
from kitlib.moe import moe_layer, routing
from kitlib.moe.dispatch import Choice
from kitlib.moe.expert_parallel import dispatch_and_combine
from kitlib.moe.experts import Experts

# ---------------------------------------------------------------------------------------------- layout


def interleave(x: jax.Array, num_members: int) -> jax.Array:
    """From this layout to that of the released code, members innermost: a b c a b c -> a a b b c c."""
    return split(x, num_members).swapaxes(0, 1).reshape(x.shape)


def deinterleave(x: jax.Array, num_members: int) -> jax.Array:
    """The inverse of `interleave`."""
    check_members(x, num_members)
    return merge(x.reshape(-1, num_members, *x.shape[1:]).swapaxes(0, 1))


# ---------------------------------------------------------------------------------------------- each member's experts


def experts_of(e3: E3Config, num_experts: int) -> np.ndarray:
    """int[M, E'], the experts that each member may use: its own E / M and those it borrows; all E with one router.

    Member m owns m * E/M ... (m + 1) * E/M - 1 and borrows the next ones, where expert 0 follows the last.
    """
    m = e3.num_members
    if e3.routers != "own":
        return np.tile(np.arange(num_experts), (m, 1))
    own = num_experts // m
    return (np.arange(m)[:, None] * own + np.arange(own + e3.overlap)) % num_experts


def slots_of(c: MoEConfig, e3: E3Config, num_tokens: int) -> int | None:
    """Slots C per expert for S = num_tokens tokens of every member: as many as a V-MoE has for M * S tokens.

    At most as many as can be used: S per member that may use the expert. None: dropless.
    """
    if c.dispatch == "dropless":
        return None
    m = e3.num_members
    users = -(-experts_of(e3, c.num_experts).size // c.num_experts)  # the most members that may use one expert
    return min(users * num_tokens, routing.capacity(c, m * num_tokens))


def choose(c: MoEConfig, e3: E3Config, probabilities: jax.Array, valid: jax.Array | None) -> Choice:
    """The choices of every member for its copy of every token: probabilities float32[G, M, S, E'] -> [G, M, S, K].

    Experts are numbered from 0 to E' - 1, as in the member's router. valid bool[G, S]: real tokens; None: all are.
    """
    g, m, s, width = probabilities.shape
    k = c.num_selected
    flat_valid = None if valid is None else jnp.repeat(valid, m, axis=0)  # [G * M, S]
    ranks = m * k if e3.routers == "ranked" else k
    choice = routing.top_k(probabilities.reshape(g * m, s, width), ranks, flat_valid)  # [G * M, S, ranks]
    expert, gate = (x.reshape(g, m, s, ranks) for x in choice)  # [G, M, S, ranks]
    if e3.routers == "ranked":
        ranks_of_member = np.arange(m)[:, None] * k + np.arange(k)  # [M, K]
        expert, gate = (jnp.take_along_axis(x, ranks_of_member[None, :, None], axis=-1) for x in (expert, gate))
    return Choice(expert, gate)


def member_losses(c: MoEConfig, e3: E3Config, logits, noisy, wanted: Choice, valid) -> jax.Array:
    """The auxiliary loss float32[] of every member's router in every group, averaged over members and groups.

    logits float32[G, M, S, E']; noisy the same with noise, or None; wanted [G, M, S, K]; valid bool[G, S] or None.
    """
    if e3.routers == "ranked":
        c = c.replace(num_selected=e3.num_members * c.num_selected)
    valid = None if valid is None else jnp.repeat(valid, e3.num_members, axis=0)
    # [G * M, S, ...]: every member of every group for itself
    logits, noisy, wanted = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), (logits, noisy, wanted))
    return routing.auxiliary_loss(c, logits, noisy, wanted, valid)


# ---------------------------------------------------------------------------------------------- the layer


class MemberDense(nn.Module):
    """The routers of M members, "kernel" [D, M, E']: x float[G, M, S, D] -> logits float32[G, M, S, E']."""

    num_members: int
    features: int

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.lecun_normal(in_axis=0, out_axis=2, batch_axis=(1,))
        kernel = self.param("kernel", init, (x.shape[-1], self.num_members, self.features))
        x = x.astype(jnp.float32)
        # One product per member, as in the router of a V-MoE: bitwise equal to it.
        return jnp.stack([x[:, m] @ kernel[:, m] for m in range(self.num_members)], axis=1)  # [G, M, S, E']


class MemberRouter(nn.Module):
    """x float[G, M, S, D] -> logits float32[G, M, S, E'] and the same with noise, or None; one kernel per member.

    The noise has standard deviation noise_std / E': M / E for noise_std 1, where a V-MoE with the same E has 1 / E.
    """

    num_members: int
    num_experts: int  # E', per member
    noise_std: float

    @nn.compact
    def __call__(self, x, train: bool = False):
        logits = MemberDense(self.num_members, self.num_experts, name="dense")(x)
        if not (train and self.noise_std):
            return logits, None
        return logits, routing.add_noise(logits, self.make_rng("router"), self.noise_std)


class E3Mlp(nn.Module):
    """x float[M * B, N, D] -> (float[M * B, N, D], out), out as for `moe.MoEMlp`; without tiling [B, N, D].

    One dispatch serves all members: their choices are renumbered among all E experts. Members with experts of their own
    never compete for a slot. The auxiliary losses are averaged over members and groups, so they weigh as in a V-MoE.
    """

    config: MoEConfig
    e3: E3Config
    mlp_dim: int
    dtype: jax.typing.DTypeLike = jnp.float32
    activation: str = "gelu"  # see `vit_layers.ACTIVATIONS`

    @nn.compact
    def __call__(self, x, train: bool = False):
        c, e3, m = self.config, self.e3, self.e3.num_members
        copies = 1 if e3.tiling == "none" else m
        x = x[None] if copies == 1 else split(x, m)  # [copies, B, N, D]
        _, b, n, _ = x.shape
        to_groups = jax.vmap(lambda x: moe_layer.to_groups(x, None, c.group_size), out_axes=(1, None))
        groups, valid = to_groups(x)  # [G, copies, S, D], bool[G, S] or None
        g, _, s, d = groups.shape

        logits, noisy = self.router(jnp.broadcast_to(groups, (g, m, s, d)), train)  # [G, M, S, E']
        wanted = choose(c, e3, jax.nn.softmax(logits if noisy is None else noisy), valid)  # [G, M, S, K]
        usable = jnp.asarray(experts_of(e3, c.num_experts))  # [M, E']
        expert = usable[np.arange(m)[None, :, None, None], wanted.expert]  # [G, M, S, K], numbered among all E
        if copies == 1:  # the choices of all members for the one copy; the mean of their experts' outputs
            expert, gate = (a.swapaxes(1, 2).reshape(g, s, -1) for a in (expert, wanted.gate / m))  # [G, S, M * K]
        else:
            expert, gate = (a.reshape(g, m * s, -1) for a in (expert, wanted.gate))  # [G, M * S, K]
        all_valid = None if valid is None else jnp.tile(valid, (1, copies))  # bool[G, copies * S]
        dispatcher = routing.dispatcher_of(c, Choice(expert, gate), all_valid, slots_of(c, e3, s))
        weights = dispatcher.combine_weights  # [G, copies * S, E]
        mlps = Experts(c, self.mlp_dim // c.granularity, False, self.activation, name="Mlp")(d, train)
        tokens = groups.reshape(g, copies * s, d).astype(self.dtype)  # [G, copies * S, D]
        y = dispatch_and_combine(c, mlps, tokens, dispatcher)  # [G, copies * S, D]

        def ungroup(a):  # [G, copies * S, ...] -> [copies * B, N, ...]
            a = a.reshape(g, copies, s, *a.shape[2:])  # [G, copies, S, ...]
            a = jax.vmap(lambda a: moe_layer.from_groups(a, b, n), in_axes=1)(a)  # [copies, B, N, ...]
            return a[0] if copies == 1 else merge(a)  # [copies * B, N, ...]

        probabilities = self.among_all(jax.nn.softmax(logits), copies)  # [G, copies * S, E]
        # An expert that two members chose counts once: with one copy and overlap, "dropped" is an upper bound.
        out = {
            "metrics": routing.metrics(weights > 0, probabilities, num_selected=expert.shape[-1], valid=all_valid),
            "auxiliary_loss": member_losses(c, e3, logits, noisy, wanted, valid),
            "probabilities": ungroup(probabilities),  # [copies * B, N, E]
            "combine_weights": ungroup(weights),  # [copies * B, N, E]
        }
        return ungroup(y).astype(self.dtype), out  # [copies * B, N, D]

    def router(self, groups, train):
        """float[G, M, S, D] -> logits float32[G, M, S, E'] and the same with noise, or None."""
        c, e3 = self.config, self.e3
        if e3.routers == "own":
            width = experts_of(e3, c.num_experts).shape[1]
            return MemberRouter(e3.num_members, width, c.noise_std, name="Router")(groups, train)
        g, m, s, d = groups.shape
        router = moe_layer.Router(c.num_experts, c.noise_std, name="Router")
        logits, noisy = router(groups.reshape(g, m * s, d), train)  # [G, M * S, E]
        return logits.reshape(g, m, s, -1), None if noisy is None else noisy.reshape(g, m, s, -1)  # [G, M, S, E]

    def among_all(self, probabilities, copies):
        """float32[G, M, S, E'] -> [G, copies * S, E], zero for the experts of other members: block-diagonal gates."""
        c, e3 = self.config, self.e3
        one_hot = jax.nn.one_hot(experts_of(e3, c.num_experts), c.num_experts)  # [M, E', E]
        full = jnp.einsum("gmse,mef->gmsf", probabilities, one_hot)  # [G, M, S, E]
        if copies == 1:
            full = full.mean(axis=1, keepdims=True)  # [G, 1, S, E]
        return full.reshape(full.shape[0], -1, c.num_experts)  # [G, copies * S, E]


# ---------------------------------------------------------------------------------------------- members

ROUTER = re.compile(r".*/Moe/Router/dense/kernel")
EXPERT = re.compile(r".*/Moe/Mlp/.*")


def members(params: dict, config: ViTConfig, which: tuple[int, ...]) -> tuple[dict, ViTConfig]:
    """(parameters, configuration) of an E3 with only the members `which`, in that order: less work at test time.

    Raises ValueError where members share experts, for scanned blocks, and for members that do not exist.
    """
    e3, moe_config = config.e3, config.moe
    if config.scan:
        raise ValueError("Members are taken out block by block: pass stacking.unstack(params), and scan=False.")
    if e3 is None or e3.routers != "own" or e3.overlap:
        raise ValueError(f"Members can be taken out of an E3 with experts of their own, got e3={e3}.")
    which = tuple(int(m) for m in which)
    if not which or any(not 0 <= m < e3.num_members for m in which):
        raise ValueError(f"There are members 0 to {e3.num_members - 1}, got {which}.")
    flat = flatten_dict(params, sep="/")
    index = np.concatenate([experts_of(e3, moe_config.num_experts)[m] for m in which])
    for name, leaf in flat.items():
        if ROUTER.fullmatch(name):
            flat[name] = leaf[:, np.array(which)]
        elif EXPERT.fullmatch(name):
            flat[name] = leaf[index]
    few = moe_config.replace(num_experts=len(index))
    return unflatten_dict(flat, sep="/"), config.replace(moe=few, e3=E3Config(len(which), e3.tiling))


def member(params: dict, config: ViTConfig, m: int) -> tuple[dict, ViTConfig]:
    """(parameters, configuration) of the V-MoE with E / M experts that member m is; all else is as in the E3."""
    params, config = members(params, config, (m,))
    flat = flatten_dict(params, sep="/")
    flat = {name: leaf[:, 0] if ROUTER.fullmatch(name) else leaf for name, leaf in flat.items()}
    return unflatten_dict(flat, sep="/"), config.replace(e3=None)
