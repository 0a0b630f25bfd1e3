import pytest

from kitlib import configs


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("B16", "named '<size>/<patch>'"),
        (None, "named '<size>/<patch>'.*got None"),
        ("B/²", "named '<size>/<patch>'"),
        ("So400/14", "did you mean 'So400m'"),
        ("22b/14", "did you mean '22B'"),
    ],
)
def test_errors_about_unknown_names_suggest_the_nearest(name, message):
    with pytest.raises(ValueError, match=message):
        configs.vit(name)


def test_errors_about_unknown_fields_suggest_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'num_classes'"):
        configs.vit("B/16", num_clases=10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (225, 224)}, r"not divisible by patch_size 16; \(224, 224\) is"),
        ({"num_heads": 5}, "768 is not divisible by num_heads 5"),
        ({"depth": 0}, "depth is 0"),
        ({"pool": "mean"}, "did you mean 'map'|Unknown pool"),
        ({"dropout": 1.0}, "dropout is 1.0; .*below 1.0"),
        ({"posemb": "sincos2d", "width": 762, "num_heads": 6}, "divisible by 4"),
        ({"dtype": "float16"}, "Unknown dtype"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        configs.vit("B/16", **changes)


@pytest.mark.parametrize("where", ["last-0", "last-7", "last-99", "every-0", "every-13", "every-²", None, 2])
def test_blocks_with_experts_are_among_those_that_there_are(where):
    """B has 12 blocks, of which 1, 3, ..., 11 may be among the last: six of them."""
    with pytest.raises(ValueError, match=r"from 1 to (6|12)|where is"):
        configs.vmoe("B/16", where)
    assert configs.vmoe("B/16", "last-6").moe_blocks == configs.vmoe("B/16", "every-2").moe_blocks


def test_the_patch_size_is_given_in_the_name_only():
    with pytest.raises(ValueError, match="part of the name"):
        configs.vit("B/16", patch_size=32)


def test_grid_and_tokens():
    config = configs.vit("B/16", image_size=(224, 112))
    assert config.grid == (14, 7)
    assert config.num_tokens == 14 * 7 + 1  # and the class token
    assert config.replace(pool="gap").num_tokens == 14 * 7


# ---------------------------------------------------------------------------------------------- ensembles in one model

SIZES = {"width": 8, "depth": 2, "mlp_dim": 12, "num_heads": 2, "image_size": (8, 8), "channels": 1, "num_classes": 3}
TINY = configs.vit("tiny/4", **SIZES)
MOE = configs.MoEConfig(num_experts=4)
ensemble = configs.BatchEnsembleConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"batch_ensemble": ensemble((2,))},
            r"blocks \(2,\) are not all among the 2 blocks without experts",
        ),
        ({"batch_ensemble": ensemble((-1, 0))}, r"blocks \(-1, 0\) are not all among"),
        (
            {"batch_ensemble": ensemble((0, 1)), "moe": MOE, "moe_blocks": (1,)},
            r"blocks \(0, 1\) are not all among the 1 blocks without experts",
        ),
        (
            {
                "batch_ensemble": ensemble((0,)),
                "moe": MOE,
                "moe_blocks": (1,),
                "e3": configs.E3Config(2),
            },
            "A BatchEnsemble is not an E3",
        ),
    ],
)
def test_ensembles_that_do_not_fit_the_model_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TINY.replace(**fields)


def test_a_model_without_members_has_none():
    assert TINY.num_members is None and TINY.tiled_block is None and not TINY.tiled_after_attention


def test_layer_scale_and_activation():
    with pytest.raises(ValueError, match=r"layer_scale is -1; .*0.0 or more"):
        configs.vit("Ti/16", layer_scale=-1)
    with pytest.raises(ValueError, match="Unknown activation 'gelu_exac'; did you mean 'gelu_exact'"):
        configs.vit("Ti/16", activation="gelu_exac")
    with pytest.raises(ValueError, match="attention pooling has the tanh form"):
        configs.vit("Ti/16", activation="gelu_exact", pool="map")
