import dataclasses

import pytest

from kitlib import configs


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("B16", "named '<size>/<patch>'"),
        ("So400/14", "did you mean 'So400m'"),
        ("22b/14", "did you mean '22B'"),
    ],
)
def test_unknown_names_say_the_nearest(name, message):
    with pytest.raises(ValueError, match=message):
        configs.vit(name)


def test_unknown_field_says_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'num_classes'"):
        configs.vit("B/16", num_clases=10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (225, 224)}, r"not divisible by patch_size 16; \(224, 224\) is"),
        ({"num_heads": 5}, "768 is not divisible by num_heads 5"),
        ({"depth": 0}, "depth is 0"),
        ({"pool": "mean"}, "did you mean 'map'|Unknown pool"),
        ({"dropout": 1.0}, r"dropout is 1.0; it must be in \[0, 1\)"),
        ({"posemb": "sincos2d", "width": 762, "num_heads": 6}, "divisible by 4"),
        ({"dtype": "float16"}, "Unknown dtype"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        configs.vit("B/16", **changes)


def test_the_patch_size_has_one_place():
    with pytest.raises(ValueError, match="part of the name"):
        configs.vit("B/16", patch_size=32)


def test_grid_and_tokens():
    config = configs.vit("B/16", image_size=(224, 112))
    assert config.grid == (14, 7)
    assert config.num_tokens == 14 * 7 + 1  # and the class token
    assert config.replace(pool="gap").num_tokens == 14 * 7


def test_configs_are_values():
    assert configs.vit("Ti/16") == configs.vit("Ti/16")
    assert len({configs.vit("Ti/16"), configs.vit("Ti/16")}) == 1  # hashable: may be a static argument of jit
    with pytest.raises(dataclasses.FrozenInstanceError):
        configs.vit("Ti/16").width = 3
