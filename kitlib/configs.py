"""Every model of the kit by name: frozen dataclasses, the published sizes and where each was published.

    vit("B/16")                                  # ViT-Base, 16-pixel patches, 1,000 classes, class token
    vit("g/14", num_classes=29593, pool="map")   # the JFT-3B model of "Scaling Vision Transformers"
    vit("22B/14", num_classes=0)                 # the vision tower of PaLI-X
    vmoe("B/16", "every-2")                      # V-MoE-Base with 32 experts in every other block
    t5("1.1-base")                               # T5 1.1 Base, an encoder-decoder
    sparse_t5("1.1-base")                        # the same with 32 experts in every other layer of both stacks

Built in notebooks/01_vit_from_pixels_to_logits.ipynb, the mixtures in notebooks/05_v_moe.ipynb, T5 in
notebooks/08_t5_and_upcycling.ipynb.
"""

import dataclasses
import difflib


def _one_of(what: str, got: str, known) -> None:
    if got not in known:
        nearest = difflib.get_close_matches(got, list(known), n=1, cutoff=0.0)[0]
        raise ValueError(f"Unknown {what} {got!r}; did you mean {nearest!r}? Known: {', '.join(sorted(known))}.")


@dataclasses.dataclass(frozen=True)
class MoEConfig:
    """A Mixture-of-Experts layer. The defaults are V-MoE's (2106.05974), K = 1.

    Nothing but `num_experts`, `granularity`, the layer's sizes and, for Soft MoE, the capacity shapes the parameters:
    K, capacity, groups, priority and back-end may be changed on a trained model, by `replace`.
    """

    num_experts: int = 32  # E
    granularity: int = 1  # fine-grained experts (2401.06066, 2410.07524): each 1/granularity as wide as the MLP
    router: str = "top_k"  # token choice; "expert_choice" (2202.09368); "soft" (2308.00951)
    num_selected: int = 1  # K; token choice only
    capacity_factor: float | None = 1.05  # per choice (top_k) or per token (the others): see `routing`; or else ...
    capacity: int | None = None  # ... C itself: slots an expert has in a group. One of the two, none if dropless.
    capacity_multiple_of: int = 4  # token choice: C from the factor is rounded up to a multiple, as V-MoE's code does
    group_size: int | None = None  # tokens that share capacity, at most; None: the whole batch
    batch_priority: bool = False  # Batch Priority Routing: full buffers drop the least confident, not the last
    renormalize: bool = False  # Sparse Upcycling: combine weights of a token sum to 1
    noise_std: float = 1.0  # of router logits in training, divided by E
    importance_weight: float = 0.005  # auxiliary losses, token choice only: published 0.01 / 2 each
    load_weight: float = 0.005
    balance_weight: float = 0.0  # GShard and Switch: 0.01
    z_weight: float = 0.0  # ST-MoE: 0.001
    dispatch: str = "gather"  # "einsum", "gather" or "dropless": the same function, see `dispatch`
    transport: str = "float32"  # the type in which tokens travel to experts and back; "bfloat16" halves the bytes
    expert_dropout: float = 0.0  # on the hidden layer of the experts
    split_init: bool = False  # experts start different; V-MoE's start as copies

    def __post_init__(self):
        _one_of("router", self.router, ("top_k", "expert_choice", "soft"))
        _one_of("dispatch", self.dispatch, ("einsum", "gather", "dropless"))
        _one_of("transport", self.transport, ("float32", "bfloat16"))
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

    def replace(self, **changes) -> "MoEConfig":
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """A Vision Transformer. The defaults are those of "An Image is Worth 16x16 Words" (2010.11929)."""

    width: int  # D
    depth: int  # L, number of blocks
    mlp_dim: int  # F
    num_heads: int  # H
    patch_size: int  # pixels, square patches
    image_size: tuple[int, int] = (224, 224)  # height, width in pixels
    channels: int = 3
    num_classes: int = 1000  # V; 0: no head, `logits` is the pooled (or token) representation
    pool: str = "tok"  # "tok" class token, "gap" average, "map" attention pooling, "none" all tokens (PaLI-X)
    posemb: str = "learn"  # "learn" or "sincos2d" (fixed)
    representation_size: int = 0  # width of the tanh layer before the head ("pre_logits"); 0: none
    dropout: float = 0.0
    drop_path: float = 0.0  # stochastic depth: rate of the last block, growing linearly from 0 at the first
    parallel: bool = False  # ViT-22B: attention and MLP side by side after one LayerNorm
    qk_norm: bool = False  # ViT-22B: LayerNorm on queries and keys, per head
    qkv_bias: bool = True  # ViT-22B: no
    norm_bias: bool = True  # ViT-22B: no
    scan: bool = False  # blocks stacked on a leading L axis, scanned and rematerialised: compiles in constant time
    moe: MoEConfig | None = None  # V-MoE: the MLPs of `moe_blocks` are mixtures of experts
    moe_blocks: tuple[int, ...] = ()  # 0 ... L-1
    dtype: str = "float32"  # of activations; parameters are always float32

    def __post_init__(self):
        for name in ("width", "depth", "mlp_dim", "num_heads", "patch_size", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"ViTConfig.{name} is {getattr(self, name)}; it must be at least 1.")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not divisible by num_heads {self.num_heads}.")
        if self.posemb == "sincos2d" and self.width % 4:
            raise ValueError(f"sincos2d positions need a width divisible by 4, got {self.width}.")
        p = self.patch_size
        if any(side % p for side in self.image_size):
            nearest = tuple(max(1, round(side / p)) * p for side in self.image_size)
            raise ValueError(f"image_size {self.image_size} is not divisible by patch_size {p}; {nearest} is.")
        _one_of("pool", self.pool, ("tok", "gap", "map", "none"))
        _one_of("posemb", self.posemb, ("learn", "sincos2d"))
        _one_of("dtype", self.dtype, ("float32", "bfloat16"))
        for name in ("dropout", "drop_path"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"ViTConfig.{name} is {getattr(self, name)}; it must be in [0, 1).")
        if (self.moe is None) != (not self.moe_blocks):
            raise ValueError(f"moe and moe_blocks come together, got moe={self.moe} and moe_blocks={self.moe_blocks}.")
        if any(not 0 <= i < self.depth for i in self.moe_blocks):
            raise ValueError(f"moe_blocks {self.moe_blocks} are not all among the {self.depth} blocks, 0 to L-1.")
        if self.moe and self.mlp_dim % self.moe.granularity:
            raise ValueError(f"mlp_dim {self.mlp_dim} is not divisible by granularity {self.moe.granularity}.")
        if self.moe and self.scan:
            raise ValueError("Blocks with and without experts cannot be scanned as one; set scan=False.")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def num_tokens(self) -> int:
        """N: patches, plus one for the class token."""
        return self.grid[0] * self.grid[1] + (self.pool == "tok")

    def replace(self, **changes) -> "ViTConfig":
        return dataclasses.replace(self, **changes)


