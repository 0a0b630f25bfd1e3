"""Parameters and FLOPs of every configuration in closed form: no model is built, 22B takes no longer than Ti.

One multiply-add counts as two FLOPs. Only matrix products are counted; norms, softmax, GELU and biases add a few %.

Built in notebooks/01_vit_from_pixels_to_logits.ipynb, T5 in notebooks/08_t5_and_upcycling.ipynb.
"""

from kitlib.configs import MoEConfig, T5Config, ViTConfig
from kitlib.configs.arguments import instance
from kitlib.moe import capacity
from kitlib.moe.e3 import experts_of


def vit_parameters(c: ViTConfig) -> dict[str, int]:
    """Number of parameters by part; the whole model has `sum(vit_parameters(c).values())`.

    Parts: "embedding", "cls", "positions", "blocks", "encoder_norm" (together the tower), "map_head", "pre_logits",
    "head". Publications count different parts: see PUBLISHED in tests/models/test_flops.py.
    """
    d, f, mixtures = instance("c", c, ViTConfig).width, c.mlp_dim, len(c.moe_blocks)
    features = c.representation_size or d
    return {
        "embedding": c.patch_size**2 * c.channels * d + d,
        "cls": d if c.pool == "tok" else 0,
        "positions": c.num_tokens * d if c.posemb == "learn" else 0,
        "blocks": c.depth * (_attention(c) + _norm(c) * (1 if c.parallel else 2) + (2 * d if c.layer_scale else 0))
        + (c.depth - mixtures) * _mlp(d, f)
        + (mixtures * _moe(c) if mixtures else 0)
        + (_rank_one(c) if c.batch_ensemble else 0),
        "encoder_norm": _norm(c),
        "map_head": d + _attention(c) + _norm(c) + _mlp(d, f) if c.pool == "map" else 0,
        "pre_logits": d * c.representation_size + c.representation_size,
        "head": features * c.num_classes + c.num_classes + (_rank_one_head(c) if c.batch_ensemble else 0),
    }


def vit_forward_flops(c: ViTConfig) -> dict[str, int]:
    """FLOPs of the forward pass by part, per image; a training step takes about three times as many.

    Experts are counted by their intended work: K experts per token under token choice, the capacity factor under expert
    choice and Soft MoE, including dropped tokens and empty slots. In an ensemble, everything after the copying of the
    tokens is counted for each of the M members (2110.03360: E3 is cheap because tokens are copied late).
    """
    d, f, n = instance("c", c, ViTConfig).width, c.mlp_dim, c.num_tokens
    m, first = c.num_members or 1, c.depth if c.tiled_block is None else c.tiled_block
    # The numbers of attention layers and of dense MLPs; layers after the copying of the tokens count M times.
    attentions = c.depth + (m - 1) * max(0, c.depth - first - c.tiled_after_attention)
    mlps = sum(m if i >= first else 1 for i in range(c.depth) if i not in c.moe_blocks)
    patches = c.grid[0] * c.grid[1]
    block = {
        "projections": 4 * n * d * d,  # query, key, value, output
        "attention": 2 * n * n * d,  # scores and weighted sum, all heads together
        "mlp": 2 * n * d * f,
    }
    # The probe is a single query; keys and values are computed for every token.
    map_head = 2 * d * d + 2 * n * d * d + 2 * n * d + 2 * d * f if c.pool == "map" else 0
    positions_kept = n if c.pool == "none" else 1
    features = c.representation_size or d
    macs = {
        "embedding": patches * c.patch_size**2 * c.channels * d,
        "projections": attentions * block["projections"],
        "attention": attentions * block["attention"],
        "mlp": mlps * block["mlp"],
        **(_moe_macs(c) if c.moe else {}),
        "map_head": m * map_head,
        "head": m * positions_kept * (d * c.representation_size + features * c.num_classes),
    }
    return {name: 2 * value for name, value in macs.items()}


