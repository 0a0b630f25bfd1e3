import importlib.util

import pytest

from kitlib.parallel import topologies
from kitlib.parallel.ahead_of_time import Volume
from kitlib.parallel.topologies import Chip

HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None


@pytest.mark.parametrize(("name", "chips"), [("v5p:8x8x8", 512), ("v4:4x8x8", 256), ("v5e:16x16", 256), ("v6e:1x1", 1)])
def test_slices_have_as_many_chips_as_their_shape(name, chips):
    found = topologies.find(name)
    assert (found.name, found.chips, found.generation) == (name, chips, name.split(":")[0])


def test_every_slice_has_a_chip_and_fits_its_pod():
    largest = {"v4": 4096, "v5e": 256, "v5p": 6144, "v6e": 256, "gpu": 1}
    assert set(topologies.SHAPES) == set(topologies.CHIPS) == set(largest)
    for generation, shapes in topologies.SHAPES.items():
        assert max(topologies.find(f"{generation}:{shape}").chips for shape in shapes) == largest[generation]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("v5e:32x32", "v5e:"), ("v5p:8x8x9", "v5p:8x8x8"), ("v5p-512", "v5p:"), ("v7x:2x2", "2x2")],
)
def test_slices_that_do_not_exist(name, nearest):
    with pytest.raises(ValueError, match=rf"Unknown TPU slice '{name}'; did you mean '.*{nearest}.*Known: v4:2x2x1, "):
        topologies.find(name)


@pytest.mark.skipif(HAS_LIBTPU, reason="libtpu is installed")
def test_without_libtpu_the_extra_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'kitlib\[pods\]'"):
        topologies.devices_of(topologies.find("v5e:2x2"))


@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu (the extra `pods`)")
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:1x1", "v5p:2x2x2", "v6e:2x4"])
def test_libtpu_makes_one_device_per_chip(name):
    topology = topologies.find(name)
    assert topologies.mesh_of(topology, data=topology.chips).size == topology.chips


# ---------------------------------------------------------------------------------------------------- the shortest step


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
