"""kitlib.studies.ensembles.naming: three widths with the same trunk, each with its own recipes."""

import pytest

from kitlib.models import flops
from kitlib.studies.ensembles import naming
from kitlib.upcycling import surgery

ARMS = naming.naming_sizes().arms
KINDS = ("ViT", "V-MoE", "E3 M=2")


def test_widths_differ_in_nothing_else():
    for kind in KINDS:
        configs = [ARMS[f"{kind}, width {width}"].config for width in (8, 16, 32)]
        assert [config.width for config in configs] == [8, 16, 32]
        assert [(config.mlp_dim, config.num_heads) for config in configs] == [(32, 1), (64, 2), (128, 4)]
        same = [config.replace(width=16, mlp_dim=64, num_heads=2) for config in configs]
        assert same[0] == same[1] == same[2]
    assert all(ARMS[f"{kind}, width 16"] == naming.naming().arms[kind] for kind in KINDS)


@pytest.mark.parametrize("width", [8, 16, 32])
def test_the_same_blocks_are_trunk(width):
    """Experts in the last two of four blocks. Tiled before the first of them, an E3 computes twice: both layers of
    experts, attention and projections of the last block, and the head."""
    vmoe, e3 = (ARMS[f"{kind}, width {width}"].config for kind in ("V-MoE", "E3 M=2"))
    assert list(surgery.moe_layers(vmoe)) == [f"Transformer/encoderblock_{i}" for i in (2, 3)]
    assert sum(flops.vit_parameters(e3).values()) == sum(flops.vit_parameters(vmoe).values())
    one, two = flops.vit_forward_flops(vmoe), flops.vit_forward_flops(e3)
    twice = one["projections"] / 4 + one["attention"] / 4 + one["experts"] + one["head"]
    assert sum(two.values()) == sum(one.values()) + twice