def t5_parameters(c: T5Config) -> dict[str, int]:
    """Number of parameters by part; the whole model has `sum(t5_parameters(c).values())`.

    Parts: "embedding"; "encoder" and "decoder", each with its relative positions and final norm; "logits".
    """
    d, projections = instance("c", c, T5Config).width, 4 * c.width * c.num_heads * c.head_dim
    outside = c.num_heads * c.rel_buckets + d

    def stack(layers: int, attentions: int, moe: MoEConfig | None, sparse: int) -> int:
        experts = (moe.num_experts * _gated_mlp(c) // moe.granularity + d * moe.num_experts) if moe else 0
        norms = d * (attentions + 1)
        return layers * (attentions * projections + norms) + (layers - sparse) * _gated_mlp(c) + sparse * experts

    return {
        "embedding": c.vocab_size * d,
        "encoder": outside + stack(c.num_encoder_layers, 1, c.moe, len(c.moe_layers)),
        "decoder": outside + stack(c.num_decoder_layers, 2, c.decoder_moe, len(c.decoder_moe_layers)),
        "logits": 0 if c.tied else d * c.vocab_size,
    }


def t5_forward_flops(c: T5Config, num_inputs: int, num_targets: int) -> dict[str, int]:
    """FLOPs of the forward pass by part, per example with N = num_inputs and M = num_targets tokens.

    Experts are counted as in `vit_forward_flops`. Masked attention scores are counted, since they are computed.
    """
    n, m, inner = num_inputs, num_targets, instance("c", c, T5Config).num_heads * c.head_dim
    encoder, decoder = c.num_encoder_layers, c.num_decoder_layers
    mixtures = [(c.moe, len(c.moe_layers), n), (c.decoder_moe, len(c.decoder_moe_layers), m)]
    macs = {
        "encoder_projections": encoder * 4 * n * c.width * inner,
        "encoder_attention": encoder * 2 * n * n * inner,
        "encoder_mlp": (encoder - len(c.moe_layers)) * n * _gated_mlp(c),
        "decoder_projections": decoder * 4 * m * c.width * inner,
        "decoder_attention": decoder * 2 * m * m * inner,
        "cross_projections": decoder * 2 * (n + m) * c.width * inner,  # keys and values are those of the N inputs
        "cross_attention": decoder * 2 * m * n * inner,
        "decoder_mlp": (decoder - len(c.decoder_moe_layers)) * m * _gated_mlp(c),
        "router": sum(layers * tokens * c.width * moe.num_experts for moe, layers, tokens in mixtures if moe),
        "experts": sum(
            round(layers * _rows(moe, tokens) * _gated_mlp(c) / moe.granularity)
            for moe, layers, tokens in mixtures
            if moe
        ),
        "logits": m * c.width * c.vocab_size,
    }
    return {name: 2 * value for name, value in macs.items()}


def _gated_mlp(c: T5Config) -> int:
    return 3 * c.width * c.mlp_dim


def _attention(c: ViTConfig) -> int:
    d = c.width
    return 4 * d * d + d + 3 * d * c.qkv_bias + 2 * (d // c.num_heads) * c.qk_norm


def _mlp(d: int, f: int) -> int:
    return 2 * d * f + f + d


def _rank_one(c: ViTConfig) -> int:
    """The parameters that BatchEnsemble adds to the blocks: two vectors per kernel and member, M - 1 more biases."""
    m, d, f = c.batch_ensemble.num_members, c.width, c.mlp_dim
    mlp = 2 * m * (d + f) + (m - 1) * (f + d)
    attention = 4 * m * 2 * d + (m - 1) * (d + 3 * d * c.qkv_bias)
    return len(c.batch_ensemble.blocks) * (mlp + attention * c.batch_ensemble.attention)


def _rank_one_head(c: ViTConfig) -> int:
    m, features = c.batch_ensemble.num_members, c.representation_size or c.width
    return m * (features + c.num_classes) + (m - 1) * c.num_classes if c.num_classes else 0


def _moe(c: ViTConfig) -> int:
    m, d = c.moe, c.width
    choices = experts_of(c.e3, m.num_experts).size if c.e3 and c.e3.routers == "own" else m.num_experts
    router = d * choices * (capacity(m, c.num_tokens) if m.router == "soft" else 1) + (m.router == "soft")
    return m.num_experts * _mlp(d, c.mlp_dim // m.granularity) + router


def _moe_macs(c: ViTConfig) -> dict[str, int]:
    m, d, n = c.moe, c.width, c.num_tokens
    if m.router == "soft":  # slots per image; logits, dispatch and combine cost S * E * C * D each
        slots = m.num_experts * capacity(m, n)
        router, rows = 3 * n * slots * d, slots
    elif c.e3:
        router, rows = n * d * experts_of(c.e3, m.num_experts).size, c.e3.num_members * _rows(m, n)
    else:
        router, rows = n * d * m.num_experts, _rows(m, n)
    layers = len(c.moe_blocks)
    return {"router": layers * router, "experts": round(layers * rows * 2 * d * c.mlp_dim / m.granularity)}


def _rows(m: MoEConfig, num_tokens: int) -> float:
    """Rows that all experts together process for `num_tokens` tokens."""
    if m.router == "top_k":
        return num_tokens * m.num_selected
    return num_tokens * m.capacity_factor if m.capacity_factor else m.capacity * m.num_experts


def _norm(c: ViTConfig) -> int:
    return c.width * (1 + c.norm_bias)
