"""Parts of a configuration besides sizes: mixtures of experts and members of an ensemble. See `kitlib.configs`."""

import dataclasses
import numbers
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Self, get_args, get_origin

from kitlib.configs.arguments import flag, number, one_of, whole

REMAT = ("none", "dots", "full")  # what the backward pass computes again: see `models.stacking`
DEEP = {"scan": True, "remat": "full", "dtype": "bfloat16"}  # fields of models that are too large without


class Config:
    """The base of all configurations. They are frozen dataclasses: compared by value, and usable as dictionary keys."""

    def replace(self, **changes) -> Self:
        """The same with other values of these fields. Raises ValueError for unknown ones and as the class does."""
        self.check_names(changes)
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]  # every subclass is a dataclass

    def __repr__(self):
        # Only fields that differ from their default: short, and a new field does not change the text of older values.
        fields = [(field.name, getattr(self, field.name), field.default) for field in dataclasses.fields(self)]
        shown = ", ".join(f"{name}={value!r}" for name, value, default in fields if value != default)
        return f"{type(self).__name__}({shown})"

    @classmethod
    def check_names(cls, names: Iterable[str]) -> None:
        """Raises ValueError for a name that no field has, naming the nearest one that there is."""
        known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for name in names:
            one_of(f"field of {cls.__name__}", name, known)

    def check_fields(self, *, counts: tuple[str, ...] = (), rates: tuple[str, ...] = ()) -> None:
        """Raises ValueError unless every field is of its type; what a string may be is checked by `one_of`.

        Numbers are finite and 0 or more; `counts` 1 or more, `rates` below 1. Tuples of int hold different ones (but
        for an image's two sides).
        """
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value, name = getattr(self, field.name), f"{type(self).__name__}.{field.name}"
            kinds = get_args(field.type) if isinstance(field.type, UnionType) else (field.type,)
            if (kind := kinds[0]) is str or (value is None and NoneType in kinds):
                continue
            if kind is bool:
                flag(name, value)
            elif kind is int:
                whole(name, value, int(field.name in counts))
            elif kind is float:
                number(name, value, 0.0, below=1.0 if field.name in rates else None)
            elif get_origin(kind) is not tuple:
                if not isinstance(value, kind):
                    raise ValueError(f"{name} is {value!r}; expected {kind.__name__}.")
            elif not isinstance(value, tuple) or any(
                not isinstance(i, numbers.Integral) or isinstance(i, bool) for i in value
            ):
                raise ValueError(f"{name} is {value!r}; expected a tuple of whole numbers.")
            elif kind == tuple[int, ...] and len(set(value)) < len(value):
                raise ValueError(f"{name} is {value!r}; it names a number twice.")


@dataclasses.dataclass(frozen=True, repr=False)
class MoEConfig(Config):
    """A Mixture-of-Experts layer. The defaults are V-MoE's (2106.05974), K = 1.

    What each field means stands beside it, in kitlib/configs/parts.py.

    The shapes of the parameters depend only on `num_experts`, `granularity`, the layer's sizes and, for Soft MoE, the
    capacity: K, capacity, groups, priority and dispatch may be changed for a trained model, with `replace`.
    """

    num_experts: int = 32  # E
    granularity: int = 1  # fine-grained experts (2401.06066, 2410.07524): each 1/granularity as wide as the MLP
    router: str = "top_k"  # "top_k": token choice; "expert_choice" (2202.09368); "soft" (2308.00951)
    num_selected: int = 1  # K; token choice only
    capacity_factor: float | None = 1.05  # per choice (top_k) or per token (the others): see `moe.routing`; or ...
    capacity: int | None = None  # ... C itself: slots per expert and group. Set one of the two, neither if dropless
    capacity_multiple_of: int = 4  # token choice: C from the factor is rounded up to a multiple, as in V-MoE
    # Largest number of tokens that share capacity (in an E3, of one member); None: those of the batch, or of a device
    group_size: int | None = None
    batch_priority: bool = False  # Batch Priority Routing: full buffers drop the least confident tokens, not the last
    renormalize: bool = False  # Sparse Upcycling: the combine weights of a token sum to 1
    noise_std: float = 1.0  # of the noise on router logits in training, divided by E
    importance_weight: float = 0.005  # of auxiliary losses, token choice only; published: 0.01 / 2 each
    load_weight: float = 0.005
    balance_weight: float = 0.0  # Switch: 0.01. With K = 1 also GShard's loss, which counts first choices only
    z_weight: float = 0.0  # ST-MoE: 0.001
    dispatch: str = "gather"  # "einsum", "gather" or "dropless": the same function, see `moe.dispatch`
    transport: str = "float32"  # dtype of tokens in dispatch and combine; "bfloat16" halves the bytes
    # On a mesh with several devices: "constraints" (XLA inserts the all-to-alls) or "shard_map" (they are written out);
    # the same function, see `moe.expert_parallel`.
    expert_parallel: str = "constraints"
    expert_dropout: float = 0.0  # on the hidden layer of the experts
    split_init: bool = False  # experts start from different parameters; V-MoE's start as copies

    def __post_init__(self):
        counts = ("num_experts", "granularity", "num_selected", "capacity", "capacity_multiple_of", "group_size")
        self.check_fields(counts=counts, rates=("expert_dropout",))
        one_of("router", self.router, ("top_k", "expert_choice", "soft"))
        one_of("dispatch", self.dispatch, ("einsum", "gather", "dropless"))
        one_of("transport", self.transport, ("float32", "bfloat16"))
        one_of("expert_parallel", self.expert_parallel, ("constraints", "shard_map"))
        if self.router == "top_k":
            whole("MoEConfig.num_selected", self.num_selected, 1, self.num_experts)
        if self.dispatch == "dropless":
            if self.router != "top_k":
                raise ValueError(f"Dropless dispatch is for token choice; router {self.router!r} fills its slots.")
            if self.capacity is not None or self.capacity_factor is not None:
                raise ValueError("Dropless dispatch has no capacity; set capacity=None and capacity_factor=None.")
        elif (self.capacity is None) == (self.capacity_factor is None):
            got = f"{self.capacity} and {self.capacity_factor}"
            raise ValueError(f"Give one of capacity and capacity_factor and set the other to None, got {got}.")
        if self.capacity_factor is not None:
            number("MoEConfig.capacity_factor", self.capacity_factor, above=0.0)
        if self.router == "top_k" and self.load_weight and not self.noise_std:
            raise ValueError("The load loss needs router noise; set load_weight=0 or noise_std > 0.")

    def for_generation(self) -> Self:
        """The same layer, in which what becomes of a token does not depend on the other tokens of its group: the text
        that is written for a prompt is then the same, whatever is written beside it.

        Every choice of a token has room. Where experts choose, tokens do instead: each takes the most probable experts,
        as many as it has on average in training. That is not quite the function that was trained; but neither is expert
        choice among a prompt's few tokens. Raises ValueError for expert choice without a capacity factor.
        """
        fields: dict = {"dispatch": "dropless", "capacity": None, "capacity_factor": None}
        if self.router == "expert_choice":
            if self.capacity_factor is None:
                choose = "To write text, tokens choose their experts, capacity_factor of them each"
                raise ValueError(f"{choose}; got capacity={self.capacity}: give the encoder a capacity_factor.")
            selected = min(self.num_experts, max(1, round(self.capacity_factor)))
            fields |= {"router": "top_k", "num_selected": selected, "importance_weight": 0.0, "load_weight": 0.0}
        return self.replace(**fields)