# width, depth, mlp_dim, num_heads.
VIT_SIZES = {
    # The kit's own: small enough to train in a notebook cell on two CPU cores.
    "tiny": (64, 2, 256, 4),
    # 2106.10270 ("How to train your ViT"), the Ti and S of DeiT; B, L, H: 2010.11929, table 1.
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "H": (1280, 32, 5120, 16),
    # 2106.04560 ("Scaling Vision Transformers"), table 2.
    "g": (1408, 40, 6144, 16),
    "G": (1664, 48, 8192, 16),
    # 2305.13035 (shape-optimised), used by SigLIP and PaliGemma.
    "So400m": (1152, 27, 4304, 16),
    # 2209.06794 (PaLI).
    "e": (1792, 56, 15360, 16),
    # 2302.05442 (ViT-22B), the tower of PaLI-X (2305.18565).
    "22B": (6144, 48, 24576, 48),
    # 2106.05974 (V-MoE) and 2110.03360 (E3) call this one "S": 8 layers, not the 12 of the S above.
    "VMoE-S": (512, 8, 2048, 8),
    # The largest V-MoE, with 32 experts in every other block.
    "VMoE-15B": (1408, 48, 6400, 16),
}

# What makes a block a ViT-22B block. The published count (see tests) fixes the rest: MLP and attention output keep
# their biases, queries, keys, values and LayerNorms have none.
VIT22B_BLOCK = {"parallel": True, "qk_norm": True, "qkv_bias": False, "norm_bias": False}


