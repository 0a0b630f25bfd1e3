import jax
import jax.numpy as jnp
import pytest
import zoo

from kitlib import configs
from kitlib.models import flops
from kitlib.models.checkpoint import expected_shapes
from kitlib.models.t5 import T5
from kitlib.models.vit import ViT
from kitlib.parallel import ahead_of_time

# Publications count different parts of a model: each row lists the parts that its number includes.
TOWER = ("embedding", "cls", "positions", "blocks", "encoder_norm")
WHOLE = (*TOWER, "map_head", "pre_logits", "head")
JFT = {"num_classes": 18291}
GAP_JFT = JFT | {"pool": "gap"}

PUBLISHED = [  # exactly
    # vision_transformer's own table of sizes: 1,000 classes, class token, no pre_logits.
    ({}, WHOLE, {"Ti/16": 5_717_416, "S/16": 22_050_664, "B/16": 86_567_656, "L/16": 304_326_632, "H/14": 632_045_800}),
    # B/16 of the imagenet21k and augreg files: 21,843 classes.
    ({"num_classes": 21843}, WHOLE, {"B/16": 102_595_923}),
    # The dense parents of Sparse Upcycling (2212.05055): JFT head of 18,291 classes, average pooling.
    (GAP_JFT, WHOLE, {"S/32": 29_535_219, "S/16": 28_706_931, "B/32": 101_519_475, "B/16": 99_862_899}),
    (GAP_JFT, WHOLE, {"L/32": 324_256_627, "L/16": 322_047_859}),
    # ViT-22B (2302.05442): the published 21,743 M are only the matrices of the blocks; the tower has a few more.
    ({"pool": "none", "num_classes": 0}, TOWER, {"22B/14": 21_750_546_432}),
]
PUBLISHED_ROUNDED = [  # in millions, to the digit printed
    # V-MoE and E3 (2106.05974, 2110.03360): JFT head, class token, pre_logits.
    (JFT | {"representation_size": 512}, WHOLE, {"VMoE-S/32": "36.5"}),
    (JFT | {"representation_size": 768}, WHOLE, {"B/32": "102.1", "B/16": "100.5"}),
    (JFT | {"representation_size": 1024}, WHOLE, {"L/32": "325.3", "L/16": "323.1"}),
    (JFT | {"representation_size": 1280}, WHOLE, {"H/14": "655.8"}),
    # Towers without heads (big_vision): no class token.
    ({"pool": "gap"}, TOWER, {"Ti/16": "5.524", "S/16": "21.665", "B/16": "85.797", "L/16": "303.300"}),
    ({"pool": "gap"}, TOWER, {"H/14": "630.762", "g/14": "1011.200", "G/14": "1842.772", "e/14": "3805.418"}),
    ({"pool": "gap"}, TOWER, {"So400m/14": "412.442"}),
    # ViT-e as printed in PaLI: tower, attention pooling and the 29,593 classes of JFT-3B.
    ({"pool": "map", "num_classes": 29593}, WHOLE, {"e/14": "3926"}),
]
ROWS = [(name, *row[:2], count) for row in PUBLISHED + PUBLISHED_ROUNDED for name, count in row[2].items()]


# V-MoE (2106.05974) in millions, E = 32, to the digit printed. Columns: size, representation size, last-n; the count of
# last-n with the JFT head and pre_logits, and with 1,000 classes at 384 px (H: 378) without pre_logits; every-2.
VMOE = [
    ("VMoE-S/32", 512, "last-2", 166.7, 157.6, 296.9),
    ("B/32", 768, "last-2", 395.0, 381.1, 980.6),
    ("B/16", 768, "last-2", 393.3, 379.7, 979.0),
    ("L/32", 1024, "last-2", 845.8, 827.1, 3_448.2),
    ("L/16", 1024, "last-2", 843.6, 825.2, 3_446.0),
    ("H/14", 1280, "last-5", 2_688.6, 2_665.5, 7_160.8),
]


