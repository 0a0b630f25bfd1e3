"""Efficient Ensemble of Experts (2110.03360): the E experts of a V-MoE divided among M members of an ensemble.

    model = vit.ViT(configs.e3("S/32", "last-2", num_members=2))
    logits, out = model.apply(variables, images)                 # float32[M, B, V], a prediction of every member
    probs = uncertainty.combine(metrics.softmax(logits))         # float64[B, V], the ensemble's: the mean

Up to the first layer of experts there is one network. There every token is copied, one copy for each member; from there
on the copies pass the same attention, norms, dense MLPs and head, but each is routed by its member's own router among
its member's own E / M experts. So member m *is* a V-MoE with E / M experts (`member`), and the whole has not one
parameter more than the V-MoE it is made of (`upcycle.split_routers`).

Layout: members are the outer axis, [M * B, N, D], as in the paper's tiling; the released code has them inside,
[B * M, N, D] (`interleave`). Read in the wrong one, predictions for different images are averaged.

Built in notebooks/10_e3.ipynb.
"""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from kitlib import moe, routing
from kitlib.configs import E3Config, MoEConfig, ViTConfig

# ---------------------------------------------------------------------------------------------- layout


def tile(x: jax.Array, num_members: int) -> jax.Array:
    """One copy for every member: [B, ...] -> [M * B, ...], members outside: a b c -> a b c a b c."""
    return jnp.tile(x, (num_members,) + (1,) * (x.ndim - 1))


