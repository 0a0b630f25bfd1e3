"""Settings that must be made before a process starts: memory allocator, compilation cache.

    with job_cache() as variables:
        subprocess.run(command, env=os.environ | variables)

They are environment variables, which glibc and JAX read only once.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


def allocator() -> dict[str, str]:
    """The environment variable that makes glibc keep freed memory, in huge pages, on Linux; a value set before is kept.

    XLA allocates its temporary arrays again in every step. By default, glibc returns large ones to the system after
    each use, and up to a third of a step is spent on the page faults of getting them again. With these settings, the
    process keeps up to 4 GB.
    """
    ours = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"
    ours += ":glibc.malloc.mmap_threshold=4000000000:glibc.malloc.trim_threshold=4000000000"
    return {"GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ours)} if sys.platform == "linux" else {}


def run_with_allocator(line: str) -> int | None:
    """Runs a line of Python in a new process with the settings of `allocator`, and returns its exit status.

    Returns None, and starts nothing, if the settings are made already or do not exist on this system. A new process is
    needed because glibc reads its settings when a process starts. SIGTERM is passed on to it, so that it can save.
    """
    if "GLIBC_TUNABLES" in os.environ or not (settings := allocator()):
        return None
    with subprocess.Popen([sys.executable, "-c", line], env=os.environ | settings) as child:
        before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        try:
            return child.wait()
        finally:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def job_cache() -> Iterator[dict[str, str]]:
    """Environment variables for the processes of a job: they share a compilation cache and use huge pages.

    The cache is deleted at the end of the `with` block, because code compiled for another type of CPU may crash.
    """
    with tempfile.TemporaryDirectory(prefix="kit-", ignore_cleanup_errors=True) as folder:
        env = {
            "JAX_COMPILATION_CACHE_DIR": str(Path(folder, "jax")),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        }
        yield env | allocator()
