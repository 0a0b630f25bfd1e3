import dataclasses

import numpy as np
import pytest

from kitlib import configs


def test_configs_are_values():
    assert configs.vit("Ti/16") == configs.vit("Ti/16")
    assert len({configs.vit("Ti/16"), configs.vit("Ti/16")}) == 1  # hashable: may be a static argument of jit
    with pytest.raises(dataclasses.FrozenInstanceError):
        configs.vit("Ti/16").width = 3
    assert configs.vit("Ti/16", depth=np.int64(3)).depth == 3  # numpy's whole numbers are whole numbers


def test_the_text_of_a_configuration_has_only_what_is_not_as_by_default():
    assert repr(configs.MoEConfig()) == "MoEConfig()"
    assert repr(configs.MoEConfig(num_experts=8, router="soft")) == "MoEConfig(num_experts=8, router='soft')"
    assert repr(configs.BatchEnsembleConfig((1,), 4)) == "BatchEnsembleConfig(blocks=(1,))"  # 4 members by default


@pytest.mark.parametrize(
    ("make", "message"),
    [
        # Numbers and flags of the other fields: test_arguments.py.
        (lambda: configs.BatchEnsembleConfig(()), "at least one block"),
        (lambda: configs.BatchEnsembleConfig([1, 3]), "expected a tuple of whole numbers"),
        (lambda: configs.BatchEnsembleConfig((1, 1)), r"blocks is \(1, 1\); it names a number twice"),
        (lambda: configs.MoEConfig(num_experts=2, num_selected=3), r"num_selected is 3; .*from 1 to 2"),
        (lambda: configs.MoEConfig().replace(top_k=1), "Unknown field of MoEConfig 'top_k'"),
        (lambda: configs.vit("Ti/16", e3=2), "ViTConfig.e3 is 2; expected E3Config"),
        (lambda: configs.vit("Ti/16", width=192.0), "ViTConfig.width is 192.0"),
        (lambda: configs.vit("Ti/16", image_size=(0, 0)), r"image_size is \(0, 0\)"),
        (lambda: configs.vit("Ti/16", image_size=(32,)), r"image_size is \(32,\)"),
        (lambda: configs.vit("Ti/16", num_classes=-3), r"num_classes is -3; .*0 or more"),
        (lambda: configs.palix("XS", max_images=1.5), "PaLIXConfig.max_images is 1.5"),
    ],
)
def test_fields_of_another_kind_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
