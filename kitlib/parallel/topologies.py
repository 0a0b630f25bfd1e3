"""TPU slices that exist, what their chips can do, how to compile for one without having it, and how fast it may be.

    topology = find("v5p:8x8x8")               # 512 chips
    mesh = mesh_of(topology, fsdp=64, tensor=8)
    work = Work(model_flops=..., executed_flops=..., hbm_bytes=..., arriving_bytes=...)
    bounds = step_time(work, topology.chip, chips=512)      # bounds.seconds, bounds.bound, bounds.mfu

A slice is named by generation and shape. The compiler accepts shapes that nobody can rent (v5e:32x32) and shapes of
which half a chip is one device (v4 without "megacore"), so the shapes are listed here. Counts are always in chips: the
cloud's names count cores for some generations, and "v5p-512" has 256 chips.

Every chip computes, reads memory and receives from others at the same time, so a step is no shorter than the slowest of
the three. Real steps are longer: the bounds assume peak rates, perfect overlap and all links busy. Model FLOPs
utilisation (MFU) counts what the model needs, three forward passes; recomputed forward passes are work, but not useful
work (2204.02311, B).

Sources: the Cloud TPU documentation of each generation (docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e: peak, memory,
bandwidths, shapes); usable memory is what libtpu 0.0.42 gives a program.

Built in notebooks/16_from_laptop_to_pod.ipynb.
"""

import importlib.metadata
import importlib.util
import math
import os
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from kitlib.configs.arguments import one_of
from kitlib.parallel.ahead_of_time import Volume
from kitlib.parallel.mesh import AXES, sizes_of


class Chip(NamedTuple):
    """One chip of a generation."""

    flops: float  # per second, bfloat16, peak
    hbm_gib: float  # memory that a program can use, GiB
    hbm_bandwidth: float  # bytes per second
    links_bandwidth: float  # bytes per second that can arrive over all links to other chips together
    options: tuple[tuple[str, str], ...] = ()  # for the compiler


CHIPS = {
    "v4": Chip(275e12, 30.75, 1.2e12, 270e9, (("chip_config_name", "megacore"),)),
    "v5e": Chip(197e12, 15.75, 0.819e12, 200e9),
    "v5p": Chip(459e12, 95.74, 2.765e12, 600e9),
    "v6e": Chip(918e12, 31.25, 1.638e12, 400e9),
    # One GPU of the H100's size (NVIDIA's data sheet, SXM, dense). Nothing is compiled for it: a program's memory is
    # measured with the compiler of one v5p chip, and compared with 80e9 bytes.
    "gpu": Chip(989e12, 74.5, 3.35e12, float("inf")),
}
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")
SHAPES = {"v4": CUBES, "v5e": FLAT, "v5p": (*CUBES, "16x16x24"), "v6e": FLAT, "gpu": ("80GB",)}


class Topology(NamedTuple):
    """A slice: its name, generation and number of chips."""

    name: str
    generation: str
    chips: int

    @property
    def chip(self) -> Chip:
        return CHIPS[self.generation]


def find(name: str) -> Topology:
    """The slice called "<generation>:<shape>". Raises ValueError, naming the nearest, for one that does not exist."""
    one_of("TPU slice", name, [f"{g}:{s}" for g, shapes in SHAPES.items() for s in shapes])
    generation, _, shape = name.partition(":")
    return Topology(name, generation, 1 if generation == "gpu" else math.prod(int(n) for n in shape.split("x")))


def devices_of(topology: Topology) -> list:
    """The devices of a slice, to compile for, not to run on. Raises ModuleNotFoundError without libtpu."""
    if importlib.util.find_spec("libtpu") is None:
        raise ModuleNotFoundError(
            "Compiling for TPUs needs the compiler in libtpu, which is not installed: pip install 'kitlib[pods]' "
            "(Linux, 700 MB; no TPU is needed)."
        )
    # libtpu would otherwise ask the cloud's metadata server what machine this is, and lock out other processes.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    from jax.experimental import topologies

    options, name = dict(topology.chip.options), topology.name
    if topology.chips == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
        name = "v5p:1x1x1" if topology.generation == "gpu" else name
    found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    if len(found) != topology.chips:
        raise ValueError(f"{topology.name} has {topology.chips} chips, but libtpu makes {len(found)} devices of it.")
    return found


def mesh_of(topology: Topology, **axes: int) -> Mesh:
    """The mesh of `mesh.make` over a slice, neighbours on the torus being neighbours on the mesh where possible."""
    from jax.experimental import mesh_utils

    sizes = sizes_of(axes, topology.chips)
    devices = mesh_utils.create_device_mesh(sizes, devices_of(topology), allow_split_physical_axes=True)
    return Mesh(np.asarray(devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def versions() -> str:
    """The versions that a compilation depends on."""
    return f"jax {jax.__version__}, libtpu {importlib.metadata.version('libtpu')}"


# ---------------------------------------------------------------------------------------------- the shortest step


class Work(NamedTuple):
    """What one step has to do."""

    model_flops: float  # of all chips: forward and backward, nothing twice
    executed_flops: float  # of all chips: with what is computed again
    hbm_bytes: float  # per chip
    arriving_bytes: float  # per chip, from other chips


class Bounds(NamedTuple):
    """Lower bounds of a step, in seconds."""

    compute: float
    memory: float
    interconnect: float
    mfu: float  # at best, 0 to 1

    @property
    def seconds(self) -> float:
        return max(self[:3])

    @property
    def bound(self) -> str:
        """The slowest: "compute", "memory" or "interconnect"."""
        return max(zip(self[:3], self._fields[:3], strict=True))[1]


def step_time(work: Work, chip: Chip, chips: int) -> Bounds:
    """The lower bounds of a step on this many chips."""
    compute = work.executed_flops / (chips * chip.flops)
    memory, interconnect = work.hbm_bytes / chip.hbm_bandwidth, work.arriving_bytes / chip.links_bandwidth
    seconds = max(compute, memory, interconnect)
    return Bounds(compute, memory, interconnect, work.model_flops / (chips * chip.flops * seconds))


def mfu(units_per_second: float, flops_per_unit: float, peak: float) -> float:
    """Model FLOPs utilisation from a measured speed per chip: tokens per second, and the training FLOPs of a token."""
    return units_per_second * flops_per_unit / peak


# The bytes that arrive at a chip, at least, per byte of a collective's larger side (`Volume`), for many chips: a ring
# all-reduce is a reduce-scatter and an all-gather. An all-to-all keeps 1/n of its data where they are; on a torus, data
# pass other chips on their way, so that it may take longer.
ARRIVING = {"all-gather": 1.0, "reduce-scatter": 1.0, "all-reduce": 2.0, "all-to-all": 1.0, "collective-permute": 1.0}


def arriving_bytes(volumes: dict[str, Volume]) -> float:
    """Bytes that arrive at one chip in all collectives of a step, from `ahead_of_time.totals`."""
    return sum(ARRIVING[kind] * volume.bytes for kind, volume in volumes.items())
