"""Executes the notebooks, for `kit run` and `kit check`, which compares what they show with what is stored.

A notebook is always executed top to bottom, in a fresh kernel of *this* Python, with the variables of `environment`, so
that a reader's run, the stored outputs and the tests cannot drift apart.
"""

import copy
import difflib
import os
import re
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from kitlib.data.files import ROOT, write_text
from kitlib.tools import site
from kitlib.tools.notebook_files import SKIP, UNCOMPARED, find, normalise, number_of_checks, runnable
from kitlib.training import process

CELL_TIMEOUT = 300  # seconds, on the CPU; a stuck cell fails instead of hanging the whole run
PROGRESS = 30  # seconds between two lines about a notebook that is being executed, where no terminal shows a bar


def environment(scale: str) -> dict[str, str]:
    """The environment variables of kernels, including those of `process.job`.

    On the CPU scale, all of the user's settings that could change a number (JAX and XLA settings, paths, IPython
    start-up files) are left out.
    """
    ours = {"MPLBACKEND", "PYTHONPATH", "PYTHONSTARTUP"}
    env = {name: value for name, value in os.environ.items() if name not in ours}
    if scale == "cpu":
        env = {name: value for name, value in env.items() if not name.startswith(("JAX_", "XLA_"))}
        env["JAX_PLATFORMS"] = "cpu"
    return (
        env
        | process.job()
        | {
            "KIT_SCALE": scale,
            "PYTHONNOUSERSITE": "1",
            "PYTHONWARNINGS": "ignore:Error reading persistent compilation cache entry",  # compiled again instead
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # otherwise ipykernel's debugger warns about frozen modules
            "IPYTHONDIR": str(Path("~/.cache/kitlib/ipython").expanduser()),
        }
    )


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


def execute_all(
    names: tuple[str, ...],
    *,
    refresh: bool = False,
    compare: bool = False,
    jobs: int = 0,
    scale: str = "cpu",
    root: Path = ROOT,
) -> int:
    """Executes notebooks in parallel and writes build/. 1 if any failed.

    refresh: also write the outputs in notebooks/. compare: with what is stored there; a difference is a failure.
    """
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
    # Processes that end soon after this one, even if it is killed; otherwise they would work on and write.
    with bar, ProcessPoolExecutor(jobs, get_context("spawn"), initializer=end_with, initargs=(os.getpid(),)) as pool:
        futures = [pool.submit(execute_one, path, build, refresh, compare, env, scale) for path in paths]
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
    """In a worker: ends it, and with it its kernel, when its parent is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.3)
        os._exit(1)  # not sys.exit, which would end this thread alone; kernels notice that we are gone, and end

    threading.Thread(target=watch, daemon=True).start()


def execute_one(path: Path, build: Path, refresh: bool, compare: bool, env: dict[str, str], scale: str) -> Result:
    """Executes one notebook, in a process of its own, and writes the result, which may be an error."""
    import nbformat

    (build / path.name).unlink(missing_ok=True)  # an earlier result must not be shown for a run that failed
    started = time.monotonic()
    try:
        nb = nbformat.read(path, as_version=4)
        stored = copy.deepcopy(nb)
        error = execute(nb, path, env, CELL_TIMEOUT if scale == "cpu" else None)
    except Exception as problem:  # no notebook, or no kernel: report it and continue with the others
        return Result(path.stem, time.monotonic() - started, 0, f"{path.name}: {type(problem).__name__}: {problem}")
    seconds = time.monotonic() - started
    normalise(nb)
    if refresh and not error:
        write_text(path, nbformat.writes(nb))
    nb.metadata["kit"] = {"seconds": round(seconds, 1), "error": error}
    write_text(build / path.name, nbformat.writes(nb))
    if compare and not error:
        rules = (path.parent / "nbval_sanitize.cfg").read_text(encoding="utf-8")
        found = [f"Cell {i}, stored (-) and now (+)\n{lines}" for i, lines in differences(stored, nb, rules)]
        error = f"\n{path.name}: ".join(found)
    return Result(path.stem, seconds, number_of_checks(nb), f"{path.name}: {error}" if error else "")


def differences(stored, now, rules: str) -> list[tuple[int, str]]:
    """(number of the code cell, the lines that differ) for each cell in which `pytest --nbval` finds another output.

    stored, now: the notebook before and after its execution. rules: text of notebooks/nbval_sanitize.cfg.
    """
    found = []
    cells = ([cell for cell in nb.cells if cell.cell_type == "code"] for nb in (stored, now))
    for i, (old, new) in enumerate(zip(*cells, strict=True)):
        never_run = old.execution_count is None and not old.outputs
        if never_run or {SKIP, "nbval-ignore-output"} & set(old.metadata.get("tags", [])):
            continue
        before, after = compared(old, rules), compared(new, rules)
        if before != after:
            lines = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]
            found.append((i, "\n".join(line for line in lines if not line.startswith("@@"))))
    return found


def compared(cell, rules: str) -> list[str]:
    """The lines of a cell's outputs that are compared, kind by kind, without what the rules rewrite."""
    texts: dict[str, list[str]] = {}
    for output in cell.outputs:
        if output.output_type == "stream":  # all that is printed is one text
            texts[output.name] = ["".join([*texts.get(output.name, []), output.text])]
        named = {name: output[name] for name in ("ename", "evalue") if name in output}
        for kind, text in {**output.get("data", {}), **named}.items():
            texts.setdefault(kind, []).append(str(text))
    lines = []
    for kind in sorted(texts.keys() - set(UNCOMPARED)):
        for text in texts[kind]:
            for pattern, replacement in re.findall("^regex: (.*)\n^replace: (.*)$", rules, flags=re.MULTILINE):
                text = re.sub(pattern, replacement, text)
            lines += [f"{kind}:", *text.split("\n")]
    return lines


def seconds_of(root: Path) -> dict[str, float]:
    """How long each notebook of the series took when it was last executed, by name."""
    import nbformat

    runs = [root / "build" / path.name for path in find((), root)]
    return {path.stem: nbformat.read(path, as_version=4).metadata["kit"]["seconds"] for path in runs if path.exists()}