@dataclasses.dataclass(frozen=True, repr=False)
class E3Config(Config):
    """M members in one V-MoE: Efficient Ensemble of Experts (2110.03360; first called partitioned batch ensembles).

    The defaults are the paper's model; the other values are for its ablations (see `moe.e3`).
    """

    num_members: int = 2  # M
    # Where each token is copied M times. "lazy": after the attention of the first block with experts; "block": before
    # that block, as in the released code, the same function at a higher cost; "none": nowhere, the outputs of the
    # members' experts are averaged in the layer (partition only).
    tiling: str = "lazy"
    # "own": each member has a router over experts of its own; "shared": all members use one router over all E experts
    # (tiling only); "ranked": one router over all E, and member m takes its choices m * K ... (m + 1) * K - 1 (no
    # partition either).
    routers: str = "own"
    overlap: int = 0  # experts that a member borrows from the members after it, in addition to its E / M

    def __post_init__(self):
        self.check_fields(counts=("num_members",))
        one_of("tiling", self.tiling, ("lazy", "block", "none"))
        one_of("routers", self.routers, ("own", "shared", "ranked"))
        if self.routers != "own" and (self.overlap or self.tiling == "none"):
            raise ValueError(f"overlap and tiling='none' are for members' own routers, got routers={self.routers!r}.")

    def check(self, moe: MoEConfig) -> None:
        """Raises ValueError unless the experts of `moe` can be divided in this way."""
        m, e, k = self.num_members, moe.num_experts, moe.num_selected
        if moe.router != "top_k":
            raise ValueError(f"The tokens of an E3 choose their experts: router 'top_k', got {moe.router!r}.")
        if self.tiling == "none" and (moe.batch_priority or moe.renormalize):
            raise ValueError("Without tiling a token has M routers: no one priority, no one sum; set both to False.")
        if self.routers == "own" and e % m:
            raise ValueError(f"{e} experts do not divide among {m} members; E must be a multiple of M.")
        if self.routers == "own" and self.overlap > e - e // m:
            raise ValueError(f"A member has E/M={e // m} experts and can borrow {e - e // m} more, got {self.overlap}.")
        if self.routers == "own" and k > e // m + self.overlap:
            raise ValueError(f"A member has {e // m + self.overlap} of {e} experts; it cannot select K={k} of them.")
        if self.routers == "ranked" and m * k > e:
            raise ValueError(f"{m} members with K={k} choices each need {m * k} experts, got {e}.")


@dataclasses.dataclass(frozen=True, repr=False)
class BatchEnsembleConfig(Config):
    """M members that share every kernel except for a rank-one factor each (BatchEnsemble, 2002.06715)."""

    blocks: tuple[int, ...]  # whose MLPs are ensembles; tokens are copied before the first. The head always is one
    num_members: int = 4  # M
    attention: bool = False  # whether the attention of these blocks is an ensemble too
    # Initial fast weights. None: drawn from a normal distribution with mean 1 and standard deviation `spread`;
    # otherwise +1 with this probability, else -1.
    sign_probability: float | None = None
    spread: float = 0.5

    def __post_init__(self):
        self.check_fields(counts=("num_members",))
        if not self.blocks:
            raise ValueError("A BatchEnsemble needs at least one block; give their numbers.")
        if self.sign_probability is not None:
            number("sign_probability", self.sign_probability, 0.0, 1.0)