def vit(name: str, **overrides) -> ViTConfig:
    """The ViT called `name`, "<size>/<patch>", e.g. "B/16"; `overrides` change any field of `ViTConfig`.

    Raises ValueError for an unknown size or field, naming the nearest known one.
    """
    size, slash, patch = name.partition("/")
    if not slash or not patch.isdigit():
        raise ValueError(f"A ViT is named '<size>/<patch>', such as 'B/16'; got {name!r}.")
    _one_of("ViT size", size, VIT_SIZES)
    width, depth, mlp_dim, num_heads = VIT_SIZES[size]
    fields = {"width": width, "depth": depth, "mlp_dim": mlp_dim, "num_heads": num_heads, "patch_size": int(patch)}
    if size == "22B":
        fields |= VIT22B_BLOCK
    known = {field.name for field in dataclasses.fields(ViTConfig)}
    for field in overrides:
        _one_of("field of ViTConfig", field, known)
    if "patch_size" in overrides:
        raise ValueError(f"The patch size is part of the name {name!r}; write it there.")
    return ViTConfig(**fields | overrides)


def vmoe(name: str, where: str, moe: MoEConfig | None = None, **overrides) -> ViTConfig:
    """V-MoE (2106.05974): the ViT called `name` with experts in some of its blocks.

    where: "every-2" is every second block, counted so that the last is one; "last-2" the last two of the odd blocks
    (published: last-2, for H last-5). Any n. For any other set of blocks, use `vit(name, moe=..., moe_blocks=...)`.
    """
    kind, _, n = where.partition("-")
    if kind not in ("last", "every") or not n.isdigit() or int(n) < 1:
        raise ValueError(f"where is 'last-<n>' or 'every-<n>', such as 'last-2'; got {where!r}.")
    config = vit(name, **overrides)
    blocks = tuple(range(1, config.depth, 2))[-int(n) :] if kind == "last" else range(int(n) - 1, config.depth, int(n))
    return config.replace(moe=moe or MoEConfig(), moe_blocks=tuple(blocks))


@dataclasses.dataclass(frozen=True)
class T5Config:
    """An encoder-decoder. The defaults are those of T5 1.1 (1910.10683 and its released checkpoints)."""

    vocab_size: int  # V
    width: int  # D
    num_encoder_layers: int
    num_decoder_layers: int
    mlp_dim: int  # F, of each of the two hidden projections of the gated MLP
    num_heads: int  # H
    head_dim: int  # H * head_dim need not be D
    activation: str = "gelu"  # "gelu" (tanh form) or, UL2, "silu"
    rel_buckets: int = 32  # of relative positions
    rel_max_distance: int = 128  # tokens further apart share a bucket
    tied: bool = False  # logits from the embedding table, scaled by D^-0.5, as in T5 1.0
    dropout: float = 0.0
    moe: MoEConfig | None = None  # encoder: the MLPs of `moe_layers` are mixtures of experts
    moe_layers: tuple[int, ...] = ()  # 0 ...
    decoder_moe: MoEConfig | None = None
    decoder_moe_layers: tuple[int, ...] = ()
    dtype: str = "float32"  # of activations; parameters are always float32

    def __post_init__(self):
        sizes = ("vocab_size", "width", "num_encoder_layers", "num_decoder_layers", "mlp_dim", "num_heads", "head_dim")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"T5Config.{name} is {getattr(self, name)}; it must be at least 1.")
        if self.rel_buckets < 4 or self.rel_buckets % 4:
            raise ValueError(f"rel_buckets must be a multiple of 4 (two sides, near and far), got {self.rel_buckets}.")
        if self.rel_max_distance <= self.rel_buckets // 2:
            raise ValueError(f"rel_max_distance must be over rel_buckets / 2, got {self.rel_max_distance}.")
        _one_of("activation", self.activation, ("gelu", "silu"))
        _one_of("dtype", self.dtype, ("float32", "bfloat16"))
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"T5Config.dropout is {self.dropout}; it must be in [0, 1).")
        for prefix, depth in (("", self.num_encoder_layers), ("decoder_", self.num_decoder_layers)):
            moe, layers = getattr(self, f"{prefix}moe"), getattr(self, f"{prefix}moe_layers")
            if (moe is None) != (not layers):
                raise ValueError(f"{prefix}moe and {prefix}moe_layers come together, got {moe} and {layers}.")
            if any(not 0 <= i < depth for i in layers):
                raise ValueError(f"{prefix}moe_layers {layers} are not all among the {depth} layers, from 0 on.")
            if moe and self.mlp_dim % moe.granularity:
                raise ValueError(f"mlp_dim {self.mlp_dim} is not divisible by granularity {moe.granularity}.")
        if self.moe and self.moe.router == "soft":
            raise ValueError("The slots of Soft MoE are parameters for one length of text; use another router.")
        if self.decoder_moe and self.decoder_moe.router != "top_k":
            raise ValueError(
                f"Router {self.decoder_moe.router!r} is not causal: what the decoder did with a token would depend on "
                "later ones, which do not exist yet when text is generated; use 'top_k'."
            )
        if self.moe and self.decoder_moe and self.moe.num_experts != self.decoder_moe.num_experts:
            both = f"{self.moe.num_experts} and {self.decoder_moe.num_experts}"
            raise ValueError(f"Encoder and decoder need equally many experts, to be reported in one table; got {both}.")

    def replace(self, **changes) -> "T5Config":
        return dataclasses.replace(self, **changes)


