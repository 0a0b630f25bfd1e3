import dataclasses

import numpy as np
import pytest

from kitlib import configs


def test_configs_are_values():
    assert configs.vit("Ti/16") == configs.vit("Ti/16")
    assert len({configs.vit("Ti/16"), configs.vit("Ti/16")}) == 1  # hashable: may be a static argument of jit
    with pytest.raises(dataclasses.FrozenInstanceError):
        configs.vit("Ti/16").width = 3


def test_the_text_of_a_configuration_has_only_what_is_not_as_by_default():
    assert repr(configs.MoEConfig()) == "MoEConfig()"
    assert repr(configs.MoEConfig(num_experts=8, router="soft")) == "MoEConfig(num_experts=8, router='soft')"
    assert repr(configs.BatchEnsembleConfig((1,), 4)) == "BatchEnsembleConfig(blocks=(1,))"  # 4 members by default


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_members": 0}, "num_members is 0"),
        ({"num_members": -1}, "num_members is -1"),
        ({"blocks": ()}, "needs at least one block"),
        ({"blocks": [1, 3]}, "expected a tuple of whole numbers"),
        ({"sign_probability": 1.5}, "sign_probability is 1.5; .*from 0.0 to 1.0"),
        ({"sign_probability": -0.5}, "sign_probability is -0.5"),
        ({"sign_probability": np.nan}, "sign_probability is nan"),
        ({"spread": -0.5}, "spread is -0.5; .*0.0 or more"),
        ({"spread": np.nan}, "spread is nan"),
        ({"spread": np.inf}, "spread is inf"),
    ],
)
def test_bad_ensembles_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        configs.BatchEnsembleConfig(**{"blocks": (1,)} | fields)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: configs.MoEConfig(num_experts=2.5), "MoEConfig.num_experts is 2.5; expected a whole number"),
        (lambda: configs.MoEConfig(num_selected=1.5), "MoEConfig.num_selected is 1.5"),
        (lambda: configs.MoEConfig(num_experts=True), "MoEConfig.num_experts is True"),
        (lambda: configs.MoEConfig(group_size="64"), "MoEConfig.group_size is '64'"),
        (lambda: configs.MoEConfig(num_experts=2, num_selected=3), "num_selected is 3; .*from 1 to 2"),
        (lambda: configs.MoEConfig(capacity_factor=True), "capacity_factor is True"),
        (lambda: configs.MoEConfig(capacity_factor=1e308), "capacity_factor is 1e[+]308"),
        (lambda: configs.MoEConfig(noise_std=np.nan), "noise_std is nan"),
        (lambda: configs.MoEConfig(renormalize="no"), "renormalize is 'no'; expected True or False"),
        (lambda: configs.MoEConfig().replace(top_k=1), "Unknown field of MoEConfig 'top_k'"),
        (lambda: configs.vit("Ti/16", scan="no"), "ViTConfig.scan is 'no'; expected True or False"),
        (lambda: configs.vit("Ti/16", e3=2), "ViTConfig.e3 is 2; expected E3Config"),
        (lambda: configs.E3Config(2.0), "E3Config.num_members is 2.0"),
        (lambda: configs.BatchEnsembleConfig((1, 1)), r"blocks is \(1, 1\); it names a number twice"),
        (lambda: configs.vit("Ti/16", depth=2.5), "ViTConfig.depth is 2.5"),
        (lambda: configs.vit("Ti/16", width=192.0), "ViTConfig.width is 192.0"),
        (lambda: configs.vit("Ti/16", image_size=(0, 0)), r"image_size is \(0, 0\); it must be a height and a width"),
        (lambda: configs.vit("Ti/16", image_size=(-16, 16)), r"image_size is \(-16, 16\)"),
        (lambda: configs.vit("Ti/16", image_size=(32,)), r"image_size is \(32,\)"),
        (lambda: configs.vit("Ti/16", image_size=224), "image_size is 224; expected a tuple"),
        (lambda: configs.vit("Ti/16", num_classes=-3), "num_classes is -3; .*0 or more"),
        (lambda: configs.vit("Ti/16", representation_size=-1), "representation_size is -1"),
        (lambda: configs.vit("Ti/16", moe=configs.MoEConfig(2), moe_blocks=(1, 1)), r"moe_blocks is \(1, 1\)"),
        (lambda: configs.t5("tiny", moe=configs.MoEConfig(2), moe_layers=(1, 1)), r"moe_layers is \(1, 1\)"),
        (lambda: configs.t5("tiny", vocab_size=512.0), "T5Config.vocab_size is 512.0"),
        (lambda: configs.palix("XS", max_images=1.5), "PaLIXConfig.max_images is 1.5"),
    ],
)
def test_values_that_only_look_like_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numpys_whole_numbers_are_whole_numbers():
    assert configs.vit("Ti/16", depth=np.int64(3)).depth == 3
