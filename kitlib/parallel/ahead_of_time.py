"""Compiling a training step for a TPU slice that is not there, and reading what the compiler says about it.

    report = compile_step(step, arguments, mesh)        # arguments: shapes with shardings, nothing is allocated
    report.peak_gib, report.collectives

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

Built in notebooks/16_from_laptop_to_pod.ipynb.
"""

import math
import re
import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kitlib.parallel.mesh import BATCH_AXES

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
