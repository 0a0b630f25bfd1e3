"""Notebooks as files: found by name, copied for exercises, written without what differs between machines; what an
executed one shows: its title, its checks with what was measured, its last figure."""

import base64
import contextlib
import io
import json
import os
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

from kitlib import __version__
from kitlib.configs.nearest_name import one_of
from kitlib.data import download
from kitlib.data.files import ROOT, write_text
from kitlib.tools.html_table import cells_of

SKIP = "nbval-skip"  # the tag of cells that are never executed here: the Colab set-up cell, optional downloads

# Kinds of outputs that are not compared: pictures differ in pixels between machines, warnings carry paths, SVG a date.
UNCOMPARED = (
    "stderr", "image/png", "image/jpeg", "image/svg+xml", "text/html", "application/javascript",
    "application/vnd.jupyter.widget-view+json",
)  # fmt: skip

# The cell that makes a notebook run on Colab, or says how; the same in every notebook (`kit stamp` writes it). Colab's
# own jax and numpy must not be replaced under a running kernel, so the kit is installed alone (--no-deps), then what is
# missing. {default} is the address of this version; without one nothing is fetched: the user names the kit.
SETUP = """\
# @title If kitlib is not here: Colab gets it from KITLIB, and what it lacks; jax, numpy and the rest stay.
import importlib.util
import os
import subprocess
import sys

kit = os.environ.get("KITLIB", "{default}")  # a wheel, a folder, or git+ and an address
if "google.colab" in sys.modules and kit:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", kit], check=True)
    from kitlib.tools.doctor import complete

    complete()
elif not importlib.util.find_spec("kitlib"):
    raise SystemExit(
        "kitlib is not here yet. In its folder, `make lab` opens this lesson; on Colab, run a line, then this again:\\n"
        "its wheel (pip wheel --no-deps -w dist .), uploaded: %env KITLIB=/content/{wheel}\\n"
        "its copy, made by !git clone --depth 1 ADDRESS /content/kit: %env KITLIB=/content/kit"
    )"""


def find(names: tuple[str, ...], root: Path = ROOT) -> list[Path]:
    """The notebooks whose file names start with any of `names` (`07`, `07_sparse`, a path), or all of them. Raises
    SystemExit for a name that no notebook has (with the nearest one), or if there is no notebooks/ folder."""
    folder = root / "notebooks"
    if not folder.is_dir():
        raise SystemExit(
            f"No notebooks/ folder beside the kitlib package ({root.name}/): take them out with `kit copy FOLDER` and "
            "open them there, or run kit from a checkout."
        )
    return named(sorted(folder.glob("*.ipynb")), names)


def named(paths: list[Path], names: tuple[str, ...]) -> list[Path]:
    """Of these notebooks, those whose names start with any of `names`; all, if there are none. SystemExit as `find`."""
    chosen = set()
    for name in names:
        parent = Path(name).parent
        if parent not in (Path("."), Path("notebooks")) and parent.resolve() != paths[0].parent.resolve():
            raise SystemExit(
                f"{name} is none of the kit's own notebooks; a copy is executed by: jupyter execute --inplace {name}"
            )
        stem = Path(name).name.removesuffix(".ipynb")
        found = [path for path in paths if path.stem.lower().startswith(stem.lower())]
        if not found:
            one_of("notebook", name, [path.stem for path in paths], SystemExit)
        chosen.update(found)
    return sorted(chosen) if names else paths


def lacks(path: Path) -> str:
    """Why a notebook cannot run here, in one sentence; "" if it can. One that needs real weights names them in its
    metadata: {"needs": "dinov2-s14"}."""
    try:
        needs = json.loads(path.read_text(encoding="utf-8"))["metadata"].get("needs")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""  # no notebook: whoever executes it will say so
    with contextlib.suppress(FileNotFoundError):
        if not needs or download.weights_file(needs):
            return ""
    return f"{path.stem} is skipped: it needs real weights, get them once with: kit weights fetch {needs}"


