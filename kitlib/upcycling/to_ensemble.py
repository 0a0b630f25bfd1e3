"""From one trained model to an ensemble: a V-MoE becomes an E3, a ViT (or V-MoE) a BatchEnsemble or a MIMO.

    params = split_routers(params, num_members=2)                   # for configs.e3(...)
    params = batch_ensemble_from_dense(params, config, key)         # config.batch_ensemble is set
    params = mimo_from_single(params, num_members=2)                # for ensembles.Mimo(config, 2)

Built in notebooks/10_e3.ipynb.
"""

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from kitlib.configs import E3Config, MoEConfig, ViTConfig
from kitlib.configs.arguments import whole
from kitlib.layers import batch_ensemble
from kitlib.models import checkpoint
from kitlib.moe.e3 import experts_of
from kitlib.upcycling import surgery


def split_routers(params, num_members: int, overlap: int = 0):
    """V-MoE -> E3 (2110.03360): every router [D, E] becomes M routers over E/M experts each, [D, M, E/M].

    Nothing else changes; member m owns experts m * E/M ... (m + 1) * E/M - 1. Gates grow, since each softmax is now
    over E/M logits. overlap: experts that a member borrows from those after it, as in `E3Config`. Raises ValueError for
    a model without routers, for scanned blocks, and for experts that do not divide among M members.
    """
    flat, division = flatten_dict(params, sep="/"), E3Config(num_members, overlap=overlap)
    routers = [name for name in flat if surgery.ROUTER.fullmatch(name)]
    if not routers:
        raise ValueError("The model has no routers to split; E3 starts from a V-MoE.")
    for name in routers:
        if flat[name].ndim != 2:
            instead = "expected [D, E]; of scanned blocks, stacking.unstack first"
            raise ValueError(f"{name} is {flat[name].shape}, {instead}.")
        e = flat[name].shape[1]
        division.check(MoEConfig(e))
        flat[name] = flat[name][:, experts_of(division, e)]  # [D, M, E/M + overlap]
    return unflatten_dict(flat, sep="/")


def batch_ensemble_from_dense(params: dict, config: ViTConfig, key: jax.Array) -> dict:
    """Parameters of a BatchEnsemble from those of a plain ViT: kernels are shared, biases repeated for every member.

    Fast weights are drawn as in `config.batch_ensemble`; with spread 0 they are 1, and every member is the ViT. Raises
    ValueError for a configuration without members, and for parameters that are missing, extra or misshapen.
    """
    if config.batch_ensemble is None:
        raise ValueError("The configuration has no batch_ensemble; set one with replace(batch_ensemble=...).")
    flat, new = flatten_dict(params, sep="/"), {}
    checkpoint.compare(flat, checkpoint.flat_shapes(config.replace(batch_ensemble=None)), "The ViT")
    init = batch_ensemble.fast_weight_init(config.batch_ensemble)
    for i, (name, shape) in enumerate(checkpoint.flat_shapes(config).items()):
        if "/fast_weight_" in name:
            new[name] = init(jax.random.fold_in(key, i), shape.shape)
        else:  # a bias may be [M, ...], one per member
            new[name] = jnp.broadcast_to(flat[name], shape.shape)
    return unflatten_dict(new, sep="/")


def mimo_from_single(params: dict, num_members: int) -> dict:
    """Parameters of a MIMO from those of a model that reads one picture: each member's pixels get 1/M of the patch
    kernel [p, p, C, D], and each has a copy of the head. Where all members read the same picture, as at test time,
    every member is the model it came from. Raises ValueError for a model without a head."""
    if "head" not in params:
        raise ValueError("The model has no head, so a MIMO cannot be made of it.")
    kernel, m = params["embedding"]["kernel"], whole("num_members", num_members, 1)
    embedding = params["embedding"] | {"kernel": jnp.tile(kernel, (1, 1, m, 1)) / m}
    head = {"kernel": jnp.tile(params["head"]["kernel"], (1, m)), "bias": jnp.tile(params["head"]["bias"], m)}
    return {"ViT": params | {"embedding": embedding, "head": head}}