def split(x: jax.Array, num_members: int) -> jax.Array:
    """[M * B, ...] -> [M, B, ...]."""
    if not x.shape or x.shape[0] % num_members:
        raise ValueError(f"The first axis of {x.shape} does not hold {num_members} members of equally many examples.")
    return x.reshape(num_members, x.shape[0] // num_members, *x.shape[1:])


def interleave(x: jax.Array, num_members: int) -> jax.Array:
    """From this layout to the released code's, members inside: a b c a b c -> a a b b c c."""
    return split(x, num_members).swapaxes(0, 1).reshape(x.shape)


def deinterleave(x: jax.Array, num_members: int) -> jax.Array:
    """The inverse of `interleave`."""
    if not x.shape or x.shape[0] % num_members:
        raise ValueError(f"The first axis of {x.shape} does not hold {num_members} members of equally many examples.")
    return x.reshape(-1, num_members, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)


# ---------------------------------------------------------------------------------------------- who owns what


def experts_of(e3: E3Config, num_experts: int) -> np.ndarray:
    """int[M, E'], the experts that each member may use: E' = E / M, plus those it borrows; E where routers are shared.

    Member m owns m * E/M ... (m + 1) * E/M - 1 and borrows those that follow, round the end.
    """
    m = e3.num_members
    if e3.routers != "own":
        return np.tile(np.arange(num_experts), (m, 1))
    own = num_experts // m
    return (np.arange(m)[:, None] * own + np.arange(own + e3.overlap)) % num_experts


def slots_of(c: MoEConfig, e3: E3Config, num_tokens: int) -> int | None:
    """Slots C of an expert for S tokens of every member: what V-MoE gives for so many tokens and experts.

    No more than can be used: an expert sees S tokens of each member that may use it. None: dropless.
    """
    if c.dispatch == "dropless":
        return None
    m = e3.num_members
    users = -(-experts_of(e3, c.num_experts).size // c.num_experts)  # of an expert, at most
    return min(users * num_tokens, moe.capacity(c, m * num_tokens))


def choose(c: MoEConfig, e3: E3Config, probabilities: jax.Array, valid: jax.Array | None) -> routing.Choice:
    """What every member wants for its copy of every token: probabilities float32[G, M, S, E'] -> [G, M, S, K].

    Experts are numbered as the member's router does, from 0 to E' - 1.
    """
    g, m, s, width = probabilities.shape
    k = c.num_selected
    flat_valid = None if valid is None else jnp.repeat(valid, m, axis=0)
    ranks = m * k if e3.routers == "ranked" else k
    choice = routing.top_k(probabilities.reshape(g * m, s, width), ranks, flat_valid)
    expert, gate = (x.reshape(g, m, s, ranks) for x in choice)
    if e3.routers == "ranked":
        mine = np.arange(m)[:, None] * k + np.arange(k)  # [M, K]
        expert, gate = (jnp.take_along_axis(x, mine[None, :, None], axis=-1) for x in (expert, gate))
    return routing.Choice(expert, gate)


def member_losses(c: MoEConfig, e3: E3Config, logits, noisy, wanted: routing.Choice, valid) -> jax.Array:
    """The auxiliary losses of every member in every group, on its own router's [G, M, S, ...], averaged."""
    each = [a.reshape(-1, *a.shape[2:]) for a in (logits, noisy, wanted.expert, wanted.gate)]
    if noisy is logits:  # no noise: `auxiliary_loss` tells by identity
        each[1] = each[0]
    if e3.routers == "ranked":
        c = c.replace(num_selected=e3.num_members * c.num_selected)
    valid = None if valid is None else jnp.repeat(valid, e3.num_members, axis=0)
    return moe.auxiliary_loss(c, each[0], each[1], routing.Choice(*each[2:]), valid)


# ---------------------------------------------------------------------------------------------- the layer


class MemberDense(nn.Module):
    """Holds the routers of M members, "kernel" [D, M, E']: float[G, M, S, D] -> float32[G, M, S, E']."""

    num_members: int
    features: int

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.lecun_normal(in_axis=0, out_axis=2, batch_axis=(1,))
        kernel = self.param("kernel", init, (x.shape[-1], self.num_members, self.features))
        x = x.astype(jnp.float32)
        # Member by member, each the product that a V-MoE's router is: equal to it in every bit.
        return jnp.stack([x[:, m] @ kernel[:, m] for m in range(self.num_members)], axis=1)


class MemberRouter(nn.Module):
    """x float[G, M, S, D] -> (logits, noisy logits), both float32[G, M, S, E'], every member by its own kernel.

    The noise has standard deviation noise_std / E', so M / E where a V-MoE of the same E has 1 / E.
    """

    num_members: int
    num_experts: int  # E', of a member
    noise_std: float

    @nn.compact
    def __call__(self, x, train: bool = False):
        logits = MemberDense(self.num_members, self.num_experts, name="dense")(x)
        if train and self.noise_std:
            return logits, routing.add_noise(logits, self.make_rng("router"), self.noise_std)
        return logits, logits


class E3Mlp(nn.Module):
    """x float[M * B, N, D] -> (float[M * B, N, D], out), out as that of `moe.MoEMlp`; without tiling [B, N, D].

    All members' tokens share one dispatch: their choices name experts among all E. Those of members with experts of
    their own never meet. The auxiliary losses are per member and group, then averaged: their weight is that of a V-MoE.
    """

    config: MoEConfig
    e3: E3Config
    mlp_dim: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        c, e3, m = self.config, self.e3, self.e3.num_members
        copies = 1 if e3.tiling == "none" else m
        x = split(x, copies)
        _, b, n, _ = x.shape
        groups, valid = jax.vmap(lambda x: moe.to_groups(x, None, c.group_size), out_axes=(1, None))(x)
        g, _, s, d = groups.shape

        logits, noisy = self.router(jnp.broadcast_to(groups, (g, m, s, d)), train)
        wanted = choose(c, e3, jax.nn.softmax(noisy), valid)
        owned = jnp.asarray(experts_of(e3, c.num_experts))
        expert = owned[np.arange(m)[None, :, None, None], wanted.expert]  # numbered among all E
        if copies == 1:  # all members' choices for the one copy, and the mean of what their experts say
            expert, gate = (a.swapaxes(1, 2).reshape(g, s, -1) for a in (expert, wanted.gate / m))
        else:
            expert, gate = (a.reshape(g, m * s, -1) for a in (expert, wanted.gate))
        everyone = None if valid is None else jnp.tile(valid, (1, copies))
        plan, weights = moe.place(c, routing.Choice(expert, gate), everyone, slots_of(c, e3, s))
        experts = moe.Experts(c, self.mlp_dim // c.granularity, False, "gelu", name="Mlp")
        y = moe.there_and_back(c, experts, groups.reshape(g, copies * s, d).astype(self.dtype), plan, train)

        def ungroup(a):  # [G, copies * S, ...] -> [copies * B, N, ...]
            a = a.reshape(g, copies, s, *a.shape[2:])
            return jax.vmap(lambda a: moe.from_groups(a, b, n), in_axes=1)(a).reshape(copies * b, n, *a.shape[3:])

        probabilities = self.among_all(jax.nn.softmax(logits), copies)
        out = {
            "metrics": routing.metrics(weights > 0, probabilities, num_selected=expert.shape[-1], valid=everyone),
            "auxiliary_loss": member_losses(c, e3, logits, noisy, wanted, valid),
            "probabilities": ungroup(probabilities),
            "combine_weights": ungroup(weights),
        }
        return ungroup(y).astype(self.dtype), out

    def router(self, groups, train):
        c, e3 = self.config, self.e3
        if e3.routers == "own":
            width = experts_of(e3, c.num_experts).shape[1]
            return MemberRouter(e3.num_members, width, c.noise_std, name="Router")(groups, train)
        g, m, s, d = groups.shape
        both = moe.Router(c.num_experts, c.noise_std, name="Router")(groups.reshape(g, m * s, d), train)
        logits = both[0].reshape(g, m, s, -1)
        return logits, logits if both[0] is both[1] else both[1].reshape(g, m, s, -1)

    def among_all(self, probabilities, copies):
        """float32[G, M, S, E'] -> [G, copies * S, E], zero for the experts of other members: block-diagonal gates."""
        c, e3 = self.config, self.e3
        where = jax.nn.one_hot(experts_of(e3, c.num_experts), c.num_experts)  # [M, E', E]
        full = jnp.einsum("gmse,mef->gmsf", probabilities, where)
        if copies == 1:
            full = full.mean(axis=1, keepdims=True)
        return full.reshape(full.shape[0], -1, c.num_experts)


# ---------------------------------------------------------------------------------------------- members

ROUTER = re.compile(r".*/Moe/Router/dense/kernel")
EXPERT = re.compile(r".*/Moe/Mlp/.*")


def members(params: dict, config: ViTConfig, which: tuple[int, ...]) -> tuple[dict, ViTConfig]:
    """The E3 that has only some of the members, in the order given: fewer predictions for less work at test time."""
    e3, moe_config = config.e3, config.moe
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
    """The V-MoE with E / M experts that member m is: its own routers and experts, everything else shared."""
    params, config = members(params, config, (m,))
    flat = flatten_dict(params, sep="/")
    flat = {name: leaf[:, 0] if ROUTER.fullmatch(name) else leaf for name, leaf in flat.items()}
    return unflatten_dict(flat, sep="/"), config.replace(e3=None)
