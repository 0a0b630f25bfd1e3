"""Settings that must be made before a process starts: memory allocator, compilation cache.

    subprocess.run(command, env=os.environ | kept_cache())

They are environment variables, which glibc and JAX read only once.
"""

import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
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


MOST_BYTES = 4e9  # of compiled programs that are kept; beyond, they are thrown away and made again


def kept_cache() -> dict[str, str]:
    """Environment variables for the processes of a job: they share a compilation cache and use huge pages.

    The cache is kept for the next job on this machine, in the user's own folder (`XDG_CACHE_HOME`, by default
    ~/.cache) and may be deleted at any time. Code compiled for another type of CPU may crash, so every type has a
    folder of its own, and so has every set of versions.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "kitlib")
    made_for = [cpu(), sys.version, *(metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax"))]
    folder = caches / f"jax-{hashlib.sha256(' '.join(made_for).encode()).hexdigest()[:16]}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for other in caches.glob("jax-*"):
            unused = time.time() - other.stat().st_mtime > 30 * 86400  # the time of the last new program
            if (unused and other != folder) or sum(file.stat().st_size for file in other.iterdir()) > MOST_BYTES:
                shutil.rmtree(other, ignore_errors=True)
    except OSError:
        return allocator()  # nothing can be kept here; every process compiles for itself
    return allocator() | {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }


def cpu() -> str:
    """What this machine's processor is and can do, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        return f"{platform.machine()} {platform.processor()}"
    said = ("model name", "flags", "CPU part", "Features")  # x86 has the first two, ARM the others
    return " ".join(sorted({line for line in lines if line.startswith(said)}))
