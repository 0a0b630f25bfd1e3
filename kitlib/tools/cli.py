"""The `kit` command. Each sub-command imports its modules only when it runs, so that `kit --help` is fast."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import tyro

Names = tyro.conf.Positional[tuple[str, ...]]
Flag = tyro.conf.FlagCreatePairsOff[bool]


def run(nb: Names = (), /, *, refresh: Flag = False, jobs: int = 0) -> int:
    """Execute notebooks in parallel and make the site, build/site/index.html.

    The scale is the environment variable KIT_SCALE: cpu (default), gpu or pod.

    Args:
        nb: the notebooks, by the start of their file names: 07, or 07_sparse. All, if none is named.
        refresh: also write the outputs back into notebooks/. Stored outputs change in no other way.
        jobs: how many notebooks run at a time; 0 means one per core, up to 4.
    """
    from kitlib.tools import notebooks

    scale = os.environ.get("KIT_SCALE", "cpu")
    if scale not in ("cpu", "gpu", "pod"):
        raise SystemExit(f"KIT_SCALE (make run SCALE=...): got {scale!r}, expected cpu, gpu or pod.")
    if jobs < 0:
        raise SystemExit(f"--jobs: got {jobs}, expected 0 (as many as there are cores, up to 4) or more.")
    return notebooks.execute_all(nb, refresh=refresh, jobs=jobs, scale=scale)


def check(nb: Names = (), /) -> int:
    """Execute notebooks and compare every output with the stored one (strict nbval).

    Args:
        nb: the notebooks, by the start of their file names. All, if none is named.
    """
    from kitlib.tools import notebooks

    _needs_pytest("kit check")
    return notebooks.check(nb)


def test(paths: Names = (), /, *, quick: Flag = False) -> int:
    """Run the unit tests, then `kit check` on all notebooks, even if the unit tests fail.

    Args:
        paths: only these unit tests and no notebooks: packages of the library (moe), or files and folders of tests.
        quick: only the unit tests that matter most (without those marked slow), and no notebooks: two minutes.
    """
    from kitlib.data import files
    from kitlib.tools import notebooks
    from kitlib.training import process

    _needs_pytest("kit test")
    folders = [f"tests/{path}" if (files.ROOT / "tests" / path).exists() else path for path in paths]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", *(folders or ["tests"])]
    env = os.environ | process.kept_cache()
    unit = subprocess.run(command + ["-m", "not slow"] * quick, cwd=files.ROOT, env=env).returncode
    if paths or quick:
        return unit
    compared = notebooks.check(())
    print(f"unit tests: {'FAILED' if unit else 'ok'}; notebooks: {'FAILED' if compared else 'ok'}")
    return unit or compared


def lab(options: Names = (), /) -> int:
    """Open JupyterLab in notebooks/ or another folder, in this environment. A lesson that is saved without a change has
    no difference in git.

    Args:
        options: passed on to jupyter lab: a folder such as one made by `kit copy`, --no-browser, --port 9000.
    """
    from kitlib.data import files
    from kitlib.tools import notebook_files

    notebook_files.find(())  # exits with a message if there is no notebooks/ folder
    folder = [] if any(Path(option).exists() for option in options) else [str(files.ROOT / "notebooks")]
    command = [sys.executable, "-m", "jupyter", "lab", *folder, *options]
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # as in most containers, where Jupyter would refuse to start
        command.append("--allow-root")
    os.execve(command[0], command, notebook_files.jupyter_environment())  # in our place: what ends kit lab, ends it


def copy(folder: tyro.conf.Positional[Path], nb: Names = (), /) -> int:
    """Copy notebooks into a folder of your own, to do the exercises: nothing that you change there touches the kit.

    Args:
        folder: is made if it is missing; nothing in it is written over.
        nb: the notebooks, by the start of their file names. All, if none is named.
    """
    from kitlib.tools import notebook_files

    copies = notebook_files.copy(folder, nb)
    print(f"copied {len(copies)} notebooks into {folder}; open them with: kit lab {folder}")
    return 0


def doctor() -> int:
    """Check this installation: packages, data, cache folder, devices."""
    from kitlib.tools import doctor

    return doctor.main()


def bench(names: Names = (), /) -> int:
    """Print the kit's benchmarks, measured with the memory settings of `kit run`.

    Args:
        names: of vit, moe, e3, t5, palix and import. All, if none is named.
    """
    from kitlib.bench import runner
    from kitlib.training import process

    done = process.run_with_allocator(f"from kitlib.bench import runner; runner.main({names!r})")
    return runner.main(names) or 0 if done is None else done


def claims(
    paper: tyro.conf.Positional[str] = "",
    studies: Names = (),
    /,
    *,
    list: Flag = False,
    budget: Flag = False,
    jobs: int = 0,
) -> int:
    """Measure a paper's claims at kit scale and store the tables in data/results: hours, resumable at any moment.

    Args:
        paper: upcycling, ensembles or palix.
        studies: the studies of that paper (kit claims PAPER --help lists them). All, if none is named.
        list: train nothing; print every claim of the papers, of this one or of these studies, and what became of it.
        budget: train nothing; print how many runs are left, and how many hours they take.
        jobs: how many training runs at a time; 0 means one per core.
    """
    if list:
        from kitlib.studies import claims

        return claims.main(paper or None, studies)
    if not paper:
        raise SystemExit("kit claims: which paper? upcycling, ensembles or palix; or --list, to see what is known.")
    from kitlib.studies import runner

    return (runner.budget if budget else runner.main)(paper, studies, jobs) or 0


def list_studies(paper: str) -> int:
    """`kit claims PAPER --help`: the studies of a paper, with their questions, arms and seeds."""
    from kitlib.studies import runner, tables

    for name, make in runner.studies_of(paper).items():
        study = make()
        stored = ", stored" if tables.is_stored(paper, name) else ""
        print(f"{name}: {study.question} {len(study.arms)} arms, {study.seeds} seeds{stored}")
    print(f"run them with: kit claims {paper} NAME ...; the tables go to {runner.RESULTS}")
    return 0


def train() -> int:
    """Train any model of the kit on any data set of the kit: kit train NAME --help."""
    if sys.argv[2:3] == ["palix_s"]:  # the released model has stages of its own
        return tyro.cli(palix_s, args=sys.argv[3:], prog="kit train palix_s")
    from kitlib.runs import command

    return command.main(sys.argv[2:])


def export() -> int:
    """Write a trained ViT as a folder that Hugging Face's transformers reads: kit export NAME FOLDER."""
    from kitlib.runs import command

    return command.export(sys.argv[2:])


