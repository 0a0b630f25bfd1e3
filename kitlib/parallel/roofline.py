"""How long a training step takes at least: the slowest of computing, reading memory and talking to other chips.

    work = Work(model_flops=..., executed_flops=..., hbm_bytes=..., arriving_bytes=...)
    bounds = step_time(work, chip, chips=512)
    bounds.seconds, bounds.bound, bounds.mfu

Every chip computes, reads and receives at the same time, so the step is no shorter than the slowest of the three. Real
steps are longer: the bounds assume peak rates, perfect overlap and all links busy. Model FLOPs utilisation (MFU) counts
what the model needs, three forward passes; recomputed forward passes are work, but not useful work (2204.02311, B).

Built in notebooks/16_from_laptop_to_pod.ipynb.
"""

from typing import NamedTuple

from kitlib.parallel.hlo import Volume
from kitlib.parallel.topologies import Chip


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


# The bytes that arrive at a chip, at least, per byte of a collective's larger side (`hlo.Volume`), for many chips: a
# ring all-reduce is a reduce-scatter and an all-gather. An all-to-all keeps 1/n of its data where they are; on a torus,
# data pass other chips on their way, so that it may take longer.
ARRIVING = {"all-gather": 1.0, "reduce-scatter": 1.0, "all-reduce": 2.0, "all-to-all": 1.0, "collective-permute": 1.0}


def arriving_bytes(volumes: dict[str, Volume]) -> float:
    """Bytes that arrive at one chip in all collectives of a step, from `hlo.totals`."""
    return sum(ARRIVING[kind] * volume.bytes for kind, volume in volumes.items())
