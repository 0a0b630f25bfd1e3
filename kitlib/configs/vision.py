"""Vision Transformers, dense, sparse and ensembled: their fields and published sizes. See `kitlib.configs`."""

import dataclasses

from kitlib.configs.arguments import one_of, whole
from kitlib.configs.parts import REMAT, BatchEnsembleConfig, Config, E3Config, MoEConfig


@dataclasses.dataclass(frozen=True, repr=False)
class ViTConfig(Config):
    """A Vision Transformer. The defaults are those of "An Image is Worth 16x16 Words" (2010.11929).

    What each field means stands beside it, in kitlib/configs/vision.py.
    """

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
    layer_scale: float = 0.0  # initial value of a factor per channel on each branch (2103.17239, DINOv2); 0: none
    activation: str = "gelu"  # of MLPs and experts: "gelu" (tanh form) or "gelu_exact" (PyTorch's, DINOv2)
    scan: bool = False  # equal blocks are stacked and scanned: compiles in constant time, see `models.stacking`
    remat: str = "none"  # the backward pass computes blocks again: "full", or all but matrix products: "dots"
    moe: MoEConfig | None = None  # V-MoE: the MLPs of `moe_blocks` are mixtures of experts
    moe_blocks: tuple[int, ...] = ()  # block numbers, 0 ... L-1
    e3: E3Config | None = None  # the experts are divided among M members: logits float32[M, B, V]
    batch_ensemble: BatchEnsembleConfig | None = None  # M members by rank-one factors: logits float32[M, B, V]
    dtype: str = "float32"  # of activations; parameters are always float32

    def __post_init__(self):
        counts = ("width", "depth", "mlp_dim", "num_heads", "patch_size", "channels")
        self.check_fields(counts=counts, rates=("dropout", "drop_path"))
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(f"image_size is {self.image_size}; it must be a height and a width in pixels, 1 or more.")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not divisible by num_heads {self.num_heads}.")
        if self.posemb == "sincos2d" and self.width % 4:
            raise ValueError(f"sincos2d positions need a width divisible by 4, got {self.width}.")
        p = self.patch_size
        if any(side % p for side in self.image_size):
            nearest = tuple(max(1, round(side / p)) * p for side in self.image_size)
            raise ValueError(f"image_size {self.image_size} is not divisible by patch_size {p}; {nearest} is.")
        one_of("pool", self.pool, ("tok", "gap", "map", "none"))
        one_of("posemb", self.posemb, ("learn", "sincos2d"))
        one_of("activation", self.activation, ("gelu", "gelu_exact"))
        if self.activation != "gelu" and self.pool == "map":
            raise ValueError("The MLP of the attention pooling has the tanh form of GELU; use activation='gelu'.")
        one_of("remat", self.remat, REMAT)
        one_of("dtype", self.dtype, ("float32", "bfloat16"))
        if (self.moe is None) != (not self.moe_blocks):
            raise ValueError(f"moe and moe_blocks come together, got moe={self.moe} and moe_blocks={self.moe_blocks}.")
        if any(not 0 <= i < self.depth for i in self.moe_blocks):
            raise ValueError(f"moe_blocks {self.moe_blocks} are not all among the {self.depth} blocks, 0 to L-1.")
        if self.moe and self.mlp_dim % self.moe.granularity:
            raise ValueError(f"mlp_dim {self.mlp_dim} is not divisible by granularity {self.moe.granularity}.")
        if self.e3:
            if not self.moe:
                raise ValueError("E3 divides experts among its members; it needs moe and moe_blocks.")
            self.e3.check(self.moe)
            if self.parallel and self.e3.tiling == "lazy":
                raise ValueError("A parallel block has nothing between attention and MLP; use tiling='block'.")
        if self.batch_ensemble:
            if self.e3:
                raise ValueError("A BatchEnsemble is not an E3; set e3=None.")
            if any(not 0 <= i < self.depth or i in self.moe_blocks for i in self.batch_ensemble.blocks):
                blocks, free = self.batch_ensemble.blocks, self.depth - len(self.moe_blocks)
                raise ValueError(f"batch_ensemble.blocks {blocks} are not all among the {free} blocks without experts.")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def num_tokens(self) -> int:
        """N: patches, plus one for the class token."""
        return self.grid[0] * self.grid[1] + (self.pool == "tok")

    @property
    def num_members(self) -> int | None:
        """M, the leading axis of the logits; None where they have no such axis."""
        if self.e3:
            return None if self.e3.tiling == "none" else self.e3.num_members
        return self.batch_ensemble.num_members if self.batch_ensemble else None

    @property
    def tiled_block(self) -> int | None:
        """The block in or before which each token is copied for each of M members; None: nothing is copied."""
        if self.num_members is None:
            return None
        return min(self.moe_blocks if self.e3 else self.batch_ensemble.blocks)

    @property
    def tiled_after_attention(self) -> bool:
        """Whether tokens are copied after the attention of `tiled_block`, not before that block."""
        return self.e3 is not None and self.e3.tiling == "lazy"


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