def runnable(names: tuple[str, ...], root: Path = ROOT) -> list[Path]:
    """As `find`, without those that lack something here; a line is printed for each of them."""
    found = {path: lacks(path) for path in find(names, root)}
    for reason in filter(None, found.values()):
        print(reason)
    return [path for path, reason in found.items() if not reason]


def copy(folder: Path, names: tuple[str, ...] = ()) -> list[Path]:
    """Copies the notebooks, all or those whose names start with any of `names`, into a folder: to do exercises there
    leaves the checkout as it is. Links to what is not copied lead back to where it is. Returns the copies.

    Raises SystemExit for an unknown name, and if a file of that name is there already: nothing is written over.
    """
    here, packaged = ROOT / "notebooks", ROOT / "kitlib" / "_notebooks"  # of a checkout, of a wheel
    sources = named(sorted((here if here.is_dir() else packaged).glob("*.ipynb")), names)
    if there := [path.name for path in sources if (folder / path.name).exists()]:
        raise SystemExit(f"kit copy: {folder / there[0]} is there already; name another folder, or move it away.")
    folder.mkdir(parents=True, exist_ok=True)
    copied = {path.name for path in sources}

    def elsewhere(link: re.Match) -> str:
        target = sources[0].parent / link[1]
        if link[1] in copied or not target.exists():
            return link[0]
        return "](" + os.path.relpath(target.resolve(), folder.resolve())

    for path in sources:
        text = path.read_text(encoding="utf-8")
        (folder / path.name).write_text(re.sub(r"\]\(([\w./-]+)", elsewhere, text), encoding="utf-8")
    return [folder / path.name for path in sources]