def part_of(name: str) -> str:
    """The part in flops.vit_parameters that counts this leaf of the tree of parameters."""
    top = name.split("/")[0]
    if top == "Transformer":
        return "encoder_norm" if name.startswith("Transformer/encoder_norm") else "blocks"
    return {"pos_embedding": "positions", "MAPHead_0": "map_head"}.get(top, top)


def counted(config, parts=None) -> int:
    """Number of parameters of the real model in these parts, or in all, from shapes only."""
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.size
              for path, leaf in jax.tree_util.tree_leaves_with_path(expected_shapes(config))}  # fmt: skip
    return sum(size for name, size in leaves.items() if parts is None or part_of(name) in parts)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "overrides", "parts", "published"), ROWS)
def test_published_parameter_counts(name, overrides, parts, published):
    config = configs.vit(name, scan=isinstance(published, str) or name.startswith("22B"), **overrides)
    count = counted(config, parts)
    digits = len(str(published).partition(".")[2])
    assert published == (count if isinstance(published, int) else f"{count / 1e6:.{digits}f}")
    assert sum(flops.vit_parameters(config)[part] for part in parts) == count


def test_every_published_size_is_counted():
    assert {row[0].split("/")[0] for row in ROWS} | {"VMoE-15B"} == set(configs.VIT_SIZES) - {"tiny"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "representation", "last", "upstream", "finetuned", "every_2"), VMOE)
def test_published_mixture_counts(name, representation, last, upstream, finetuned, every_2):
    jft, side = JFT | {"representation_size": representation}, 378 if name.startswith("H") else 384
    for config, published in [
        (configs.vmoe(name, last, **jft), upstream),
        (configs.vmoe(name, last, image_size=(side, side)), finetuned),
        (configs.vmoe(name, "every-2", **jft), every_2),
    ]:
        assert round(counted(config, WHOLE) / 1e6, 1) == published
        assert sum(flops.vit_parameters(config).values()) == counted(config, WHOLE)


