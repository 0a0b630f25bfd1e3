"""Sparse Upcycling (2212.05055): a trained dense model becomes a Mixture-of-Experts and continues training.

    sparse = surgery.vision_recipe(dense)                   # which blocks get which experts
    plan = surgery.plan(params, sparse)                     # where every leaf comes from; print(plan) shows it
    params = surgery.apply(plan, params, key)
    opt_state = surgery.resume(plan, dense_state, tx)       # for vision (section B.6): moments follow their parameters
    opt_state = surgery.restart(dense_state, tx, params)    # for language: fresh moments
    state = train_state.replace(params=params, opt_state=opt_state)      # step and key are kept

Surgery is planned before anything is computed, so that a model that does not fit is refused as a whole. Every leaf of
the result is a *copy* of a dense leaf, a dense leaf *tiled* over the experts, or *new*: only routers are new. The
baseline of the paper, a deeper dense model made by repeating blocks (depth tiling, 2112.11446), is a plan as well.

    params = surgery.split_routers(params, num_members=2)               # V-MoE -> E3, for configs.e3(...)
    params = surgery.batch_ensemble_from_dense(params, config, key)     # ViT or V-MoE; config.batch_ensemble is set
    params = surgery.mimo_from_single(params, num_members=2)            # for ensembles.Mimo(config, 2)

However the optimiser goes on, the learning rate does not jump: a second warm-up would destroy what the dense model has
learned, and a schedule that started again at its peak would be ten times too high for a T5 after a million steps.

Built in notebooks/07_sparse_upcycling.ipynb, for T5 in notebooks/08_t5_and_upcycling.ipynb, for E3 in
notebooks/10_e3.ipynb.
"""

import dataclasses
import math
import re
import zlib
from collections.abc import Iterator, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.tree_util import DictKey, keystr

from kitlib.configs import T5_DECODER_MOE, T5_ENCODER_MOE, E3Config, MoEConfig, T5Config, ViTConfig
from kitlib.configs.arguments import flag, number, whole
from kitlib.layers import batch_ensemble
from kitlib.layers.vit_layers import BIAS_INIT
from kitlib.models import checkpoint, stacking
from kitlib.models.checkpoint import flat_shapes
from kitlib.moe.e3 import experts_of

EXPERT = re.compile(r"(.*)/(?:Moe|moe)/Mlp/(.*)")
ROUTER = re.compile(r".*/(?:Moe|moe)/Router/dense/kernel")
# The axis of the hidden units in each leaf of the dense MLP. The leaf Dense_1/bias has none.
HIDDEN_AXIS = {"Dense_0/kernel": 1, "Dense_0/bias": 0, "Dense_1/kernel": 0, "wi_0/kernel": 1, "wi_1/kernel": 1}
HIDDEN_AXIS |= {"wo/kernel": 0}
OUTPUT_LAYERS = ("Dense_1", "wo")


# ---------------------------------------------------------------------------------------------- recipes