def repository(root: Path = ROOT) -> str:
    """The project's address: `[project.urls] Repository` in pyproject.toml, written only there. "" while unset."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return project.get("urls", {}).get("Repository", "").rstrip("/")


def stamp(nb, name: str, address: str) -> None:
    """Sets the last line of the title cell (the Colab badge; none if there is no address) and the set-up cell."""
    setup = [c for c in nb.cells if SKIP in c.metadata.get("tags", []) and "google.colab" in c.source]
    if len(setup) != 1:
        raise SystemExit(f"{name}: got {len(setup)} set-up cells (tag {SKIP}, google.colab), expected one.")
    setup[0].source, setup[0].metadata["cellView"] = setup_cell(address), "form"  # Colab shows its title alone
    title = [line for line in nb.cells[0].source.splitlines() if not line.startswith("[![Open in Colab]")]
    colab, project = "https://colab.research.google.com", address.removeprefix("https://github.com/")
    link = f"{colab}/github/{project}/blob/v{__version__}/notebooks/{name}"
    badge = f"\n\n[![Open in Colab]({colab}/assets/colab-badge.svg)]({link})" if address else ""
    nb.cells[0].source = "\n".join(title).rstrip() + badge


def with_badges(readme: str, address: str) -> str:
    """README.md with its badges (tests, site, licence) and its `git clone` for this address; without one, ADDRESS."""
    readme = re.sub(r"(?<=^git clone --depth 1 )\S+", address or "ADDRESS", readme, flags=re.MULTILINE)
    badges = "<!-- badges -->"
    if address:
        owner, _, name = address.removeprefix("https://github.com/").partition("/")
        tests, pages = f"{address}/actions/workflows/tests.yml", f"https://{owner}.github.io/{name}"
        badges += f" [![tests]({tests}/badge.svg)]({tests}) [site]({pages}) · [Apache-2.0](LICENSE)"
    return re.sub(r"^<!-- badges -->.*$", lambda _: badges, readme, flags=re.MULTILINE)


def setup_cell(address: str) -> str:
    """Source of the Colab set-up cell: installs this version of the kit, from the address or from what KITLIB names."""
    default = f"git+{address}@v{__version__}" if address else ""
    return SETUP.format(default=default, wheel=f"kitlib-{__version__}-py3-none-any.whl")


def normalise(nb, *, figures: bool = True) -> None:
    """Removes from the notebook all that a refresh on another machine would not write as well; keeps the cell ids.

    figures: whether figures get fewer colours, as after an execution.
    """
    needs = {name: nb.metadata[name] for name in ("needs",) if name in nb.metadata}
    nb.metadata = needs | {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in nb.cells:
        cell.metadata = {name: cell.metadata[name] for name in ("cellView", "tags") if cell.metadata.get(name)}
        for output in cell.get("outputs", []):
            if figures and "image/png" in output.get("data", {}):
                output["data"]["image/png"] = fewer_colours(output["data"]["image/png"])
            if "traceback" in output:  # of an error that the lesson shows: where this kit lies is not part of it
                output["traceback"] = [line.replace(f"{ROOT}{os.sep}", "") for line in output["traceback"]]


def before_saving(model: dict, **kwargs) -> None:
    """JupyterLab's `pre_save_hook` under `kit lab`: a notebook that was opened and saved, or executed with the same
    outputs, is written as it was, without what JupyterLab adds (its version of Python, times of execution)."""
    import nbformat

    if model["type"] != "notebook" or model["content"] is None:
        return
    nb = nbformat.from_dict(model["content"])
    normalise(nb, figures=False)
    model["content"] = nb


def jupyter_environment(root: Path = ROOT) -> dict[str, str]:
    """The environment in which Jupyter saves with `before_saving`, beside the user's own configuration. (Its command
    line does not take a hook: jupyter_server 2.21 imports the old value, None, instead of the name it was given.)"""
    folder = root / "build" / "jupyter"
    folder.mkdir(parents=True, exist_ok=True)
    lines = f"from {__name__} import before_saving\nc.FileContentsManager.pre_save_hook = before_saving\n"
    write_text(folder / "jupyter_server_config.py", lines)
    before = os.environ.get("JUPYTER_CONFIG_PATH")
    return os.environ | {"JUPYTER_CONFIG_PATH": f"{folder}{os.pathsep}{before}" if before else str(folder)}


def fewer_colours(png: str) -> str:
    """A figure, PNG in base64, with its best 256 colours: it looks the same and takes a third of the bytes."""
    from PIL import Image

    file, image = io.BytesIO(), Image.open(io.BytesIO(base64.b64decode(png)))
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    small = base64.b64encode(file.getvalue()).decode()
    return small if len(small) < len(png) else png


# What an executed notebook shows

CHECK_LINE = re.compile(r"\[(ok|seen|reversed|undecided|floor|no difference above [^\]]+)\] .*")


class Check(NamedTuple):
    """A check that a notebook showed."""

    mark: str
    claim: str
    measured: str
    expected: str


def outputs_of(nb) -> list:
    """All outputs of a notebook, in their order."""
    return [output for cell in nb.cells for output in cell.get("outputs", [])]


def check_lines(nb) -> list[Check]:
    """The checks that a notebook showed (`html_table.display_row`), in their order."""
    bundles = [output.data for output in outputs_of(nb) if output.output_type == "display_data"]
    checks = [data for data in bundles if CHECK_LINE.fullmatch(data.get("text/plain", ""))]
    return [Check(*cells_of(data["text/html"])) for data in checks]


def number_of_checks(nb) -> int:
    """What `checks.summary` says at the end of a notebook; without it, the number of checks that it showed."""
    text = "".join(output.text for output in outputs_of(nb) if output.output_type == "stream")
    said = re.search(r"^kit: (\d+) checks passed$", text, re.MULTILINE)
    return int(said[1]) if said else len(check_lines(nb))


def title_and_paragraph(nb) -> tuple[str, str]:
    """The first heading, and the first paragraph of prose (no heading, badge, table, list or HTML)."""
    text = "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    title = re.search(r"^#+ *(.*)$", text, re.MULTILINE)
    paragraphs = re.split(r"\n\s*\n", re.sub(r"^#.*$", "", text, flags=re.MULTILINE).strip())
    return title[1] if title else "", next((p for p in paragraphs if not p.startswith(("[", "!", "|", "-", "<"))), "")


def last_figure(nb) -> bytes | None:
    """The last figure before the exercises, as PNG: the message of a lesson in one picture. None if it has none."""
    found = None
    for cell in nb.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## Exercises"):
            break
        for output in cell.get("outputs", []):
            found = output.get("data", {}).get("image/png", found)
    return base64.b64decode(found) if found else None