# width, layers of each stack, mlp_dim, num_heads, head_dim.
T5_SIZES = {
    "small": (512, 8, 1024, 6, 64),
    "base": (768, 12, 2048, 12, 64),
    "large": (1024, 24, 2816, 16, 64),
    "xl": (2048, 24, 5120, 32, 64),
    "xxl": (4096, 24, 10240, 64, 64),
}
T5_MODELS = {
    # The kit's own: its vocabulary of 2,048, small enough to train in a notebook cell on two CPU cores.
    "tiny": (64, 2, 128, 4, 16, 2048, "gelu"),
    **{f"1.1-{size}": (*row, 32128, "gelu") for size, row in T5_SIZES.items()},  # 1910.10683, released later
    **{f"mt5-{size}": (*row, 250112, "gelu") for size, row in T5_SIZES.items()},  # 2010.11934
    "ul2-20b": (4096, 32, 16384, 16, 256, 32128, "silu"),  # 2205.05131
}

# The mixtures of Sparse Upcycling for language (2212.05055, section 3.1): nothing renormalised, no router noise. An
# encoder expert takes C = 2 times its share of the tokens; decoder tokens choose K = 2 experts, with room for all
# choices if they are even, and the load balancing loss of flaxformer's configurations.
T5_ENCODER_MOE = MoEConfig(router="expert_choice", capacity_factor=2.0, noise_std=0.0)
T5_DECODER_MOE = MoEConfig(
    num_selected=2, capacity_factor=1.0, noise_std=0.0, importance_weight=0.0, load_weight=0.0, balance_weight=0.01
)


def t5(name: str, **overrides) -> T5Config:
    """The encoder-decoder called `name`, e.g. "1.1-base", "mt5-xl" or "tiny"; `overrides` change any field.

    Raises ValueError for an unknown name or field, naming the nearest known one.
    """
    _one_of("T5", name, T5_MODELS)
    width, depth, mlp_dim, num_heads, head_dim, vocab_size, activation = T5_MODELS[name]
    known = {field.name for field in dataclasses.fields(T5Config)}
    for field in overrides:
        _one_of("field of T5Config", field, known)
    fields = {"width": width, "num_encoder_layers": depth, "num_decoder_layers": depth, "mlp_dim": mlp_dim}
    fields |= {"num_heads": num_heads, "head_dim": head_dim, "vocab_size": vocab_size, "activation": activation}
    return T5Config(**fields | overrides)


def sparse_t5(
    name: str, moe: MoEConfig = T5_ENCODER_MOE, decoder_moe: MoEConfig = T5_DECODER_MOE, **overrides
) -> T5Config:
    """Sparse Upcycling's T5 (2212.05055): the T5 called `name` with experts in layers 1, 3, 5, ... of both stacks."""
    config = t5(name, **overrides)
    encoder, decoder = (tuple(range(1, n, 2)) for n in (config.num_encoder_layers, config.num_decoder_layers))
    return config.replace(moe=moe, moe_layers=encoder, decoder_moe=decoder_moe, decoder_moe_layers=decoder)
