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
        ({"num_members": 0}, "at least one member, got M=0"),
        ({"num_members": -1}, "at least one member, got M=-1"),
        ({"blocks": ()}, "needs at least one block"),
        ({"blocks": [1, 3]}, r"is a tuple such as .*, got \[1, 3\]"),
        ({"sign_probability": 1.5}, r"sign_probability is 1.5; it must be in \[0, 1\]"),
        ({"sign_probability": -0.5}, "sign_probability is -0.5"),
        ({"sign_probability": np.nan}, "sign_probability is nan"),
        ({"spread": -0.5}, "spread is -0.5; it must be 0 or more"),
        ({"spread": np.nan}, "spread is nan"),
        ({"spread": np.inf}, "spread is inf"),
    ],
)
def test_bad_ensembles_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        configs.BatchEnsembleConfig(**{"blocks": (1,)} | fields)
