"""Compiling a training step for a TPU slice that is not there, and reading what the compiler says about it.

    report = compile_step(step, arguments, mesh)        # arguments: shapes with shardings, nothing is allocated
    report.peak_gib, report.collectives

The real compiler of the real chips runs on any Linux machine; only the program is not run. What it needs: the step, the
shapes of its arguments, and how they are divided (`abstract`). A step "fits" if it compiles: the compiler raises
`DoesNotFit` for one that needs more memory than a chip has. `peak_gib` is what it says about one that fits; the sum of
arguments and temporaries, printed by others, is not the peak, as not all of them live at once.

Built in notebooks/16_from_laptop_to_pod.ipynb.
"""

import re
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kitlib.parallel import hlo
from kitlib.parallel.mesh import BATCH_AXES

FAST = {"exec_time_optimization_effort": -1.0}  # in a tenth of the time; of most models the same collectives, see tests


class DoesNotFit(MemoryError):
    """The step needs more memory than a chip has; the message says how much."""


class Report(NamedTuple):
    """What the compiler says about a step."""

    compile_seconds: float
    peak_gib: float  # per chip
    collectives: dict[str, hlo.Volume]  # per chip and step


def abstract(tree, tree_of_shardings):
    """Shapes with shardings for a tree of arrays or shapes, to compile with: nothing is allocated."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree, tree_of_shardings
    )


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
    return Report(seconds, peak, hlo.totals(compiled.as_text()))
