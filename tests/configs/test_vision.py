import pytest

from kitlib import configs
from kitlib.configs import BatchEnsembleConfig, E3Config, MoEConfig

SIZES = {"width": 8, "depth": 2, "mlp_dim": 12, "num_heads": 2, "image_size": (8, 8), "channels": 1, "num_classes": 3}
MOE = MoEConfig(num_experts=4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("B16", "named '<size>/<patch>'"),
        ("B/²", "named '<size>/<patch>'"),
        ("So400/14", "did you mean 'So400m'"),
        ("22b/14", "did you mean '22B'"),
    ],
)
def test_errors_about_unknown_names_suggest_the_nearest(name, message):
    with pytest.raises(ValueError, match=message):
        configs.vit(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_clases": 10}, "did you mean 'num_classes'"),
        ({"patch_size": 32}, "part of the name"),
        ({"image_size": (225, 224)}, r"not divisible by patch_size 16; \(224, 224\) is"),
        ({"num_heads": 5}, "768 is not divisible by num_heads 5"),
        ({"posemb": "sincos2d", "width": 762, "num_heads": 6}, "divisible by 4"),
        ({"dtype": "float16"}, "Unknown dtype"),
        ({"layer_scale": -1}, "layer_scale is -1"),
        ({"activation": "gelu_exac"}, "did you mean 'gelu_exact'"),
        ({"activation": "gelu_exact", "pool": "map"}, "attention pooling has the tanh form"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        configs.vit("B/16", **changes)


@pytest.mark.parametrize("where", ["last-0", "last-7", "every-0", "every-13", "every-²"])
def test_blocks_with_experts_are_among_those_that_there_are(where):
    """B has 12 blocks, of which 1, 3, ..., 11 may be among the last: six of them."""
    with pytest.raises(ValueError, match=r"from 1 to (6|12)|where is"):
        configs.vmoe("B/16", where)
    assert configs.vmoe("B/16", "last-6").moe_blocks == configs.vmoe("B/16", "every-2").moe_blocks


def test_grid_tokens_and_no_members():
    config = configs.vit("B/16", image_size=(224, 112))
    assert config.grid == (14, 7)
    assert config.num_tokens == 14 * 7 + 1  # and the class token
    assert config.replace(pool="gap").num_tokens == 14 * 7
    assert config.num_members is None and config.tiled_block is None and not config.tiled_after_attention


@pytest.mark.parametrize(
    ("blocks", "fields", "message"),
    [
        ((2,), {}, r"blocks \(2,\) are not all among the 2 blocks without experts"),
        ((-1, 0), {}, r"blocks \(-1, 0\) are not all among"),
        ((0, 1), {"moe": MOE, "moe_blocks": (1,)}, "the 1 blocks without experts"),
        ((0,), {"moe": MOE, "moe_blocks": (1,), "e3": E3Config(2)}, "A BatchEnsemble is not an E3"),
    ],
)
def test_ensembles_that_do_not_fit_the_model_are_refused(blocks, fields, message):
    with pytest.raises(ValueError, match=message):
        configs.vit("tiny/4", batch_ensemble=BatchEnsembleConfig(blocks), **SIZES, **fields)
