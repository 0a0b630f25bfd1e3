"""What README.md and the pages of docs promise: every command, every Python block with its output, every link, every
row of their tables."""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from kitlib.bench import runner
from kitlib.data.files import ROOT
from kitlib.tools import cli, notebook_files, notebooks
from kitlib.training import process

# As without a public address: links outside cannot be checked here.
README = notebook_files.with_badges((ROOT / "README.md").read_text(), "")
TESTS = Path(__file__).parent
BIN = Path(sys.executable).parent
OWN = (ROOT / "docs" / "use_in_your_model.md").read_text()
PAGES = README + OWN + "".join((ROOT / "docs" / f"{name}.md").read_text() for name in ("claims", "palix", "speed"))
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README + OWN, re.MULTILINE | re.DOTALL)
# Commands stand in shell blocks, and in `code` that starts as a command does.
LINES = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
SHELL = [line.partition(" #")[0].strip() for line in LINES]
REST = re.sub(r"^```(?:bash|python)\n.*?^```$", "", PAGES, flags=re.MULTILINE | re.DOTALL)
PROSE = re.findall(r"`((?:kit|make|pip|conda|python) [^`]+)`", REST)
COMMANDS = sorted({line for line in SHELL + PROSE if line})


def real(*command: str, **env: str) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make(folder, line: str) -> list[str]:
    """What a make target calls: real make, with programs that only note their arguments and KIT_SCALE."""
    for program in ("kit", "ruff", "mypy"):
        (folder / program).write_text(f'#!/bin/sh\necho {program} "$@" KIT_SCALE=$KIT_SCALE\n')
        (folder / program).chmod(0o755)
    return real("make", "-s", "-o", ".venv/ready", f"BIN={folder}", *line.split()[1:]).splitlines()


def kit_lab(monkeypatch):
    run = subprocess.run

    def version(program, command, env):
        assert run([*command, "--version"], env=env, capture_output=True).returncode == 0

    monkeypatch.setattr(os, "execve", version)
    cli.lab()


def kit_copy(folder):
    real(str(BIN / "kit"), "copy", str(folder / "mine"))
    assert sorted(path.name for path in (folder / "mine").iterdir()) == [p.name for p in notebook_files.find(())]


def kit_test(monkeypatch):
    """The command with one test file in place of all; test_notebooks proves the notebooks' half."""
    ran, run = [], subprocess.run

    def one_file(command, env, **options):
        assert command[-1] == "tests"
        done = run([*command[:-1], "tests/test_environment.py"], env=env, capture_output=True, text=True, **options)
        ran.append((env, done.stdout))
        return done

    for name in [name for name in os.environ if name.startswith("PYTEST_")]:  # of the run that this test is part of
        monkeypatch.delenv(name)
    monkeypatch.setattr(subprocess, "run", one_file)
    monkeypatch.setattr(notebooks, "check", lambda names: 0)
    assert cli.test() == 0, ran
    ((env, out),) = ran
    assert re.search(r"\d+ passed", out) and Path(env["JAX_COMPILATION_CACHE_DIR"]).is_dir()


def kit_bench(monkeypatch):
    """The command prints all tables, here or in a process with the memory settings. Each table has its own test."""
    printed, names = [], ("vit", "moe", "e3", "t5", "palix", "imports")
    for name in names[:-1]:
        monkeypatch.setattr(getattr(runner, name), "main", functools.partial(printed.append, name))
    monkeypatch.setattr(runner, "imports", functools.partial(printed.append, "imports"))
    for ran_elsewhere in (lambda line: None, lambda line: exec(line) or 0):
        monkeypatch.setattr(process, "run_with_allocator", ran_elsewhere)
        assert cli.bench() == 0 and tuple(printed) == names
        printed.clear()


def pip_install():
    """pip finds the metadata and would install the kit (--no-index: no network); its bounds are proven elsewhere."""
    options = ("--dry-run", "--no-deps", "--no-build-isolation", "--no-index", "-e", ".[lab]")
    assert "Would install kitlib-" in real(sys.executable, "-m", "pip", "install", *options)