@pytest.mark.slow
def test_other_published_mixture_counts():
    # The upcycled models of Sparse Upcycling: 32 experts in the last half of the blocks; with JFT head and average
    # pooling, or with class token and 1,000 classes.
    for overrides, published in (
        (GAP_JFT, {"S/32": 249_380_595, "S/16": 248_552_307, "B/32": 980_039_283, "B/16": 978_382_707}),
        ({}, {"Ti/16": 60_786_472, "B/16": 965_087_464, "L/16": 3_427_186_664}),
        ({"pool": "gap"}, {"B/16": 965_085_928}),
    ):
        for name, number in published.items():
            depth = configs.vit(name).depth
            moe = {"moe": configs.MoEConfig(), "moe_blocks": tuple(range(depth // 2, depth))}
            assert counted(configs.vit(name, **moe, **overrides), WHOLE) == number
    # 24 of 48 blocks with 32 experts, patch 14 at 224 px, 29,593 classes, no pre_logits: published as 14,705.1 M.
    config = configs.vmoe("VMoE-15B/14", "every-2", num_classes=29593)
    assert len(config.moe_blocks) == 24 and round(counted(config, WHOLE) / 1e6, 1) == 14_705.1
    assert sum(flops.vit_parameters(config).values()) == counted(config, WHOLE)


@pytest.mark.parametrize("name", zoo.VITS)
def test_closed_form_parts_equal_the_tree(name):
    config = zoo.VITS[name].replace(image_size=(28, 14))
    for part, count in flops.vit_parameters(config).items():
        assert counted(config, (part,)) == count, part


def test_published_throughput_is_the_published_utilisation():
    """ViT-22B (2302.05442) has 21,743 M in the matrices of its blocks, 48 times 12 D^2: 4 D^2 of attention, 8 D^2 of an
    MLP with F = 4 D. It uses 54.9 % of its chips. Per token, a training step takes 6 FLOPs per parameter of the blocks,
    and 12 L D N for the scores. (1,150 tokens per second and chip, and 275 TFLOP/s per chip, are quoted from memory;
    54.9 % confirms them.)"""
    c = configs.vit("22B/14", image_size=(224, 224), pool="none", num_classes=0, scan=True)
    blocks = jax.tree_util.tree_leaves_with_path(expected_shapes(c)["Transformer"]["encoderblock_0_to_47"])
    matrices = sum(leaf.size for path, leaf in blocks if path[-1].key == "kernel")
    assert matrices == 12 * 6144**2 * 48 == 21_743_271_936
    forward = flops.vit_forward_flops(c)
    per_token = 3 * sum(forward[part] for part in ("projections", "attention", "mlp")) / c.num_tokens
    assert per_token == 6 * matrices + 12 * 48 * 6144 * 256
    assert round(100 * ahead_of_time.mfu(1150, per_token, ahead_of_time.CHIPS["v4"].flops), 1) == 54.9


def gflops(config) -> float:
    return sum(flops.vit_forward_flops(config).values()) / 1e9


def test_published_flops():
    # The dense parents of Sparse Upcycling, GFLOP per image at 224 px.
    parents = {"S/32": 2.3, "S/16": 9.2, "B/32": 8.7, "B/16": 35.0, "L/32": 30.2, "L/16": 122.5}
    for name, expected in parents.items():
        assert gflops(configs.vit(name, **GAP_JFT)) == pytest.approx(expected, abs=0.06), name
    # Upcycled B/16 with expert choice: 1.002 of its parent at C = 1, 1.319 at C = 2.
    for factor, expected in ((1.0, 1.002), (2.0, 1.319)):
        moe = configs.MoEConfig(router="expert_choice", capacity_factor=factor)
        config = configs.vit("B/16", moe=moe, moe_blocks=tuple(range(6, 12)), **GAP_JFT)
        assert gflops(config) / gflops(configs.vit("B/16", **GAP_JFT)) == pytest.approx(expected, abs=0.0006)
    # ViT-e/14 is published with 1,980 GFLOP, with attention pooling; ViT-22B with 11.2 TFLOP per image.
    for name, pool, expected in (("e/14", "map", 1980), ("22B/14", "none", 11_200)):
        assert gflops(configs.vit(name, pool=pool, num_classes=0)) == pytest.approx(expected, rel=0.002)


def xla_flops(model, config, *inputs, optimised=True):
    lowered = jax.jit(lambda p, *x: model.apply({"params": p}, *x)[0]).lower(expected_shapes(config), *inputs)
    return (lowered.compile() if optimised else lowered).cost_analysis()["flops"]


FOUR = configs.MoEConfig(num_experts=4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {"pool": "tok"},
        {"pool": "map"},
        {"pool": "none", "parallel": True},
        {"pool": "gap", "moe": FOUR.replace(num_selected=2, capacity_factor=1.0)},
        {"pool": "gap", "moe": FOUR.replace(router="expert_choice", capacity_factor=2.0)},
        {"pool": "gap", "moe": FOUR.replace(router="soft", capacity_factor=1.0)},
    ],
)
@pytest.mark.usefixtures("optimised")
def test_flops_against_xla(overrides):
    """XLA counts every operation: a few per cent more than the matrix products alone, at real widths. The experts of
    buffers are batched matrix products."""
    b = 8 if "moe" in overrides else 1
    blocks = {"moe_blocks": tuple(range(1, 12, 2))} if "moe" in overrides else {}
    config = configs.vit("Ti/16", image_size=(112, 112), num_classes=1000, **overrides, **blocks)
    xla = xla_flops(ViT(config), config, jax.ShapeDtypeStruct((b, 112, 112, 3), jnp.float32))
    assert 1.0 <= xla / (b * 1e9 * gflops(config)) < 1.06


# 224 pixels, 32 experts, 1,000 classes, E3 with M = 2 and K = 1. GFLOP of the ViT, the V-MoE with K = 1 and with K = 2
# (published, but for L/32), the E3 tiled before the block (as released) and after its attention, the E3 with K = 2
# tiled before the block; then the savings of the two E3s with K = 1 over two V-MoEs with K = 1, in %. Counted by hand
# from the sizes of the layers, matrix products only.
E3_COSTS = [
    ("VMoE-S/32", "last-2", 2.71, 2.72, 3.14, 3.68, 3.57, 4.51, 32.3, 34.3),
    ("B/32", "last-2", 8.82, 8.82, 9.77, 10.97, 10.73, 12.86, 37.8, 39.2),
    ("L/32", "last-2", 30.76, 30.76, 32.44, 34.57, 34.14, 37.92, 43.8, 44.5),
    ("B/16", "last-2", 35.13, 35.15, 38.87, 43.87, 42.82, 51.31, 37.6, 39.1),
    ("L/16", "last-2", 123.11, 123.14, 129.75, 138.49, 136.68, 151.71, 43.8, 44.5),
    ("H/14", "last-5", 334.6, 334.7, 368.4, 428.7, 425.0, 496.1, 36.0, 36.5),
]


def e3_family(name, where):
    moe = configs.MoEConfig(capacity_factor=1.0)
    vmoe, lazy = configs.vmoe(name, where, moe), configs.e3(name, where, 2, moe)
    block = lazy.replace(e3=configs.E3Config(2, tiling="block"))
    twice = moe.replace(num_selected=2)
    return configs.vit(name), vmoe, vmoe.replace(moe=twice), block, lazy, block.replace(moe=twice)


@pytest.mark.parametrize("row", E3_COSTS, ids=lambda row: row[0])
def test_e3_costs_at_every_published_size(row):
    """And saving(M) = (1 - 1/M) f within 3 points, where f is the share of the blocks before the copying of the tokens.
    The number of parameters is that of the V-MoE."""
    name, where, *gflop, saved_block, saved_lazy = row
    family = e3_family(name, where)
    _, vmoe, _, block, lazy, _ = family
    assert [gflops(config) for config in family] == pytest.approx(gflop, abs=0.06 if name == "H/14" else 0.006)

    def saved(config, m):
        config = config.replace(e3=configs.E3Config(m, config.e3.tiling))
        assert flops.vit_parameters(config) == flops.vit_parameters(vmoe)
        return 100 * (1 - gflops(config) / (m * gflops(vmoe)))

    assert [saved(block, 2), saved(lazy, 2)] == pytest.approx([saved_block, saved_lazy], abs=0.06)
    for m in (2, 4):
        for config, before in ((block, vmoe.moe_blocks[0]), (lazy, vmoe.moe_blocks[0] + 1 / 3)):
            assert saved(config, m) == pytest.approx(100 * (1 - 1 / m) * before / config.depth, abs=3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "where"), [row[:2] for row in E3_COSTS])
def test_e3_saving_against_xla(name, where):
    """The saving by XLA's count of all operations, before optimisation, is within 1.5 points of the closed form. With a
    batch of 8, capacity is hardly rounded up. The small difference comes from dispatch, norms and softmax."""
    images = jax.ShapeDtypeStruct((8, 224, 224, 3), jnp.float32)
    _, vmoe, _, *both, _ = e3_family(name, where)
    cost = xla_flops(ViT(vmoe), vmoe, images, optimised=False)
    assert 1.0 <= cost / (8e9 * gflops(vmoe)) < 1.12
    for config in both:
        closed = 1 - gflops(config) / (2 * gflops(vmoe))
        saved = 1 - xla_flops(ViT(config), config, images, optimised=False) / (2 * cost)
        assert saved == pytest.approx(closed, abs=0.015)


# T5 1.1 (the module of t5x) and the upcycled models of Sparse Upcycling: 32 experts in every other layer of both
# stacks. Parameters of both; forward FLOPs of the sparse model for 512 inputs and 114 targets, relative to its dense
# parent, with capacity factor = K = 1 and 2.
T5_PUBLISHED = [
    ("1.1-small", 76_961_152, 467_162_496, 1.002, 1.225),
    ("1.1-base", 247_577_856, 2_003_188_992, 1.001, 1.251),
    ("1.1-large", 783_150_080, 7_220_096_000, 1.001, 1.267),
    ("1.1-xl", 2_849_757_184, 26_255_546_368, 1.001, 1.266),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dense", "sparse", "one", "two"), T5_PUBLISHED)
def test_published_t5_counts_and_flops(name, dense, sparse, one, two):
    parent, child = configs.t5(name), configs.sparse_t5(name)
    for config, count in ((parent, dense), (child, sparse)):
        assert sum(flops.t5_parameters(config).values()) == counted(config) == count
    cheap = {"moe": child.moe.replace(capacity_factor=1.0), "decoder_moe": child.decoder_moe.replace(num_selected=1)}
    found = [sum(flops.t5_forward_flops(c, 512, 114).values()) for c in (parent, child.replace(**cheap), child)]
    assert [round(x / found[0], 3) for x in found[1:]] == [one, two]


def test_other_published_t5_counts():
    def count(config):
        return sum(flops.t5_parameters(config).values())

    # Base with three sparse layers per stack.
    three = {"moe_layers": (3, 7, 11), "decoder_moe_layers": (3, 7, 11)}
    assert count(configs.sparse_t5("1.1-base").replace(**three)) == 1_125_383_424
    # mT5 as published, to the digits printed: 300 M, 580 M, 1.2 B, 3.7 B, 13 B. UL2 is called 20 B. And exactly, from
    # D, F, H x d and L: an encoder layer has 4 D H d + 3 D F + 2 D parameters, a decoder layer 8 D H d + 3 D F + 3 D;
    # besides them two final norms, two tables of 32 H relative positions, and two of V D.
    for name, digits, published, exact in (
        ("mt5-small", 8, 300e6, 300_176_768),
        ("mt5-base", 7, 580e6, 582_401_280),
        ("mt5-large", 8, 1.2e9, 1_229_581_312),
        ("mt5-xl", 8, 3.7e9, 3_742_619_648),
        ("mt5-xxl", 9, 13e9, 12_921_057_280),
        ("ul2-20b", 9, 20e9, 19_591_209_984),
    ):
        assert count(configs.t5(name)) == exact and round(exact, -digits) == published, name
    assert counted(configs.t5("mt5-small")) == 300_176_768
    # The language model of PaLI-X is called 32 B: 50 + 50 layers of UL2's width with mT5's vocabulary, untied.
    config = configs.t5("ul2-20b", num_encoder_layers=50, num_decoder_layers=50, vocab_size=250_112)
    assert round(count(config) / 1e9, 3) == 32.249
    assert round(count(config.replace(tied=True)) / 1e9, 2) == 31.22


T5_SPARSE = configs.sparse_t5(
    "tiny", configs.T5_ENCODER_MOE.replace(num_experts=4), configs.T5_DECODER_MOE.replace(num_experts=4, granularity=2)
)


@pytest.mark.parametrize(
    "config", [configs.t5("tiny", num_decoder_layers=3), configs.t5("tiny", tied=True, head_dim=5), T5_SPARSE]
)
def test_closed_form_t5_parts_equal_the_tree(config):
    parts = dict(expected_shapes(config))
    parts["decoder"] = dict(parts["decoder"])
    parts |= {"embedding": parts.pop("token_embedder"), "logits": parts["decoder"].pop("logits_dense", {})}
    sizes = {part: sum(leaf.size for leaf in jax.tree.leaves(tree)) for part, tree in parts.items()}
    assert flops.t5_parameters(config) == sizes


@pytest.mark.slow
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.usefixtures("optimised")
def test_t5_flops_against_xla(sparse):
    """As for the mixtures above: XLA counts every operation, and the experts are batched."""
    sizes = {"num_encoder_layers": 2, "num_decoder_layers": 2, "vocab_size": 2048}
    moe = [one.replace(num_experts=4) for one in (configs.T5_ENCODER_MOE, configs.T5_DECODER_MOE)]
    config = configs.sparse_t5("1.1-small", *moe, **sizes) if sparse else configs.t5("1.1-small", **sizes)
    xla = xla_flops(T5(config), config, *(jax.ShapeDtypeStruct((4, n), jnp.int32) for n in (96, 64)))
    assert 1.0 <= xla / (4 * sum(flops.t5_forward_flops(config, 96, 64).values())) < 1.06
