"""Executes the notebooks, for `kit run` and `kit check`.

A notebook is always executed top to bottom, in a fresh kernel of *this* Python, with the variables of `environment`, so
that a reader's run, the stored outputs and the tests cannot drift apart.
"""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from kitlib.data.files import ROOT, writable, write_text
from kitlib.tools import site
from kitlib.tools.notebook_files import SKIP, find, normalise, number_of_checks, runnable
from kitlib.training.process import kept_cache

CELL_TIMEOUT = 300  # seconds, on the CPU; a stuck cell fails instead of hanging the whole run
PROGRESS = 30  # seconds between two lines about a notebook that is being executed, where no terminal shows a bar


def environment(scale: str) -> dict[str, str]:
    """The environment variables of kernels, including those of `kept_cache`.

    On the CPU scale, all of the user's settings that could change a number (JAX and XLA settings, paths, IPython
    start-up files) are left out.
    """
    ours = {"MPLBACKEND", "PYTHONPATH", "PYTHONSTARTUP"}
    env = {name: value for name, value in os.environ.items() if name not in ours}
    if scale == "cpu":
        env = {name: value for name, value in env.items() if not name.startswith(("JAX_", "XLA_"))}
        env["JAX_PLATFORMS"] = "cpu"
    return env | {
        **kept_cache(),
        "KIT_SCALE": scale,
        "PYTHONNOUSERSITE": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # otherwise ipykernel's debugger warns about frozen modules
        "IPYTHONDIR": str(writable("build/ipython")),
    }


def execute(nb, path: Path, env: dict[str, str], timeout: int | None) -> str:
    """Executes `nb`, read from `path`, in place in a fresh kernel of this Python; returns "" or the failing cell with
    its error. Without a terminal it says now and then how far it is.

    What the kernel's process itself prints (the log of XLA, a race of ipykernel's own threads as it shuts down) is no
    part of the notebook; it is shown only if the kernel died.
    """
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellControlSignal, DeadKernelError

    class ThisPython(KernelSpecManager):  # a user's own "python3" kernelspec may start another Python
        def get_kernel_spec(self, kernel_name):
            return KernelSpec(**get_kernel_dict())

    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    manager = AsyncKernelManager(
        kernel_name="python3",
        kernel_spec_manager=ThisPython(),
        transport_encryption="auto",  # other users of the machine cannot read along; otherwise kernels print a warning
    )
    told = time.monotonic()

    def tell(cell, cell_index, **_) -> None:
        nonlocal told
        if time.monotonic() - told >= PROGRESS and not sys.stderr.isatty():
            print(f"{path.stem}: cell {cell_index + 1} of {len(nb.cells)}", flush=True)
            told = time.monotonic()

    client = NotebookClient(
        nb,
        timeout=timeout,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        skip_cells_with_tag=SKIP,
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_complete=tell,
        km=manager,
    )
    with tempfile.TemporaryFile() as printed:
        try:
            client.execute(env=env, cleanup_kc=True, stderr=printed)
        except CellControlSignal as error:
            return re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # without the terminal colours of a traceback
        except DeadKernelError as error:
            printed.seek(0)
            return f"{error}\n{printed.read().decode(errors='replace')[-2000:]}".strip()
    return ""


@dataclass(frozen=True)
class Result:
    name: str
    seconds: float
    checks: int
    error: str