def palix_s(*, folder: Path = Path("build/palix_s"), seed: int = 0) -> int:
    """Train the kit's PaLI-X of size S in all its stages: hours on two fast cores, resumable at any moment.

    Writes data/checkpoints/palix_s.safetensors, which the notebooks load, its scores and its loss curves.

    Args:
        folder: for the saved states of every stage; started again with the same folder, training continues from them.
        seed: of the parameters and the examples.
    """
    from kitlib.multimodal import stages
    from kitlib.runs import command
    from kitlib.training import process

    line = f"import pathlib, sys; from kitlib.tools import cli; folder = pathlib.Path({str(folder)!r})"
    done = process.run_with_allocator(f"{line}; sys.exit(cli.palix_s(folder=folder, seed={seed}))")
    return command.explained("kit train palix_s", lambda: stages.main(folder, seed) or 0) if done is None else done


def show(files: Names, /, *, question: str = "", out: Path = Path("build/show.html")) -> int:
    """Show your own pictures to the kit's PaLI-X: names in sixteen languages, boxes, a count and an answer, as a page.

    The model has seen drawings of 417 objects, 64 pixels wide, and simple shapes, so it fails on most other pictures.

    Args:
        files: pictures: PNG, JPEG, WebP and others.
        question: asked of every picture, in English, such as "what color is the shape?" or "is there a circle in the
            image?".
        out: the page, an HTML file that needs no network.
    """
    from kitlib.tools import show

    return show.main(files, question, out)


