"""TPU slices that exist, compiling a training step for one without having it, and how fast the step may be there.

    topology = find("v5p:8x8x8")                        # 512 chips
    mesh = mesh_of(topology, fsdp=64, tensor=8)
    report = compile_step(step, arguments, mesh)        # arguments: shapes with shardings, nothing is allocated
    report.peak_gib, report.collectives

    work = Work(model_flops=..., executed_flops=..., hbm_bytes=..., arriving_bytes=...)
    bounds = step_time(work, topology.chip, chips=512)  # bounds.seconds, bounds.bound, bounds.mfu

A slice is named by generation and shape. The compiler accepts shapes that nobody can rent (v5e:32x32) and shapes of
which half a chip is one device (v4 without "megacore"), so the shapes are listed here. Counts are always in chips: the
cloud's names count cores for some generations, and "v5p-512" has 256 chips. Sources: the Cloud TPU documentation of
each generation (docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e: peak, memory, bandwidths, shapes); usable memory is
what libtpu 0.0.42 gives a program.

The real compiler of the real chips runs on any Linux machine; only the program is not run. What it needs: the step, the
shapes of its arguments, and how they are divided (`abstract`). A step "fits" if it compiles: the compiler raises
`DoesNotFit` for one that needs more memory than a chip has. `peak_gib` is what it says about one that fits; the sum of
arguments and temporaries, printed by others, is not the peak, as not all of them live at once.

    totals(compiled.as_text())         # {"all-to-all": Volume(count=4, bytes=81395712), ...}, per device and run

reads what a compiled program sends between devices from XLA's text, which lists computations; one may call others, and
a loop runs its body many times. Three traps. XLA counts a loop's body once in its own statistics: here it counts as
often as it runs, by the trip count that XLA notes, or (TPU) by the constant that the loop's condition compares with.
Reduce-scatters of TPUs are written as an all-reduce inside a fusion called all-reduce-scatter. Asynchronous collectives
are split into start and done, and are counted once.

Every chip computes, reads memory and receives from others at the same time, so a step is no shorter than the slowest of
the three. Real steps are longer: the bounds assume peak rates, perfect overlap and all links busy. Model FLOPs
utilisation (MFU) counts what the model needs, three forward passes; recomputed forward passes are work, but not useful
work (2204.02311, B).

Built in notebooks/16_from_laptop_to_pod.ipynb.
"""

import importlib.metadata
import importlib.util
import math
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kitlib.configs.arguments import one_of
from kitlib.parallel.mesh import AXES, BATCH_AXES, sizes_of

# ---------------------------------------------------------------------------------------------- slices


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


# ---------------------------------------------------------------------------------------------- collectives

KINDS = ("all-to-all", "all-gather", "all-reduce", "reduce-scatter", "collective-permute")
BITS = {"pred": 8, "bf16": 16, "f16": 16, "c64": 64, "c128": 128}  # others have them in their name: s32, f8e4m3


class Volume(NamedTuple):
    """Collectives of one kind: how often they run, and the bytes of one device in all of them, those of the larger
    side: what an all-gather ends with, what a reduce-scatter starts with."""

    count: int = 0
    bytes: int = 0


class Instruction(NamedTuple):
    """One line of a computation: "%name = type operation(operands), attributes"."""

    name: str
    type: str
    operation: str
    rest: str  # operands and attributes


LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")


def totals(text: str) -> dict[str, Volume]:
    """The collectives of one run of a program, by kind, from `compiled.as_text()`; kinds that do not occur are zero."""
    found = {kind: Volume() for kind in KINDS}
    for kind, times, size in collectives(text):
        count, total = found[kind]
        found[kind] = Volume(count + times, total + times * size)
    return found


def collectives(text: str) -> list[tuple[str, int, int]]:
    """(kind, times, bytes each) of every collective of a program: the details of `totals`."""
    computations, entry = parse(text)
    found = defaultdict(list)
    _walk(computations, entry, 1, found)
    return [(kind, times, size) for kind in KINDS for times, size in found[kind]]


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """({name of the computation: its instructions}, the name of the one that runs first)."""
    computations, entry, current = {}, "", None
    for line in text.splitlines():
        if head := HEAD.match(line):
            current = computations[head[2]] = []
            entry = head[2] if head[1] else entry
        elif current is not None and (match := LINE.match(line)):
            current.append(Instruction(*match.groups()))
    return computations, entry


def num_bytes(type_text: str) -> int:
    """The bytes of a type such as "bf16[8,1656,768]{2,1,0}", or of a tuple of types."""
    total = 0
    for dtype, shape in re.findall(r"\b(pred|c64|c128|[a-z]+\d+\w*)\[([\d,]*)\]", type_text):
        bits = BITS.get(dtype) or int(re.search(r"\d+", dtype)[0])
        total += bits * math.prod(int(n) for n in shape.split(",") if n) // 8
    return total