# The fields that make a block a ViT-22B block. The published parameter count (see the tests) determines the rest: MLP
# and attention output keep their biases; queries, keys, values and LayerNorms have none.
VIT22B_BLOCK = {"parallel": True, "qk_norm": True, "qkv_bias": False, "norm_bias": False}


def vit(name: str, **overrides) -> ViTConfig:
    """The ViT called `name`, "<size>/<patch>", e.g. "B/16"; `overrides` change any field of `ViTConfig`.

    Raises ValueError for an unknown size or field, naming the nearest known one.
    """
    size, _, patch = name.partition("/") if isinstance(name, str) else ("", "", "")
    if not patch.isdecimal():
        raise ValueError(f"A ViT is named '<size>/<patch>', such as 'B/16'; got {name!r}.")
    one_of("ViT size", size, VIT_SIZES)
    width, depth, mlp_dim, num_heads = VIT_SIZES[size]
    fields = {"width": width, "depth": depth, "mlp_dim": mlp_dim, "num_heads": num_heads, "patch_size": int(patch)}
    if size == "22B":
        fields |= VIT22B_BLOCK
    if "patch_size" in overrides:
        raise ValueError(f"The patch size is part of the name, {name!r}: write {size}/{overrides['patch_size']} there.")
    ViTConfig.check_names(overrides)
    return ViTConfig(**fields | overrides)


def vmoe(name: str, where: str, moe: MoEConfig | None = None, **overrides) -> ViTConfig:
    """V-MoE (2106.05974): the ViT called `name` with experts in some of its blocks.

    where: "every-<n>" is blocks n - 1, 2n - 1, ..., for n = 2 blocks 1, 3, 5, ...; "last-<n>" is the last n of blocks
    1, 3, 5, ... (published: last-2, for H last-5). For any other set, use `vit(name, moe=..., moe_blocks=...)`.
    """
    kind, _, n = where.partition("-") if isinstance(where, str) else ("", "", "")
    if kind not in ("last", "every") or not n.isdecimal():
        raise ValueError(f"where is {where!r}; expected 'last-<n>' or 'every-<n>', such as 'last-2'.")
    config = vit(name, **overrides)
    odd = range(1, config.depth, 2)
    n = whole(f"n in {where!r} for {config.depth} blocks", int(n), 1, len(odd) if kind == "last" else config.depth)
    blocks = odd[-n:] if kind == "last" else range(n - 1, config.depth, n)
    return config.replace(moe=MoEConfig() if moe is None else moe, moe_blocks=tuple(blocks))


def e3(name: str, where: str, num_members: int = 2, moe: MoEConfig | None = None, **overrides) -> ViTConfig:
    """E3 (2110.03360): the V-MoE of `vmoe(name, where)`, its experts divided among `num_members` members."""
    return vmoe(name, where, moe, **overrides).replace(e3=E3Config(num_members))