def weights(action: tyro.conf.Positional[Literal["list", "fetch"]], name: tyro.conf.Positional[str] = "", /) -> int:
    """List the real pretrained weights that the kit can read, or fetch one of them: 90 MB, checked by hash, resumable.

    Args:
        action: list or fetch.
        name: which weights to fetch, such as dinov2-s14.
    """
    from kitlib.data import download

    return download.main(action, name or None)


def pods(
    title: tyro.conf.Positional[str] = "", /, *, slice: str = "", mesh: str = "", batch: int = 0, all: Flag = False
) -> int:
    """Compile training steps of published sizes for TPU slices, without a TPU. Needs the extra "pods".

    Args:
        title: the row of data/results/pods.csv to compile and print, or with --slice a model: L/16, 1.1-xl, 55B or that
            of a row, such as "V-MoE H/14". Without it, the rows are listed.
        slice: of a generation of TPUs, such as v5e:4x4.
        mesh: as data=4,fsdp=4; default: all chips along fsdp.
        batch: examples per step; 0: the largest batch that fits.
        all: compile all rows and write the table; about 40 minutes.
    """
    from kitlib.studies import pods

    return pods.main(title, all, slice, mesh, batch)


def stamp() -> int:
    """Write the repository's address (pyproject.toml, [project.urls]) into all notebooks' badges and set-up cells, and
    into README.md."""
    import nbformat

    from kitlib.data import files
    from kitlib.tools import notebook_files

    address = notebook_files.repository()
    for path in notebook_files.find(()):
        nb = nbformat.read(path, as_version=4)
        notebook_files.stamp(nb, path.name, address)
        files.write_text(path, nbformat.writes(nb))
        print(f"stamped {path.name}: {address or 'no address, [project.urls] Repository in pyproject.toml is unset'}")
    readme = files.ROOT / "README.md"
    files.write_text(readme, notebook_files.with_badges(readme.read_text(encoding="utf-8"), address))
    return 0


def docs() -> int:
    """Write the tables of results in README.md, docs/claims.md and docs/palix.md, from the stored results."""
    from kitlib.tools import result_tables

    return result_tables.main()


def _needs_pytest(command: str) -> None:
    """Ends the program with one sentence if pytest is not installed."""
    from kitlib.tools import doctor

    if not importlib.util.find_spec("pytest"):
        raise SystemExit(f"{command} needs the extra test: {doctor.install('test')}")


def main() -> int:
    """Entry point; the result is the exit status."""
    arguments = sys.argv[1:]
    if arguments in (["--version"], ["-V"]):
        from kitlib import __version__

        print(f"kitlib {__version__}")
        return 0
    if arguments[:1] == ["lab"] and not {"-h", "--help"} & set(arguments):  # its options are JupyterLab's
        return lab(tuple(arguments[1:]))
    if arguments[:1] == ["claims"] and len(arguments) == 3 and {"-h", "--help"} & set(arguments):
        return list_studies(next(name for name in arguments[1:] if name not in ("-h", "--help")))
    found = (run, lab, copy, check, test, doctor, bench, claims, train, export, show, pods, weights, stamp, docs)
    commands = {command.__name__: command for command in found}
    if arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
        from kitlib.configs.arguments import one_of

        one_of("command", arguments[0], commands, SystemExit)
    try:
        if arguments[:1] in (["train"], ["export"]):  # their options depend on the name that follows
            return commands[arguments[0]]()
        return tyro.extras.subcommand_cli_from_dict(commands, prog="kit", description="The notebooks of kitlib.")
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}. In the kit's folder, run: pip install -e '.[lab,test]', then: kit doctor") from None
    except KeyboardInterrupt:
        raise SystemExit("\nkit: stopped; trainings, studies and downloads go on where they were.") from None
    except BrokenPipeError:  # as in `kit claims --list | head`: nobody reads on, which is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        from kitlib.data import files

        raise SystemExit(f"kit: {files.sentence(error)}") from None
