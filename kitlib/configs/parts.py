"""Parts of a configuration besides sizes: mixtures of experts and members of an ensemble. See `kitlib.configs`."""

import dataclasses
import numbers
from typing import Self, get_origin

from kitlib.configs.nearest_name import one_of

REMAT = ("none", "dots", "full")  # what the backward pass computes again: see `models.stacking`
DEEP = {"scan": True, "remat": "full", "dtype": "bfloat16"}  # fields of models that are too large without


class Config:
    """The base of all configurations. They are frozen dataclasses: compared by value, and usable as dictionary keys."""

    def replace(self, **changes) -> Self:
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]  # every subclass is a dataclass

    def __repr__(self):
        # Only fields that differ from their default: short, and a new field does not change the text of older values.
        fields = [(field.name, getattr(self, field.name), field.default) for field in dataclasses.fields(self)]
        shown = ", ".join(f"{name}={value!r}" for name, value, default in fields if value != default)
        return f"{type(self).__name__}({shown})"

    def check_whole_numbers(self) -> None:
        """Raises ValueError unless fields of type int are whole numbers, and tuples of int hold different ones (but for
        an image's two sides). A 2.0 would pass every comparison and fail deep inside a model."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value, name = getattr(self, field.name), f"{type(self).__name__}.{field.name}"
            if field.type in (int, int | None) and value is not None and not _is_whole(value):
                raise ValueError(f"{name} is {value!r}; it must be a whole number.")
            if get_origin(field.type) is tuple:
                if not isinstance(value, tuple) or not all(map(_is_whole, value)):
                    raise ValueError(f"{name} is {value!r}; it must be a tuple of whole numbers.")
                if field.type == tuple[int, ...] and len(set(value)) < len(value):
                    raise ValueError(f"{name} is {value!r}; it names a number twice.")


def _is_whole(value) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


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
        self.check_whole_numbers()
        one_of("router", self.router, ("top_k", "expert_choice", "soft"))
        one_of("dispatch", self.dispatch, ("einsum", "gather", "dropless"))
        one_of("transport", self.transport, ("float32", "bfloat16"))
        one_of("expert_parallel", self.expert_parallel, ("constraints", "shard_map"))
        if self.num_experts < 1:
            raise ValueError(f"MoEConfig.num_experts is {self.num_experts}; it must be at least 1.")
        if self.router == "top_k" and not 1 <= self.num_selected <= self.num_experts:
            raise ValueError(f"A token can select 1 to E={self.num_experts} experts, got K={self.num_selected}.")
        if self.dispatch == "dropless":
            if self.router != "top_k":
                raise ValueError(f"Dropless dispatch is for token choice; router {self.router!r} fills its slots.")
            if self.capacity is not None or self.capacity_factor is not None:
                raise ValueError("Dropless dispatch has no capacity; set capacity=None and capacity_factor=None.")
        elif (self.capacity is None) == (self.capacity_factor is None):
            raise ValueError(
                f"Give one of capacity and capacity_factor and set the other to None, got {self.capacity} and "
                f"{self.capacity_factor}."
            )
        if self.capacity is not None and self.capacity < 1:
            raise ValueError(f"An expert needs at least one slot, got capacity {self.capacity}.")
        if self.capacity_factor is not None and not 0.0 < self.capacity_factor < float("inf"):
            raise ValueError(f"The capacity factor must be positive, got {self.capacity_factor}.")
        for name in ("granularity", "capacity_multiple_of", "group_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"MoEConfig.{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("noise_std", "importance_weight", "load_weight", "balance_weight", "z_weight"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"MoEConfig.{name} is {getattr(self, name)}; it must be 0 or more.")
        if self.router == "top_k" and self.load_weight and not self.noise_std:
            raise ValueError("The load loss needs router noise; set load_weight=0 or noise_std > 0.")
        if not 0.0 <= self.expert_dropout < 1.0:
            raise ValueError(f"MoEConfig.expert_dropout is {self.expert_dropout}; it must be in [0, 1).")


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
        self.check_whole_numbers()
        one_of("tiling", self.tiling, ("lazy", "block", "none"))
        one_of("routers", self.routers, ("own", "shared", "ranked"))
        if self.num_members < 1:
            raise ValueError(f"An ensemble has at least one member, got M={self.num_members}.")
        if self.routers != "own" and (self.overlap or self.tiling == "none"):
            raise ValueError(f"overlap and tiling='none' are for members' own routers, got routers={self.routers!r}.")
        if self.overlap < 0:
            raise ValueError(f"overlap is {self.overlap}; it must be 0 or more.")

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
        self.check_whole_numbers()
        if self.num_members < 1:
            raise ValueError(f"An ensemble has at least one member, got M={self.num_members}.")
        if not self.blocks:
            raise ValueError("A BatchEnsemble needs at least one block; give their numbers.")
        if self.sign_probability is not None and not 0.0 <= self.sign_probability <= 1.0:
            raise ValueError(f"sign_probability is {self.sign_probability}; it must be in [0, 1], or None.")
        if not 0.0 <= self.spread < float("inf"):
            raise ValueError(f"spread is {self.spread}; it must be 0 or more.")
