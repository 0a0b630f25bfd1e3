"""Settings that must be made before a process starts: memory allocator, compilation cache.

    subprocess.run(command, env=os.environ | job())

They are environment variables, which glibc and JAX read only once.
"""

import hashlib
import os
import platform
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


def job() -> dict[str, str]:
    """Environment variables for the processes of a job, such as `kit test`: `allocator`, and a compilation cache that
    is kept in ~/.cache/kitlib for the next job. Where nothing can be written there, each process compiles for itself.

    A folder is for one version of JAX and one type of CPU, because code compiled for another CPU may crash. JAX reports
    a damaged entry as a warning, and compiles. Entries that nobody has used for 30 days are deleted.
    """
    kept = Path("~/.cache/kitlib").expanduser()
    versions = [metadata.version(name) for name in ("jax", "jaxlib")]
    folder = kept / f"xla-{hashlib.sha256(repr((versions, _cpu())).encode()).hexdigest()[:16]}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # of this user alone: what is in there is executed
        for entry in kept.glob("xla-*/*"):
            used = max(entry.stat().st_atime, entry.stat().st_mtime)
            if time.time() - used > 30 * 24 * 3600:
                entry.unlink()
    except OSError:
        return allocator()
    return allocator() | {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }


def _cpu() -> list[str]:
    """What distinguishes CPUs for a compiler: model and features; elsewhere than on Linux, the machine itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = ("model name", "flags", "CPU part", "Features")  # of x86, and of Arm
    return sorted({line for line in lines if line.startswith(names)}) or list(platform.uname())
