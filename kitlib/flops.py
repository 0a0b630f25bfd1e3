"""Parameters and FLOPs of every configuration in closed form: no model is built, 22B costs as little as Ti.

One multiply-add counts as two FLOPs. Only matrix multiplications are counted; norms, softmax, GELU, biases add a few %.

Built in notebooks/01_vit_from_pixels_to_logits.ipynb.
"""

from kitlib.configs import ViTConfig
from kitlib.moe import capacity


def vit_parameters(c: ViTConfig) -> dict[str, int]:
    """Number of parameters by part; the whole model is `sum(vit_parameters(c).values())`.

    Parts: "embedding", "cls", "positions", "blocks", "encoder_norm" (together the tower), "map_head", "pre_logits",
    "head". Publications count different parts: see PUBLISHED in tests/test_flops.py.
    """
    d, f, mixtures = c.width, c.mlp_dim, len(c.moe_blocks)
    features = c.representation_size or d
    return {
        "embedding": c.patch_size**2 * c.channels * d + d,
        "cls": d if c.pool == "tok" else 0,
        "positions": c.num_tokens * d if c.posemb == "learn" else 0,
        "blocks": c.depth * (_attention(c) + _norm(c) * (1 if c.parallel else 2))
        + (c.depth - mixtures) * _mlp(d, f)
        + (mixtures * _moe(c) if mixtures else 0),
        "encoder_norm": _norm(c),
        "map_head": d + _attention(c) + _norm(c) + _mlp(d, f) if c.pool == "map" else 0,
        "pre_logits": d * c.representation_size + c.representation_size,
        "head": features * c.num_classes + c.num_classes,
    }


def vit_forward_flops(c: ViTConfig) -> dict[str, int]:
    """FLOPs of one image's forward pass by part; a training step costs about three times as much.

    Experts are counted by what they are asked to do: K experts a token under token choice, the capacity factor under
    expert choice and Soft MoE, whatever is dropped or left empty.
    """
    d, f, n = c.width, c.mlp_dim, c.num_tokens
    patches = c.grid[0] * c.grid[1]
    block = {
        "projections": 4 * n * d * d,  # query, key, value, output
        "attention": 2 * n * n * d,  # scores and weighted sum, all heads together
        "mlp": 2 * n * d * f,
    }
    # The probe is one query; keys and values are made for every token.
    map_head = 2 * d * d + 2 * n * d * d + 2 * n * d + 2 * d * f if c.pool == "map" else 0
    positions_kept = n if c.pool == "none" else 1
    features = c.representation_size or d
    macs = {
        "embedding": patches * c.patch_size**2 * c.channels * d,
        **{name: c.depth * value for name, value in block.items()},
        "mlp": (c.depth - len(c.moe_blocks)) * block["mlp"],
        **(_moe_macs(c) if c.moe else {}),
        "map_head": map_head,
        "head": positions_kept * (d * c.representation_size + features * c.num_classes),
    }
    return {name: 2 * value for name, value in macs.items()}


def _attention(c: ViTConfig) -> int:
    d = c.width
    return 4 * d * d + d + 3 * d * c.qkv_bias + 2 * (d // c.num_heads) * c.qk_norm


def _mlp(d: int, f: int) -> int:
    return 2 * d * f + f + d


def _moe(c: ViTConfig) -> int:
    m, d = c.moe, c.width
    router = d * m.num_experts * (capacity(m, c.num_tokens) if m.router == "soft" else 1) + (m.router == "soft")
    return m.num_experts * _mlp(d, c.mlp_dim) + router


def _moe_macs(c: ViTConfig) -> dict[str, int]:
    m, d, n = c.moe, c.width, c.num_tokens
    if m.router == "soft":  # slots per image; logits, mixing in and mixing out cost S * E * C * D each
        slots = m.num_experts * capacity(m, n)
        router, rows = 3 * n * slots * d, slots
    else:
        router = n * d * m.num_experts
        rows = n * (m.num_selected if m.router == "top_k" else m.capacity_factor or m.capacity * m.num_experts / n)
    layers = len(c.moe_blocks)
    return {"router": layers * router, "experts": round(layers * rows * 2 * d * c.mlp_dim)}


def _norm(c: ViTConfig) -> int:
    return c.width * (1 + c.norm_bias)
