"""Encoder-decoders, dense and sparse: their fields and published sizes. See `kitlib.configs`."""

import dataclasses
from typing import Self

from kitlib.configs.arguments import one_of
from kitlib.configs.parts import REMAT, Config, MoEConfig


@dataclasses.dataclass(frozen=True, repr=False)
class T5Config(Config):
    """An encoder-decoder. The defaults are those of T5 1.1 (1910.10683 and its released checkpoints)."""

    vocab_size: int  # V
    width: int  # D
    num_encoder_layers: int
    num_decoder_layers: int
    mlp_dim: int  # F, of each of the two hidden projections of the gated MLP
    num_heads: int  # H
    head_dim: int  # H * head_dim need not be D
    activation: str = "gelu"  # "gelu" (tanh form) or, UL2, "silu"
    rel_buckets: int = 32  # number of buckets of relative positions
    rel_max_distance: int = 128  # larger distances share a bucket
    tied: bool = False  # logits from the embedding table, scaled by D^-0.5, as in T5 1.0
    dropout: float = 0.0
    moe: MoEConfig | None = None  # encoder: the MLPs of `moe_layers` are mixtures of experts
    moe_layers: tuple[int, ...] = ()  # layer numbers, from 0
    decoder_moe: MoEConfig | None = None
    decoder_moe_layers: tuple[int, ...] = ()
    scan: bool = False  # equal layers are stacked and scanned: compiles in constant time, see `models.stacking`
    remat: str = "none"  # the backward pass computes layers again: "full", or all but matrix products: "dots"
    dtype: str = "float32"  # of activations; parameters are always float32

    def __post_init__(self):
        sizes = ("vocab_size", "width", "num_encoder_layers", "num_decoder_layers", "mlp_dim", "num_heads", "head_dim")
        self.check_fields(counts=sizes, rates=("dropout",))
        if self.rel_buckets < 4 or self.rel_buckets % 4:
            raise ValueError(f"rel_buckets must be a multiple of 4 (two sides, near and far), got {self.rel_buckets}.")
        if self.rel_max_distance <= self.rel_buckets // 2:
            raise ValueError(f"rel_max_distance must be over rel_buckets / 2, got {self.rel_max_distance}.")
        one_of("activation", self.activation, ("gelu", "silu"))
        one_of("remat", self.remat, REMAT)
        one_of("dtype", self.dtype, ("float32", "bfloat16"))
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
            why = "what the decoder did with a token would depend on later ones"
            raise ValueError(f"Router {self.decoder_moe.router!r} is not causal: {why}; use 'top_k'.")
        if self.moe and self.decoder_moe and self.moe.num_experts != self.decoder_moe.num_experts:
            both = f"{self.moe.num_experts} and {self.decoder_moe.num_experts}"
            raise ValueError(f"Encoder and decoder need equally many experts, to be reported in one table; got {both}.")

    def for_generation(self) -> Self:
        """The same model with `MoEConfig.for_generation` in both stacks."""
        stacks = {name: getattr(self, name) for name in ("moe", "decoder_moe")}
        return self.replace(**{name: moe.for_generation() for name, moe in stacks.items() if moe})


# width, layers of each stack, mlp_dim, num_heads, head_dim.
T5_SIZES = {
    "small": (512, 8, 1024, 6, 64),
    "base": (768, 12, 2048, 12, 64),
    "large": (1024, 24, 2816, 16, 64),
    "xl": (2048, 24, 5120, 32, 64),
    "xxl": (4096, 24, 10240, 64, 64),
}
T5_MODELS = {
    # The kit's own, with its vocabulary of 2,048: small enough to train in a notebook cell on two CPU cores.
    "tiny": (64, 2, 128, 4, 16, 2048, "gelu"),
    **{f"1.1-{size}": (*row, 32128, "gelu") for size, row in T5_SIZES.items()},  # 1910.10683, released later
    **{f"mt5-{size}": (*row, 250112, "gelu") for size, row in T5_SIZES.items()},  # 2010.11934
    "ul2-20b": (4096, 32, 16384, 16, 256, 32128, "silu"),  # 2205.05131
}

# The mixtures of experts of Sparse Upcycling for language (2212.05055, section 3.1), without renormalisation and router
# noise. Encoder: each expert takes C = 2 times its share of the tokens. Decoder: each token chooses K = 2 experts,
# whose capacity is enough if the choices are even; the load balancing loss is that of flaxformer's configurations.
T5_ENCODER_MOE = MoEConfig(router="expert_choice", capacity_factor=2.0, noise_std=0.0)
T5_DECODER_MOE = MoEConfig(
    num_selected=2, capacity_factor=1.0, noise_std=0.0, importance_weight=0.0, load_weight=0.0, balance_weight=0.01
)


def t5(name: str, **overrides) -> T5Config:
    """The encoder-decoder called `name`, e.g. "1.1-base", "mt5-xl" or "tiny"; `overrides` change any field.

    Raises ValueError for an unknown name or field, naming the nearest known one.
    """
    one_of("T5", name, T5_MODELS)
    width, depth, mlp_dim, num_heads, head_dim, vocab_size, activation = T5_MODELS[name]
    T5Config.check_names(overrides)
    sizes = {"width": width, "num_encoder_layers": depth, "num_decoder_layers": depth, "mlp_dim": mlp_dim}
    sizes |= {"num_heads": num_heads, "head_dim": head_dim, "vocab_size": vocab_size}
    return T5Config(**sizes | {"activation": activation} | overrides)


def sparse_t5(name: str, moe=T5_ENCODER_MOE, decoder_moe=T5_DECODER_MOE, **overrides) -> T5Config:
    """Sparse Upcycling's T5 (2212.05055): the T5 called `name` with experts in layers 1, 3, 5, ... of both stacks."""
    config = t5(name, **overrides)
    encoder, decoder = (tuple(range(1, n, 2)) for n in (config.num_encoder_layers, config.num_decoder_layers))
    return config.replace(moe=moe, moe_layers=encoder, decoder_moe=decoder_moe, decoder_moe_layers=decoder)
