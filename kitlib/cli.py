"""The `kit` command. Every sub-command imports what it needs when it runs, so that `kit --help` is instant."""

import os
import subprocess
import sys
from pathlib import Path

import tyro

Names = tyro.conf.Positional[tuple[str, ...]]
Flag = tyro.conf.FlagCreatePairsOff[bool]


def run(nb: Names = (), /, *, refresh: Flag = False, jobs: int = 0) -> int:
    """Execute notebooks in parallel and write build/index.html.

    The scale is the environment variable KIT_SCALE: cpu (default), gpu or pod.

    Args:
        nb: which, by the start of their file names: 07, or 07_sparse. All, if none is named.
        refresh: also write the outputs back into notebooks/. Stored outputs change in no other way.
        jobs: how many at a time; 0 takes as many as there are cores, up to 4.
    """
    from kitlib import runner

    scale = os.environ.get("KIT_SCALE", "cpu")
    if scale not in ("cpu", "gpu", "pod"):
        raise SystemExit(f"KIT_SCALE (make run SCALE=...): got {scale!r}, expected cpu, gpu or pod.")
    if jobs < 0:
        raise SystemExit(f"--jobs: got {jobs}, expected 0 (as many as there are cores, up to 4) or more.")
    return runner.run(nb, refresh=refresh, jobs=jobs, scale=scale)


def check(nb: Names = (), /) -> int:
    """Execute notebooks and compare every output with the stored one (strict nbval).

    Args:
        nb: which, by the start of their file names. All, if none is named.
    """
    from kitlib import runner

    return runner.check(nb)


def test() -> int:
    """Run the unit tests, then `kit check` on all notebooks. Both run, whichever fails."""
    from kitlib import runner

    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", "tests"]
    with runner.job_cache() as shared:
        unit = subprocess.run(command, cwd=runner.ROOT, env=os.environ | shared).returncode
    notebooks = runner.check(())
    print(f"unit tests: {'FAILED' if unit else 'ok'}; notebooks: {'FAILED' if notebooks else 'ok'}")
    return unit or notebooks


def lab() -> int:
    """Open JupyterLab in notebooks/, in this environment."""
    from kitlib import runner

    runner.find(())  # says so where there is no notebooks/ folder
    return subprocess.run([sys.executable, "-m", "jupyter", "lab"], cwd=runner.ROOT / "notebooks").returncode


def doctor() -> int:
    """Check this installation: packages, data, cache folder, devices."""
    from kitlib import doctor

    return doctor.main()


def bench(names: Names = (), /) -> int:
    """Print the kit's benchmarks, measured with the memory settings of `kit run`.

    Args:
        names: which benchmarks. All, if none is named.
    """
    from kitlib import bench, runner

    if "GLIBC_TUNABLES" not in os.environ and (settings := runner.allocator()):
        line = f"from kitlib import cli; cli.bench({names!r})"  # glibc reads its settings when a process starts
        return subprocess.run([sys.executable, "-c", line], env=os.environ | settings).returncode
    return bench.main(names) or 0


def claims(paper: str, studies: Names = (), /, *, jobs: int = 0) -> int:
    """Measure a paper's claims at kit scale and store the tables in data/results: hours, resumable at any moment.

    Args:
        paper: upcycling, ensembles or palix.
        studies: which. All, if none is named.
        jobs: how many runs at a time; 0 takes as many as there are cores.
    """
    from kitlib import claims

    return claims.main(paper, studies, jobs) or 0


def train(*, folder: Path = Path("build/palix"), seed: int = 0) -> int:
    """Train the kit's PaLI-X, the S rung, in all its stages: an hour on two fast cores, resumable.

    Writes data/checkpoints/palix_s.npz, which the notebooks load, and its scores beside it.

    Args:
        folder: for the saves of every stage; started again with the same one, training goes on from there.
        seed: of parameters and examples.
    """
    from kitlib import runner, stages

    if "GLIBC_TUNABLES" not in os.environ and (settings := runner.allocator()):
        line = f"from pathlib import Path; from kitlib import stages; stages.main(Path({str(folder)!r}), {seed})"
        return subprocess.run([sys.executable, "-c", line], env=os.environ | settings).returncode
    return stages.main(folder, seed) or 0


def stamp() -> int:
    """Write the repository's address (pyproject.toml, [project.urls]) into badges and set-up cells of all notebooks."""
    import nbformat

    from kitlib import runner

    address = runner.repository()
    for path in runner.find(()):
        nb = nbformat.read(path, as_version=4)
        stamp_notebook(nb, path.name, address)
        runner.write_atomically(path, nbformat.writes(nb))
        print(f"stamped {path.name}: {address or 'no address, [project.urls] Repository in pyproject.toml is unset'}")
    return 0


def stamp_notebook(nb, name: str, address: str) -> None:
    """Sets the last line of the title cell (the Colab badge; none while there is no address) and the set-up cell."""
    from kitlib import __version__, runner

    setup = [c for c in nb.cells if runner.SKIP in c.metadata.get("tags", []) and "google.colab" in c.source]
    if len(setup) != 1:
        raise SystemExit(f"{name}: got {len(setup)} set-up cells (tag {runner.SKIP}, google.colab), expected one.")
    setup[0].source = runner.setup_cell(address)
    title = [line for line in nb.cells[0].source.splitlines() if not line.startswith("[![Open in Colab]")]
    colab, project = "https://colab.research.google.com", address.removeprefix("https://github.com/")
    link = f"{colab}/github/{project}/blob/v{__version__}/notebooks/{name}"
    badge = f"\n\n[![Open in Colab]({colab}/assets/colab-badge.svg)]({link})" if address else ""
    nb.cells[0].source = "\n".join(title).rstrip() + badge


def main() -> int:
    """Entry point; the result is the exit status."""
    commands = {command.__name__: command for command in (run, lab, check, test, doctor, bench, claims, train, stamp)}
    try:
        return tyro.extras.subcommand_cli_from_dict(commands, prog="kit", description="The notebooks of kitlib.")
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}. In the kit's folder, run: pip install -e '.[lab,test]', then: kit doctor") from None