def _walk(computations: dict, name: str, times: int, found: dict) -> None:
    """Adds (times, bytes) of every collective of a computation that runs `times` times, and of those it calls."""
    types = {i.name: i.type for i in computations[name]}
    for i in computations[name]:
        kind = i.operation.removesuffix("-start")
        if kind in KINDS:
            operands = re.findall(r"%([\w.\-]+)", i.rest.split(")")[0])
            inputs = sum(num_bytes(types[o]) for o in operands)
            # A start has inputs and results in its type, so the larger side is what its inputs leave of it.
            outputs = num_bytes(i.type) - (inputs if i.operation.endswith("-start") and kind != "all-reduce" else 0)
            if name.startswith("all-reduce-scatter") and kind == "all-reduce":
                kind = "reduce-scatter"
            found[kind].append((times, max(inputs, outputs)))
        elif i.operation == "while":
            _walk(computations, _called(i, "body"), times * trip_count(computations, i), found)
        elif i.operation == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", i.rest)
            names = re.findall(r"%?([\w.\-]+)", branches[1]) if branches else [_called(i, "true_computation")]
            _walk(computations, names[0], times, found)  # branches differ by platform or padding, not in what they send
        elif i.operation in ("fusion", "call", "async-start") and (
            called := re.search(r"(?:calls|to_apply)=%?([\w.\-]+)", i.rest)
        ):
            _walk(computations, called[1], times, found)


def trip_count(computations: dict, loop: Instruction) -> int:
    """How often the body of a while loop runs; 1 where it depends on the data."""
    if known := re.search(r"known_trip_count[^\d]*(\d+)", loop.rest):
        return int(known[1])
    condition = computations[_called(loop, "condition")]
    constants = {i.name: int(i.rest.split(")")[0]) for i in condition
                 if i.operation == "constant" and re.match(r"-?\d+\)", i.rest)}  # fmt: skip
    for i in condition:
        if i.operation == "compare" and "direction=LT" in i.rest:
            for operand in re.findall(r"%([\w.\-]+)", i.rest.split(")")[0]):
                if operand in constants:
                    return constants[operand]
    return max(constants.values(), default=1)  # the comparison is inside a fusion


def _called(instruction: Instruction, attribute: str) -> str:
    return re.search(rf"\b{attribute}=%?([\w.\-]+)", instruction.rest)[1]


# ---------------------------------------------------------------------------------------------- compiling

FAST = {"exec_time_optimization_effort": -1.0}  # in a tenth of the time; of most models the same collectives, see tests


class DoesNotFit(MemoryError):
    """The step needs more memory than a chip has; the message says how much."""


class Report(NamedTuple):
    """What the compiler says about a step."""

    compile_seconds: float
    peak_gib: float  # per chip
    collectives: dict[str, Volume]  # per chip and step


def abstract(tree, tree_of_shardings):
    """Shapes with shardings for a tree of arrays or shapes, to compile with: nothing is allocated."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, tree_of_shardings)


def abstract_batch(batch, mesh: Mesh):
    """Shapes for a tree of shapes [B, ...], divided along the batch axes of the mesh."""
    return abstract(batch, jax.tree.map(lambda _: NamedSharding(mesh, P(BATCH_AXES)), batch))


def compile_step(step: Callable, arguments: tuple, mesh: Mesh, *, fast: bool = True) -> Report:
    """Compiles step(*arguments), a jitted function, for the devices of a mesh; arguments from `abstract`.

    fast: with the compiler's lowest effort, for sizes and collectives; False: as for a program to be run.
    Raises DoesNotFit for a step that needs too much memory.
    """
    with jax.set_mesh(mesh):
        lowered = step.lower(*arguments)
        start = time.perf_counter()
        try:
            compiled = lowered.compile(compiler_options=FAST if fast else None)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            used = re.search(r"Used ([\d.]+\w) of ([\d.]+\w) hbm", str(error))
            says = f"it needs {used[1]} of the {used[2]} of a chip" if used else str(error).splitlines()[0]
            raise DoesNotFit(f"The step does not fit: {says}. Use more chips or a smaller batch.") from None
        seconds = time.perf_counter() - start
    peak = compiled.memory_analysis().peak_memory_in_bytes / 2**30
    return Report(seconds, peak, totals(compiled.as_text()))


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
    """Bytes that arrive at one chip in all collectives of a step, from `totals`."""
    return sum(ARRIVING[kind] * volume.bytes for kind, volume in volumes.items())
