import pytest

from kitlib import configs
from kitlib.models import flops
from kitlib.parallel import topologies
from kitlib.parallel.ahead_of_time import Volume
from kitlib.parallel.topologies import CHIPS, Chip

CHIP = Chip(flops=100.0, hbm_gib=1.0, hbm_bandwidth=10.0, links_bandwidth=5.0)


@pytest.mark.parametrize(
    ("work", "seconds", "bound", "mfu"),
    [
        # Two chips of 100 FLOP/s: 800 FLOPs take 4 s, 600 of them are the model's: 600 / 200 / 4 = 0.75.
        (topologies.Work(600.0, 800.0, 10.0, 5.0), 4.0, "compute", 0.75),
        (topologies.Work(600.0, 800.0, 80.0, 5.0), 8.0, "memory", 600 / 200 / 8),
        (topologies.Work(600.0, 800.0, 80.0, 60.0), 12.0, "interconnect", 0.25),
    ],
)
def test_the_slowest_of_three_by_hand(work, seconds, bound, mfu):
    bounds = topologies.step_time(work, CHIP, chips=2)
    assert (bounds.seconds, bounds.bound) == (seconds, bound) and bounds.mfu == pytest.approx(mfu)


def test_an_all_reduce_arrives_twice():
    volumes = {"all-reduce": Volume(3, 10), "all-gather": Volume(1, 7), "all-to-all": Volume(0, 0)}
    assert topologies.arriving_bytes(volumes) == 27


def test_the_published_utilisation_of_vit_22b():
    """1,150 tokens per second and chip are the published 54.9 %; a "core" of 2302.05442 is a TPU v4 chip.

    A picture has 256 tokens; training takes three forward passes of 11.2 TFLOP.
    """
    config = configs.vit("22B/14", pool="none", num_classes=0)
    per_token = 3 * sum(flops.vit_forward_flops(config).values()) / 256
    assert 100 * topologies.mfu(1150, per_token, CHIPS["v4"].flops) == pytest.approx(54.9, abs=0.2)