def vision_recipe(dense: ViTConfig, **changes) -> ViTConfig:
    """The paper's ViT (section 3.1): experts in the last half of the blocks, E=32, expert choice with capacity factor
    2, combine weights renormalised. `changes` are fields of MoEConfig, such as num_experts=8.

    The new model starts as the dense one where each token is chosen: surely with capacity_factor = E, often from 3. (In
    our study of pictures, notebook 07, raw weights and fresh moments ended ahead.)"""
    moe = _changed(dense, ViTConfig, MoEConfig(router="expert_choice", capacity_factor=2.0, renormalize=True), changes)
    return dense.replace(moe=moe, moe_blocks=tuple(range(dense.depth - dense.depth // 2, dense.depth)))


def language_recipe(dense: T5Config, **changes) -> T5Config:
    """The paper's T5: experts in layers 1, 3, 5, ... of both stacks, E=32, expert choice with capacity factor 2 in the
    encoder, top-2 in the decoder, combine weights not renormalised. `changes` are fields of the encoder's MoEConfig;
    num_experts, granularity and renormalize also change the decoder's."""
    both = {name: changes[name] for name in ("num_experts", "granularity", "renormalize") if name in changes}
    moe = _changed(dense, T5Config, T5_ENCODER_MOE, changes)
    return dense.replace(
        moe=moe,
        moe_layers=tuple(range(1, dense.num_encoder_layers, 2)),
        decoder_moe=T5_DECODER_MOE.replace(**both),
        decoder_moe_layers=tuple(range(1, dense.num_decoder_layers, 2)),
    )


def _changed(dense, kind: type, recipe: MoEConfig, changes: dict) -> MoEConfig:
    """`recipe` with these fields; refused are those that say nothing, or by which the router would learn nothing."""
    if not isinstance(dense, kind):
        raise ValueError(f"dense is {dense!r}; expected {kind.__name__}: a recipe changes a configuration.")
    moe = recipe.replace(**changes)
    if "num_selected" in changes and moe.router != "top_k":
        raise ValueError(f"num_selected is of tokens that choose, here router={moe.router!r}; say router='top_k', too.")
    if (moe.router, moe.num_selected, moe.renormalize) == ("top_k", 1, True):
        raise ValueError(
            "The weight of one selected expert is always 1 if weights sum to 1, so that the task would not train the "
            "router: say renormalize=False, or num_selected=2 or more."
        )
    return moe


@dataclasses.dataclass(frozen=True)
class ExpertInit:
    """How experts differ from the MLP they are copied from. The default, exact copies, is the paper's."""

    noise: float = 0.0  # Gaussian, in standard deviations of each leaf; drawn for every expert (section B.5)
    redraw: float = 0.0  # Drop-Upcycling (2502.19261): share of each expert's hidden units that are drawn again
    fresh: int = 0  # number of experts, the last ones, that start as in a new model; E: all of them (section B.5)
    router_scale: float = 1.0  # factor of the router's initial weights; 1: unit variance of logits of normalised tokens
    scale_weights: bool = False  # if not renormalised: outputs are multiplied by 1 / (mean sum of gates) (2410.07524)

    def __post_init__(self):
        number("ExpertInit.redraw", self.redraw, 0.0, 1.0)
        number("ExpertInit.noise", self.noise, 0.0)
        number("ExpertInit.router_scale", self.router_scale, 0.0)
        whole("ExpertInit.fresh", self.fresh, 0)
        flag("ExpertInit.scale_weights", self.scale_weights)


COPIES = ExpertInit()

# ---------------------------------------------------------------------------------------------- the plan


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a leaf of the result comes from."""

    how: str  # "copied", "tiled" (over the experts) or "new"
    source: str | None  # the name of the dense leaf; None for a new leaf
    shape: tuple[int, ...]  # of the leaf of the result


@dataclasses.dataclass(frozen=True)
class Plan:
    """The origin of every leaf, by name ("a/b/c"). `str(plan)` has one line per leaf, and the sums."""

    origins: dict[str, Origin]
    moe: dict[str, MoEConfig]  # of each sparse layer, by the name of its block

    def __str__(self) -> str:
        lines = []
        for name, origin in self.origins.items():
            arrow = "" if origin.source in (name, None) else f" <- {origin.source}"
            lines.append(f"{origin.how:7} {name} {list(origin.shape)}{arrow}")
        for how in ("copied", "tiled", "new"):
            sizes = [math.prod(o.shape) for o in self.origins.values() if o.how == how]
            lines.append(f"{how}: {len(sizes)} leaves, {sum(sizes):,} parameters")
        return "\n".join(lines)


def plan(dense, config: ViTConfig | T5Config) -> Plan:
    """The surgery that turns `dense` (a tree of arrays or shapes) into the parameters of the sparse `config`.

    Raises ValueError, before anything is computed, for a model that already has experts and for a configuration without
    experts or with Soft MoE; CheckpointError, a ValueError, for leaves that are missing, extra or misshapen.
    """
    flat = _flat_dense(dense)
    if experts := next((name for name in flat if EXPERT.fullmatch(name)), None):
        raise ValueError(f"The model is sparse already ({experts}); upcycling starts from a dense one.")
    if isinstance(config, ViTConfig) and config.e3:
        raise ValueError("An E3 is made of a V-MoE: plan for e3=None, then split_routers.")
    if config.scan:
        raise ValueError("Surgery goes block by block: plan for scan=False, and stack the result (stacking.stack).")
    layers = moe_layers(config)
    if not layers:
        raise ValueError("The configuration has no experts; give it some, for instance by surgery.vision_recipe.")
    if any(moe.router == "soft" for moe in layers.values()):
        raise ValueError("The slots of Soft MoE hold mixtures of tokens, on which no MLP was trained; route tokens.")
    checkpoint.compare(flat, flat_shapes(dense_twin(config)), "The dense model")

    origins = {}
    for name, leaf in flat_shapes(config).items():
        if ROUTER.fullmatch(name):
            origins[name] = Origin("new", None, leaf.shape)
        elif match := EXPERT.fullmatch(name):
            mlp = "MlpBlock_0" if isinstance(config, ViTConfig) else "mlp"
            origins[name] = Origin("tiled", f"{match[1]}/{mlp}/{match[2]}", leaf.shape)
        else:
            origins[name] = Origin("copied", name, leaf.shape)
    return Plan(origins, layers)


def deepen(dense, order: tuple[int, ...]) -> Plan:
    """Depth tiling: block i of the deeper model is a copy of block order[i], in every stack; the rest is copied.

    `order` names each old block at least once, e.g. (0, 0, 1, 1), so that no trained block is lost. The deeper model
    does not compute the same function. The caller makes its configuration (depth=len(order)). Raises ValueError for
    another order, and for stacks of different depth.
    """
    flat, block = _flat_dense(dense), re.compile(r"(.*(?:encoderblock|layers)_)(\d+)(/.*)")
    depths: dict[str, int] = {}
    for match in filter(None, map(block.fullmatch, flat)):
        depths[match[1]] = max(depths.get(match[1], 0), int(match[2]) + 1)
    if len(set(depths.values())) > 1:
        raise ValueError(f"One order cannot deepen stacks of different depth, got {depths}.")
    depth = max(depths.values(), default=0)
    if not isinstance(order, tuple | list) or set(order) != set(range(depth)):
        raise ValueError(f"order must name each of the {depth} blocks, 0 to {depth - 1}, at least once; got {order}.")
    origins = {}
    for name, leaf in flat.items():
        match, origin = block.fullmatch(name), Origin("copied", name, leaf.shape)
        if match is None:
            origins[name] = origin
            continue
        head, number, rest = match.groups()
        origins |= {f"{head}{i}{rest}": origin for i, old in enumerate(order) if old == int(number)}
    return Plan(origins, {})


def moe_layers(config: ViTConfig | T5Config) -> dict[str, MoEConfig]:
    """The MoEConfig of each sparse block, by the name of the block."""
    if isinstance(config, ViTConfig):
        return {f"Transformer/encoderblock_{i}": config.moe for i in config.moe_blocks}
    encoder = {f"encoder/layers_{i}": config.moe for i in config.moe_layers}
    return encoder | {f"decoder/layers_{i}": config.decoder_moe for i in config.decoder_moe_layers}


def dense_twin(config: ViTConfig | T5Config) -> ViTConfig | T5Config:
    """The same model without experts."""
    if isinstance(config, ViTConfig):
        return config.replace(moe=None, moe_blocks=(), e3=None)
    return config.replace(moe=None, moe_layers=(), decoder_moe=None, decoder_moe_layers=())


def _flat_dense(tree) -> dict:
    if not isinstance(tree, Mapping):
        raise ValueError(f"The dense model is {type(tree).__name__}; expected its parameters, a dictionary.")
    return flatten_dict(stacking.unstack(dict(tree)), sep="/")


# ---------------------------------------------------------------------------------------------- parameters


def apply(plan: Plan, dense, key: jax.Array, how: ExpertInit = COPIES) -> dict:
    """The parameters of the new model. Deterministic in `key`. The dense tree is neither changed nor donated."""
    return unflatten_dict(dict(leaves(plan, dense, key, how)), sep="/")


def leaves(plan: Plan, dense, key: jax.Array, how: ExpertInit) -> Iterator[tuple[str, jax.Array]]:
    """(name, leaf) of the new model, made one by one: a caller that stores each needs little memory."""
    flat = _flat_dense(dense)
    for name, origin in plan.origins.items():
        leaf_key = jax.random.fold_in(key, zlib.crc32(name.encode()))  # does not depend on the order of the leaves
        source = flat.get(origin.source)
        if origin.how == "new":
            block = re.split("/(?:Moe|moe)/", name)[0]
            leaf = how.router_scale * _router(leaf_key, origin.shape, plan.moe[block])
        elif source is None or origin.how == "copied":
            leaf = None if source is None else jnp.array(source)
        else:
            block, part = EXPERT.fullmatch(name).groups()
            unit_key = jax.random.fold_in(key, zlib.crc32(block.encode()))  # the same for all leaves of a layer
            leaf = _experts(source, part, plan.moe[block], how, leaf_key, unit_key)
        if leaf is None or leaf.shape != origin.shape:
            raise ValueError(f"{origin.source} is not as it was planned; pass the dense model that the plan is for.")
        yield name, leaf


def _router(key: jax.Array, shape: tuple[int, ...], moe: MoEConfig) -> jax.Array:
    """A new router [D, E]. With fine-grained experts, the parts of one copy of the MLP have equal columns, so that a
    token with K = granularity selects all of them (virtual groups, 2410.07524)."""
    kernel = nn.initializers.lecun_normal()(key, (shape[0], shape[1] // moe.granularity))
    return jnp.repeat(kernel, moe.granularity, axis=1)


def _experts(leaf: jax.Array, part: str, moe: MoEConfig, how: ExpertInit, key, unit_key) -> jax.Array:
    """The leaf of all E experts, float[E, ...], from that of the dense MLP. part: its name in the MLP."""
    experts = output_scale(part, moe, how) * tile(leaf, part, moe)
    noise_key, value_key, fresh_key = jax.random.split(key, 3)
    if how.noise:
        experts += how.noise * experts[0].std() * jax.random.normal(noise_key, experts.shape, experts.dtype)
    if how.redraw and part in HIDDEN_AXIS:
        experts = jax.vmap(_redrawn, (0, None, None, 0, 0))(
            experts, HIDDEN_AXIS[part], how.redraw, *(jax.random.split(k, len(experts)) for k in (unit_key, value_key))
        )
    if how.fresh:
        if how.fresh > len(experts):
            raise ValueError(f"ExpertInit.fresh is {how.fresh}; there are only {len(experts)} experts.")
        init = nn.initializers.xavier_uniform() if part.endswith("kernel") else BIAS_INIT
        keys = jax.random.split(fresh_key, how.fresh)
        experts = experts.at[len(experts) - how.fresh :].set(jax.vmap(lambda k: init(k, experts.shape[1:]))(keys))
    return experts


def tile(leaf: jax.Array, part: str, moe: MoEConfig) -> jax.Array:
    """E copies of an MLP's leaf [...] -> [E, ...]; with granularity G, expert c * G + g is part g of copy c."""
    e, g = moe.num_experts, moe.granularity
    if e % g:
        raise ValueError(f"{e} experts cannot be copies of an MLP cut into granularity={g} parts; take a multiple.")
    if g == 1 or part not in HIDDEN_AXIS:
        return jnp.broadcast_to(leaf, (e, *leaf.shape))
    shards = jnp.stack(jnp.split(jnp.asarray(leaf), g, axis=HIDDEN_AXIS[part]))
    return jnp.tile(shards, (e // g,) + (1,) * leaf.ndim)


def output_scale(part: str, moe: MoEConfig, how: ExpertInit) -> float:
    """The factor of the last layer of every expert that makes the sum over the selected experts equal to the MLP.

    Renormalised gates sum to 1 over K experts, of which every G (the granularity) are one MLP: the factor is G. Raw
    gates are about 1/E each; with `scale_weights`, the factor E / K (E / C under expert choice) compensates for this,
    exactly for uniform gates. NVIDIA scales both layers, which is not exact with a GELU between them.
    """
    if part.split("/")[0] not in OUTPUT_LAYERS:
        return 1.0
    scale = float(moe.granularity)
    if how.scale_weights and not moe.renormalize:
        if moe.router != "top_k" and moe.capacity_factor is None:
            raise ValueError("scale_weights needs a capacity factor: how many experts a token has on average.")
        # No expert picks a token twice.
        selected = moe.num_selected if moe.router == "top_k" else min(moe.capacity_factor, moe.num_experts)
        scale *= moe.num_experts / selected
    return scale / moe.granularity if part.endswith("bias") else scale  # every part of a copy adds the bias


def _redrawn(expert: jax.Array, axis: int, share: float, unit_key, value_key) -> jax.Array:
    """The leaf of one expert, with `share` of its hidden units drawn from N(mean, std) of the weights they replace."""
    f = expert.shape[axis]
    rank = jnp.argsort(jax.random.permutation(unit_key, f))
    shape = [f if i == axis else 1 for i in range(expert.ndim)]
    chosen = jnp.broadcast_to((rank < round(share * f)).reshape(shape), expert.shape)
    count = jnp.maximum(chosen.sum(), 1)
    mean = jnp.where(chosen, expert, 0.0).sum() / count
    std = jnp.sqrt(jnp.where(chosen, (expert - mean) ** 2, 0.0).sum() / count)
    return jnp.where(chosen, mean + std * jax.random.normal(value_key, expert.shape), expert)


# ---------------------------------------------------------------------------------------------- the optimiser's state


def resume(plan: Plan, dense_state, tx: optax.GradientTransformation):
    """The state of `tx` for the new parameters: moments are copied and tiled like them, zero for routers; counts kept.

    Works for any optax chain whose state follows the parameters: AdamW, SGD with momentum, Adafactor with its factored
    moments. Raises ValueError where dense_state is not a state of `tx` for the dense model.
    """
    old = {keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(dense_state)}
    shapes = {name: jax.ShapeDtypeStruct(origin.shape, jnp.float32) for name, origin in plan.origins.items()}
    target = jax.eval_shape(tx.init, unflatten_dict(shapes, sep="/"))

    def moved(path, like):
        prefix, name = _split(path, plan)
        origin = plan.origins.get(name)
        if origin and origin.how == "new":
            return jnp.zeros(like.shape, like.dtype)
        source = keystr((*prefix, *map(DictKey, origin.source.split("/"))) if origin else path)
        leaf = old.get(source)
        if leaf is not None and leaf.dtype == like.dtype:
            if leaf.shape == like.shape:  # copied leaves, counts, and the placeholders of factored moments
                return jnp.array(leaf)
            if origin and origin.how == "tiled":
                block, part = EXPERT.fullmatch(name).groups()
                # A factored moment has one axis less: it is a single row for all units, and is only repeated.
                tiled = tile(leaf, part if leaf.ndim == len(origin.shape) - 1 else "", plan.moe[block])
                if tiled.shape == like.shape:
                    return tiled
        got = "missing" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"
        raise ValueError(
            f"The optimiser state does not fit: {source} is {got}, expected what makes {like.dtype}{list(like.shape)}; "
            "pass the state and the tx of the dense run (of a scanned model, unstacked), or use restart."
        )

    return jax.tree_util.tree_map_with_path(moved, target)


def restart(dense_state, tx: optax.GradientTransformation, params):
    """A fresh state of `tx` whose learning-rate schedule continues where the dense run stopped (as in T5X's upcycling).

    The count of Adam, by which it corrects the bias of its moments, starts again with them.
    Raises ValueError where the two states differ in their schedules.
    """

    def schedule(node) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    kept = [node for node in jax.tree.leaves(dense_state, is_leaf=schedule) if schedule(node)]
    nodes, tree = jax.tree.flatten(tx.init(params), is_leaf=schedule)
    if sum(map(schedule, nodes)) != len(kept):
        raise ValueError("The dense run and tx differ in their learning-rate schedules; pass the tx of the dense run.")
    left = iter(kept)
    nodes = [jax.tree.map(jnp.array, next(left)) if schedule(node) else node for node in nodes]
    return jax.tree.unflatten(tree, nodes)


def _split(path: tuple, plan: Plan) -> tuple[tuple, str]:
    """Splits the path of a leaf of the state into (the optimiser's part, the name of the parameter, or "")."""
    for start, _ in enumerate(path):
        name = "/".join(str(getattr(key, "key", key)) for key in path[start:])
        if name in plan.origins:
            return path[:start], name
    return path, ""


# ---------------------------------------------------------------------------------------------- ensembles


def split_routers(params, num_members: int, overlap: int = 0):
    """V-MoE -> E3 (2110.03360): every router [D, E] becomes M routers over E/M experts each, [D, M, E/M].

    Nothing else changes; member m owns experts m * E/M ... (m + 1) * E/M - 1. Gates grow, since each softmax is now
    over E/M logits. overlap: experts that a member borrows from those after it, as in `E3Config`. Raises ValueError for
    a model without routers, for scanned blocks, and for experts that do not divide among M members.
    """
    flat, division = flatten_dict(params, sep="/"), E3Config(num_members, overlap=overlap)
    routers = [name for name in flat if ROUTER.fullmatch(name)]
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
    checkpoint.compare(flat, flat_shapes(config.replace(batch_ensemble=None)), "The ViT")
    init = batch_ensemble.fast_weight_init(config.batch_ensemble)
    for i, (name, shape) in enumerate(flat_shapes(config).items()):
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
