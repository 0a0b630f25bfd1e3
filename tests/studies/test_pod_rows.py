import math
from collections import Counter

import pytest

from kitlib.models import flops
from kitlib.parallel import topologies
from kitlib.studies import pod_rows

ALL = (*pod_rows.ROWS, *pod_rows.LADDER)


@pytest.mark.parametrize("pod", ALL, ids=lambda pod: pod.title)
def test_every_mesh_has_as_many_devices_as_the_slice_has_chips(pod):
    assert math.prod(pod.axes.values()) == topologies.find(pod.topology).chips


def test_titles_are_unique_and_every_size_is_on_two_slices():
    assert max(Counter(pod.title for pod in ALL).values()) == 1
    published = {"ViT-22B", "PaLI-X 55B", "PaLI-X 55B, stage 1", "V-MoE 15B", "V-MoE L/16", "V-MoE H/14", "E3 H/14"}
    published |= {"upcycled T5-XL", "upcycled ViT-L/16"}
    assert all(count >= 2 for count in Counter(pod.name for pod in pod_rows.ROWS).values())
    assert published <= {pod.name for pod in pod_rows.ROWS}
    assert {pod.topology for pod in pod_rows.LADDER} == {"v5e:2x4", "gpu:80GB"}


def test_the_scaling_curve_ends_at_4096_chips_with_one_batch():
    chips = [topologies.find(pod.topology).chips for pod in pod_rows.SCALING]
    assert chips == [256, 512, 1024, 4096] and {pod.batch for pod in pod_rows.SCALING} == {16_384}


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (pod_rows.VMOE_15B, 14_705),  # published: 14,705.1M
        (pod_rows.VMOE_H14, 2_688.6),  # published: 2,688.6M
        (pod_rows.E3_H14, 2_688.6),  # the E3 of "up to 2.7B parameters"
        (pod_rows.UPCYCLED_L16, 3_444.9),
    ],
)
def test_sizes_are_the_published_ones(config, millions):
    # Average pooling, and no position for a class token: a few thousand parameters less than published.
    assert sum(flops.vit_parameters(config).values()) / 1e6 == pytest.approx(millions, rel=1e-4)