def git_clone(folder):
    """The checkout itself stands for its address; a copy without git has none."""
    line = next(line for line in COMMANDS if line.startswith("git clone "))
    assert " --depth 1 ADDRESS kitlib " in line
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    words = [f"file://{ROOT}" if word == "ADDRESS" else word for word in line.partition(" && ")[0].split()]
    done = subprocess.run([*words, "--no-checkout"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    commits = subprocess.run(["git", "log", "--format=%h"], cwd=folder / "kitlib", capture_output=True, text=True)
    assert len(commits.stdout.split()) == 1


MAKE = {
    "make run": ["kit run KIT_SCALE=cpu"], "make run NB=01": ["kit run 01 KIT_SCALE=cpu"],
    "make run SCALE=gpu": ["kit run KIT_SCALE=gpu"], "make run SCALE=gpu NB=02": ["kit run 02 KIT_SCALE=gpu"],
    "make lab": ["kit lab KIT_SCALE=cpu"], "make quick": ["mypy", "kit test --quick"],
    "make test": ["ruff check .", "ruff format --check .", "mypy", "kit test"],
}  # fmt: skip
# What a command, or another with less to do, says.
CURVES = "upcycled beats dense, extra cost 0.5: +0.3974 [+0.3851, +0.4097], seen (paper: yes)"
SAYS = {
    "kit run": ("kit run --help", "refresh"), "kit doctor": ("kit doctor", "nothing to repair in the library\n"),
    "kit claims --list": ("kit claims --list", " claims\n"), "kit docs": ("kit docs --help", "claims.md"),
    "kit pods": ("kit pods", "PaLI-X 55B on v5p:8x8x8\n"),
    "kit claims upcycling recall_curves --list": ("kit claims upcycling recall_curves --list", CURVES),
    "kit train palix_s": ("kit train palix_s --help", "resumable"),  # it takes hours
    "kit train palix --data": ("kit train palix --help", "--data"), "kit --help": ("kit --help", "doctor"),
    **{line: (f"{line} --help", "--steps") for line in COMMANDS if re.match("kit train (v|t5)", line)},
    **{line: (line, "GB of parameters per device") for line in COMMANDS if line.endswith("--dry-run")},
}  # fmt: skip
EXERCISED = {
    "make lab": lambda folder, monkeypatch: kit_lab(monkeypatch),
    'pip install -e ".[lab]"': lambda *_: pip_install(),
    "kit test": lambda _, monkeypatch: kit_test(monkeypatch),
    "kit bench": lambda _, monkeypatch: kit_bench(monkeypatch),
    "kit copy mine": lambda folder, _: kit_copy(folder),
    **{line: lambda folder, _: git_clone(folder) for line in COMMANDS if line.startswith("git clone ")},
}
# They need what no machine of ours has; CONTRIBUTING says so.
NOT_HERE = ('.venv/bin/python -m pip install "jax[cuda13]"', '.venv/bin/python -m pip install "jax[tpu]"')
# Commands that other tests prove for real.
ELSEWHERE = {
    "kit run --refresh": "tools/test_notebooks.py", "kit check 05": "tools/test_notebooks.py",
    "conda env create -f environment.yml": "test_environment.py", "conda activate kit": "test_environment.py",
    "kit lab mine": "tools/test_cli.py", "pip wheel --no-deps -w dist .": "test_installations.py",
    'pip install "dist/kitlib-0.1.0-py3-none-any.whl[lab]"': "test_installations.py",
    "kit copy mine 03": "test_installations.py", "kit show FILE": "tools/test_show.py",
    "jupyter execute --inplace mine/03_routers.ipynb": "test_installations.py",
    "kit export vit build/hf --folder build/tok": "runs/test_command.py",
    "kit weights fetch dinov2-s14": "data/test_download.py",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("make"), reason="there is no make here")
@pytest.mark.parametrize("command", {**MAKE, **SAYS, **EXERCISED})
def test_command(command, tmp_path, monkeypatch):
    if command in MAKE:
        found = make(tmp_path, command)
        assert all(map(str.startswith, found[-len(MAKE[command]) :], MAKE[command]))
        assert command == "make quick" or len(found) == len(MAKE[command])
    if command in SAYS:
        line, words = SAYS[command]
        assert words in real(str(BIN / "kit"), *line.split()[1:], JAX_PLATFORMS="cpu")
    if command in EXERCISED:
        EXERCISED[command](tmp_path, monkeypatch)


def test_the_commands_are_found_and_none_is_left_over():
    assert {"make run", "make test", 'pip install -e ".[lab]"', "kit bench"} <= set(COMMANDS)
    assert {kind for kind, _ in BLOCKS} <= {"bash", "python", "text"}, "a kind of block that no test knows"
    assert all((TESTS / file).is_file() for file in ELSEWHERE.values())
    listed = (ROOT / "CONTRIBUTING.md").read_text().partition("## Not run by us")[2].partition("\n## ")[0]
    assert all(f"`{command.removeprefix('.venv/bin/python -m ')}`" in listed for command in NOT_HERE)
    assert {*MAKE, *SAYS, *EXERCISED, *ELSEWHERE, *NOT_HERE} == set(COMMANDS), (
        "the tables above and README.md name different commands"
    )


# The rest of the page

NO_NETWORK = """
import socket
def refuse(*args, **kwargs):
    raise OSError("the README's example used the network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


@pytest.mark.slow
def test_python_blocks_print_what_the_page_shows():
    """A text block right after a Python block is its output."""
    pattern = r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?"
    examples = re.findall(pattern, f"{README}\n{OWN}", re.MULTILINE | re.DOTALL)
    assert len(examples) == sum(kind == "python" for kind, _ in BLOCKS) > 4
    for code, shown in examples:
        assert real(sys.executable, "-c", NO_NETWORK + code, JAX_PLATFORMS="cpu") == shown


def test_links_and_files_exist():
    links = re.findall(r"\]\(([^)]+)\)", README)
    (files,) = re.findall(r"^Files: (.*?) Code:", README, re.MULTILINE | re.DOTALL)
    named = [name for name in re.findall(r"`(.+?)`", files) if not name.startswith("kit ")]
    assert links and named
    for name in links + named:
        assert (ROOT / name).exists(), name
    assert "http" not in README
    bare = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    others = {"README.md", "LICENSE", "conftest.py", "build", "dist", "__pycache__"}
    assert bare - {name.rstrip("/") for name in named} <= others


def test_links_of_the_pages_of_docs_exist():
    """As files, on GitHub, too; but for docs/index.md, which says that it is for the site."""
    for path in (ROOT / "docs").glob("[!i]*.md"):
        text = path.read_text()
        for name in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            assert name.startswith("https://") or (path.parent / name).exists(), f"{path.name}: {name}"
        assert "{{" not in text, path


def test_the_table_is_the_series():
    """A row for each notebook, with its own title and the minutes that it tells."""
    rows = re.findall(r"^\| \[(.+?)\]\(notebooks/(.+?)\) \|.*\| (\d+) \|$", README, re.MULTILINE)
    assert [file for _, file, _ in rows] == [path.name for path in notebook_files.find(())]
    for title, file, minutes in rows:
        nb = nbformat.read(ROOT / "notebooks" / file, as_version=4)
        assert notebook_files.title_and_paragraph(nb)[0] == title
        text = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
        assert re.search(r"\*\*Time\.\*\* (\d+) minutes? to run on two CPU cores", text)[1] == minutes, file
