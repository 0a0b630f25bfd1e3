import math

import pytest

from kitlib.models import flops
from kitlib.parallel import ahead_of_time
from kitlib.studies import pods

ALL = (*pods.ROWS, *pods.LADDER)


@pytest.mark.parametrize("pod", ALL, ids=lambda pod: pod.title)
def test_every_mesh_has_as_many_devices_as_the_slice_has_chips(pod):
    assert math.prod(pod.axes.values()) == ahead_of_time.find(pod.topology).chips


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (pods.VMOE_15B, 14_705),  # published: 14,705.1M
        (pods.VMOE_H14, 2_688.6),  # published: 2,688.6M
        (pods.E3_H14, 2_688.6),  # the E3 of "up to 2.7B parameters"
        (pods.UPCYCLED_L16, 3_444.9),
    ],
)
def test_sizes_are_the_published_ones(config, millions):
    # Average pooling, and no position for a class token: a few thousand parameters less than published.
    assert sum(flops.vit_parameters(config).values()) / 1e6 == pytest.approx(millions, rel=1e-4)