def execute_all(names: tuple[str, ...], *, refresh: bool, jobs: int, scale: str, root: Path = ROOT) -> int:
    """Executes notebooks in parallel, writes build/, and with `refresh` the outputs in notebooks/. 1 if any failed."""
    from tqdm import tqdm

    if refresh and scale != "cpu":
        raise SystemExit(f"--refresh: got SCALE={scale}; stored outputs are defined on the CPU, use SCALE=cpu.")
    paths = runnable(names, root)
    if not paths:
        print("There is no notebook to execute.")
        return 0
    build = root / "build"
    build.mkdir(exist_ok=True)
    before = seconds_of(root)
    paths.sort(key=lambda path: -before.get(path.stem, float("inf")))  # the longest first, so that none ends alone
    # A kernel takes 1-2 GB and XLA itself uses several cores, so at most 4 run at a time; an accelerator is not shared.
    jobs = jobs or (min(os.cpu_count() or 1, 4) if scale == "cpu" else 1)
    print(f"Executing {len(paths)} notebook{'s' * (len(paths) > 1)} at scale {scale}, {jobs} at a time ...", flush=True)
    failed = []
    bar = tqdm(total=len(paths), unit="notebook", disable=None)  # only in a terminal
    env = environment(scale)
    with bar, ProcessPoolExecutor(jobs, get_context("spawn"), initializer=end_with, initargs=(os.getpid(),)) as pool:
        futures = [pool.submit(execute_one, path, build, refresh, env, scale) for path in paths]
        try:
            for number, future in enumerate(as_completed(futures), 1):
                result = future.result()
                line = f"{result.name:40} {result.seconds:6.1f} s  {result.checks:3d} checks"
                bar.write(f"[{number:2d}/{len(paths)}] {'FAILED' if result.error else 'ok':6} {line}")
                sys.stdout.flush()
                bar.update()
                if result.error:
                    failed.append(result.name)
                    bar.write(f"\n{result.error}\n")
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise SystemExit("Interrupted; what had ended is in build/.") from None
    start = site.write(root).relative_to(root)
    print(f"Wrote {start}. {'Failed: ' + ', '.join(sorted(failed)) if failed else 'All notebooks passed.'}")
    return int(bool(failed))


def end_with(parent: int) -> None:
    """In a worker: ends it, and with it its kernel, when its parent is gone; otherwise both would work on and write."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.3)
        os._exit(1)  # not sys.exit, which would end this thread alone; kernels notice that we are gone, and end

    threading.Thread(target=watch, daemon=True).start()


def execute_one(path: Path, build: Path, refresh: bool, env: dict[str, str], scale: str) -> Result:
    """Executes one notebook, in a process of its own, and writes the result, which may be an error."""
    import nbformat

    (build / path.name).unlink(missing_ok=True)  # an earlier result must not be shown for a run that failed
    started = time.monotonic()
    try:
        nb = nbformat.read(path, as_version=4)
        error = execute(nb, path, env, CELL_TIMEOUT if scale == "cpu" else None)
    except Exception as problem:  # no notebook, or no kernel: report it and continue with the others
        return Result(path.stem, time.monotonic() - started, 0, f"{path.name}: {type(problem).__name__}: {problem}")
    seconds = time.monotonic() - started
    normalise(nb)
    if refresh and not error:
        write_text(path, nbformat.writes(nb))
    nb.metadata["kit"] = {"seconds": round(seconds, 1), "error": error}
    write_text(build / path.name, nbformat.writes(nb))
    return Result(path.stem, seconds, number_of_checks(nb), f"{path.name}: {error}" if error else "")


def seconds_of(root: Path) -> dict[str, float]:
    """How long each notebook of the series took when it was last executed, by name."""
    import nbformat

    runs = [root / "build" / path.name for path in find((), root)]
    return {path.stem: nbformat.read(path, as_version=4).metadata["kit"]["seconds"] for path in runs if path.exists()}


def check(names: tuple[str, ...], root: Path = ROOT) -> int:
    """Strict nbval: executes the notebooks and compares every output with the stored one. 0 if all are equal."""
    paths = runnable(names, root)
    if not paths:
        print("There is no notebook to execute.")
        return 0
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "--nbval-cell-timeout", str(CELL_TIMEOUT)]
    # loadscope keeps the cells of a notebook in one worker, in order. Two workers: four can run out of memory.
    command += ["-n", "2" if len(paths) > 1 else "0", "--dist", "loadscope", "--no-loadscope-reorder"]
    command += ["-p", "no:cacheprovider", "--rootdir", "."]
    command += [f"notebooks/{path.name}" for path in paths]
    return subprocess.run(command, cwd=root, env=environment("cpu")).returncode
