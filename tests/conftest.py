"""The unit tests run under strict settings, so that silent mistakes become errors."""

import gc
import os
from importlib import metadata
from pathlib import Path

# A matching device for every developer: unit tests are about the CPU. Multi-device tests start their own process.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["KIT_SCALE"] = "cpu"
os.environ["MPLBACKEND"] = "agg"
# Tests spend more time on compiling than on computing, so XLA optimises little, here and in the processes that tests
# start, as in JAX's own tests. `kit check` runs every notebook fully optimised, and so do tests with `optimised`.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Most of what is left is MLIR's pipeline for fused element-wise operations; XLA's older emitter needs a third
# less for whole test files. JAX 0.12 has only the new one, and XLA ends the process if a flag is unknown.
if metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")  # (B, D) + (D,) must say which axis it means
# jax_debug_nans stays off: it disables buffer donation, so the tests would run another program than the users'.

# Warnings that come from others' code at import or on exit and say nothing about the kit.
FOREIGN_WARNINGS = (
    "ignore:.*:DeprecationWarning:(tensorflow_datasets|etils|promise|portpicker|orbax|grain|flax|array_record).*",
    "ignore:Proactor event loop:RuntimeWarning",
    "ignore:os.fork.. was called:RuntimeWarning",  # grain's and TFDS's own worker processes
    # `kit test` shares a compilation cache among processes, some of which are killed by the tests. JAX writes an entry
    # in place, so another process may find half of one: it is told so, and compiles.
    "ignore:Error (reading|writing) persistent compilation cache entry:UserWarning",
)


MOST_MAPS = 30_000


def pytest_configure(config):
    """Warnings are errors; later lines win, so the exceptions come after."""
    for line in ("error", *FOREIGN_WARNINGS):
        config.addinivalue_line("filterwarnings", line)


def pytest_collection_finish():
    """Tracing makes millions of small objects: Python need not search all modules for garbage again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Compiled programs hold memory maps, of which Linux gives a process 65,530 (vm.max_map_count): with too many a
    worker crashes. Before that, programs of earlier files are forgotten."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def optimised(monkeypatch):
    """All optimisations, here and in the processes that the test starts: for what XLA makes of a program."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def few_questions(monkeypatch):
    """Studies of ensembles ask about few pictures; nothing is kept from one test for the next."""
    from kitlib.studies.ensembles import measures

    monkeypatch.setattr(measures, "NUM_CORRUPTED", 2)
    monkeypatch.setattr(measures, "NUM_OOD", 3)
    monkeypatch.setattr(measures, "NUM_QUERIES", 20)
    monkeypatch.setattr(measures, "OOD_SETS", ("inverted", "animals"))
    monkeypatch.setattr(measures, "SHOTS", (1, 2))
    monkeypatch.setattr(measures, "NUM_DRAWS", 2)
    for function in (measures.test_images, measures.probe_task):
        function.cache_clear()
    yield
    for function in (measures.test_images, measures.probe_task):
        function.cache_clear()
