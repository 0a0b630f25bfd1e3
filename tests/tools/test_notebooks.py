"""Execution and comparison of notebooks, on small temporary ones; and that strict nbval notices one changed digit in
each real notebook, on which the promise "every number is checked" rests."""

import base64
import io
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from kitlib.data import files
from kitlib.tools import notebook_files, notebooks

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted((files.ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project of a user whose own "python3" kernel is another, broken Python; with the kit's settings of nbval."""
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text('{"argv": ["no-such-python"], "display_name": "x", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setattr(notebooks.site, "write", lambda root: root / "build" / "site" / "index.html")  # see test_site
    (tmp_path / "notebooks").mkdir()
    for name in ("conftest.py", "pyproject.toml", "notebooks/nbval_sanitize.cfg"):
        shutil.copy(files.ROOT / name, tmp_path / name)
    return tmp_path


def write(root, name: str, *sources: str, skip: str = "") -> None:
    cells = [new_markdown_cell("# 01 A <title>\n\nWhat it *says*.\n\nMore.")]
    cells += [new_code_cell(skip, metadata={"tags": [notebook_files.SKIP]})] if skip else []
    cells += [new_code_cell(source, metadata={"collapsed": True}) for source in sources]
    nb = new_notebook(cells=cells)
    nb.metadata = nbformat.from_dict({"kernelspec": {"name": "authors-own", "display_name": "x"}, "colab": {}})
    nbformat.write(nb, root / "notebooks" / f"{name}.ipynb")


def read(path):
    return nbformat.read(path, as_version=4)


def run(root, *names: str, refresh: bool = False, scale: str = "cpu") -> int:
    return notebooks.execute_all(names, refresh=refresh, jobs=2, scale=scale, root=root)


GOOD = (
    "import os, sys\nfrom kitlib.tools import rich\n"
    "rich.display_row('[ok] a < b: 1.25 (±0.1)', ('ok', 'a < b', 'measured 1.2', 'expected 1.25 ±0.1'))\n"
    "print(os.environ['KIT_SCALE'], os.environ['JAX_PLATFORMS'])",
    "print('took 1.5 s'); print(object()); print('0.75', end=''); sys.stdout.flush(); print(' and', 2)\n6 * 7",
    "assert os.environ['MPLBACKEND'] != 'agg' and os.path.basename(os.getcwd()) == 'notebooks'",
)


def test_run_writes_what_was_executed_and_does_not_change_the_sources(root, capsys, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    write(root, "01_good", *GOOD, f"assert sys.executable == {sys.executable!r}", skip="raise SystemExit('Colab only')")
    before = (root / "notebooks" / "01_good.ipynb").read_bytes()
    assert run(root) == 0
    assert (root / "notebooks" / "01_good.ipynb").read_bytes() == before
    assert re.search(r"\[ 1/1\] ok     01_good +\d+\.\d s    1 checks", capsys.readouterr().out)
    assert [path.name for path in (root / "build").iterdir()] == ["01_good.ipynb"]
    executed = read(root / "build" / "01_good.ipynb")
    assert [cell.execution_count for cell in executed.cells if cell.cell_type == "code"] == [None, 1, 2, 3, 4]
    assert executed.metadata["kit"]["error"] == "" and executed.metadata["kit"]["seconds"] > 0


def test_a_failing_notebook_is_shown_and_fails_the_run_but_not_the_others(root, capsys):
    write(root, "01_good", "print(1)")
    write(root, "02_bad", "x = 1", "print('before')\nx / 0", "print('never')")
    (root / "notebooks" / "03_foreign.ipynb").write_text("no json")
    (root / "build").mkdir()
    nbformat.write(new_notebook(metadata={"kit": {"seconds": 1, "error": ""}}), root / "build" / "03_foreign.ipynb")
    assert run(root, refresh=True) == 1
    out = capsys.readouterr().out
    assert "ok     01_good" in out and "FAILED 02_bad" in out and "FAILED 03_foreign" in out
    assert "x / 0" in out and "ZeroDivisionError: division by zero" in out and "never" not in out
    assert "Failed: 02_bad, 03_foreign" in out
    built = root / "build"
    assert "ZeroDivisionError" in read(built / "02_bad.ipynb").metadata["kit"]["error"]
    assert not (built / "03_foreign.ipynb").exists()  # an earlier result does not stand for a run that failed
    assert not read(root / "notebooks" / "02_bad.ipynb").cells[2].outputs  # no refresh from a failed run
    assert read(root / "notebooks" / "01_good.ipynb").cells[1].outputs[0].text == "1\n"


@pytest.mark.parametrize(("seconds", "terminal", "lines"), [(0, False, 3), (0, True, 0), (60, False, 0)])
def test_how_far_a_notebook_is_without_a_terminal(seconds, terminal, lines, root, monkeypatch, capsys):
    """A line at most every PROGRESS seconds; where a terminal shows the bar, none."""
    write(root, "01_long", "1", "2", "3")
    monkeypatch.setattr(notebooks, "PROGRESS", seconds)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    (root / "build").mkdir()
    env = notebooks.environment("cpu")
    assert not notebooks.execute_one(root / "notebooks" / "01_long.ipynb", root / "build", False, env, "cpu").error
    told = capsys.readouterr().out.splitlines()
    assert told == [f"01_long: cell {i} of 4" for i in (2, 3, 4)][:lines]  # the first is text


def test_what_the_kernels_process_prints_is_shown_only_if_it_died(root, capfd):
    """Straight to the process's own standard error, past the notebook, as XLA's log does."""
    log = "import sys, time\nprint('from below', file=sys.__stderr__, flush=True)\ntime.sleep(1)"
    write(root, "01_first", log)
    write(root, "02_second", log, "import os\nos._exit(3)")
    assert notebooks.execute_all(("01",), refresh=False, jobs=1, scale="cpu", root=root) == 0
    assert "from below" not in "".join(capfd.readouterr())
    assert notebooks.execute_all(("02",), refresh=False, jobs=1, scale="cpu", root=root) == 1
    said = "".join(capfd.readouterr())
    assert "Kernel died" in said and "from below" in said


def test_refresh_is_idempotent_and_check_notices_one_digit(root, monkeypatch):
    write(root, "01_good", *GOOD, skip="raise SystemExit('Colab only')")
    path = root / "notebooks" / "01_good.ipynb"
    ids = [cell.id for cell in read(path).cells]
    assert run(root, refresh=True) == 0
    nb = read(path)
    assert [cell.id for cell in nb.cells] == ids
    assert [cell.metadata for cell in nb.cells] == [{}, {"tags": [notebook_files.SKIP]}, {}, {}, {}]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert nb.metadata == {"kernelspec": kernel, "language_info": {"name": "python"}}
    stream = nb.cells[3].outputs[0].text  # one, however it was flushed
    assert re.fullmatch(r"took 1.5 s\n<object object at 0x\w+>\n0.75 and 2\n", stream)

    first = path.read_text()
    assert run(root, refresh=True) == 0
    address = re.compile(r"0x[0-9a-f]+")  # the only difference, and a notebook of the series prints none
    assert address.sub("", path.read_text()) == address.sub("", first)

    # Only differences in addresses and after "took" are allowed.
    plain = [sys.executable, "-m", "pytest", "--nbval", "notebooks/"]  # as anybody's CI runs it
    printed = {"KIT_SCALE": "cpu", "JAX_PLATFORMS": "cpu"}
    monkeypatch.delenv("MPLBACKEND", raising=False)
    for compare in (None, lambda: subprocess.run(plain, cwd=root, env=os.environ | printed).returncode):
        path.write_text(address.sub("0x7f0000000000", first).replace("took 1.5 s\\n", "took 9.5 s\\n"))
        assert strict_failures(root, monkeypatch, compare) == []
        path.write_text(first.replace('"0.75 and 2', '"0.76 and 2'))
        assert strict_failures(root, monkeypatch, compare) == [("01_good", "Cell 2")]


def strict_failures(root, monkeypatch, compare=None) -> list[tuple[str, str]]:
    """What `kit check` finds, or another command: (notebook, code cell), from its report and not from its text."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "--junitxml=report.xml")
    status = compare() if compare else notebooks.check((), root=root)
    cases = list(xml.etree.ElementTree.parse(root / "report.xml").iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None]
    assert cases and bool(status) == bool(failed)
    return sorted((case.get("classname").split(".")[1], case.get("name")) for case in failed)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie, which nobody has waited for yet."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(found) and not found.startswith("Z")


def wait_for(found, seconds=60) -> None:
    until = time.monotonic() + seconds
    while not found() and time.monotonic() < until:
        time.sleep(0.05)


def test_a_killed_refresh_leaves_no_process(root):
    """`kill -9` of the command while a cell runs: worker and kernel end within seconds, and nothing is written."""
    code = "import os, pathlib, time\npathlib.Path('../pids').write_text(f'{os.getpid()} {os.getppid()}')\n"
    write(root, "01_sleep", f"{code}time.sleep(8)\npathlib.Path('../late').touch()")
    before = (root / "notebooks" / "01_sleep.ipynb").read_bytes()
    line = "import sys; from pathlib import Path; from kitlib.tools import notebooks; "
    line += "notebooks.execute_all((), refresh=True, jobs=1, scale='cpu', root=Path(sys.argv[1]))"
    process = subprocess.Popen([sys.executable, "-c", line, str(root)])
    wait_for((root / "pids").exists)
    pids = [int(pid) for pid in (root / "pids").read_text().split()]
    assert all(map(alive, pids))
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(alive, pids)), seconds=6)
    assert not any(map(alive, pids))
    assert (root / "notebooks" / "01_sleep.ipynb").read_bytes() == before
    assert not (root / "late").exists() and not list(root.rglob("*.partial*"))


def test_a_notebook_whose_weights_are_not_here_is_skipped_in_one_sentence(root, capsys, monkeypatch, tmp_path):
    """By run, by check and by nbval alone; once they are there, it runs. A file that is no notebook lacks nothing."""
    monkeypatch.setenv("KIT_WEIGHTS_DIR", str(tmp_path / "weights"))
    path = root / "notebooks" / "18_real.ipynb"
    nb = new_notebook(cells=[new_code_cell("print(1 + 1)")], metadata={"needs": "dinov2-s14"})
    nbformat.write(nb, path)
    reason = "18_real is skipped: it needs real weights, get them once with: kit weights fetch dinov2-s14\n"
    assert run(root) == 0 and notebooks.check((), root=root) == 0
    assert capsys.readouterr().out.count(reason) == 2
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--nbval", str(path)]
    alone = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert alone.returncode == 0 and reason.strip() in alone.stdout.replace("\n", " ") and "1 skipped" in alone.stdout
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "dinov2-s14.onnx").touch()
    assert run(root, refresh=True) == 0
    refreshed = nbformat.read(path, as_version=4)
    assert refreshed.metadata["needs"] == "dinov2-s14" and refreshed.cells[0].outputs[0].text == "2\n"
    path.write_text("[]")
    assert notebook_files.lacks(path) == "" == notebook_files.lacks(root / "none.ipynb")


def test_find(root, capsys):
    assert run(root) == notebooks.check((), root=root) == 0
    assert capsys.readouterr().out.count("There is no notebook to execute") == 2
    for name in ("01_vit", "07_sparse_upcycling", "A1_nnx"):
        write(root, name, "1")
    for names, stems in (
        ((), ["01_vit", "07_sparse_upcycling", "A1_nnx"]), (("07",), ["07_sparse_upcycling"]),
        (("notebooks/07_sparse_upcycling.ipynb",), ["07_sparse_upcycling"]), (("a1", "01"), ["01_vit", "A1_nnx"]),
    ):  # fmt: skip
        assert [path.stem for path in notebook_files.find(names, root)] == stems
    known = r"Known: 01_vit, 07_sparse_upcycling, A1_nnx\."
    with pytest.raises(SystemExit, match=rf"Unknown notebook '07_sprase'; did you mean '07_sparse_up\w+'\? {known}"):
        notebook_files.find(("07_sprase",), root)
    with pytest.raises(SystemExit, match="No notebooks/ folder"):
        notebook_files.find((), root / "notebooks")
    with pytest.raises(SystemExit, match="got SCALE=gpu; stored outputs are defined on the CPU"):
        run(root, refresh=True, scale="gpu")


def test_the_address_is_written_in_pyproject_only(root):
    for urls, address in (("", ""), ('[project.urls]\nRepository = "https://a.b/kit/"\n', "https://a.b/kit")):
        (root / "pyproject.toml").write_text(f'[project]\nname = "kitlib"\n{urls}')
        assert notebook_files.repository(root) == address


def test_environment_of_kernels(monkeypatch):
    for name in ("JAX_ENABLE_X64", "XLA_FLAGS", "MPLBACKEND", "PYTHONPATH"):
        monkeypatch.setenv(name, "user's")
    env = notebooks.environment("cpu")
    assert not {"JAX_ENABLE_X64", "XLA_FLAGS", "MPLBACKEND", "PYTHONPATH"} & set(env)
    assert (env["JAX_PLATFORMS"], env["KIT_SCALE"], env["PYTHONNOUSERSITE"]) == ("cpu", "cpu", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    env = notebooks.environment("gpu")
    assert (env["JAX_PLATFORMS"], env["XLA_FLAGS"], env["KIT_SCALE"]) == ("cuda", "user's", "gpu")


def with_changed_digits(nb):
    """For each cell that prints a compared number: two that print the same, the second stored with a changed digit.

    They print what is stored, so that all cells of a real notebook are compared in seconds; that the notebook's own
    code prints what is stored is what `kit check` says. The first of the two is the control.
    """
    cells = []
    for cell in nb.cells:
        uncompared = {notebook_files.SKIP, "nbval-ignore-output"} & set(cell.metadata.get("tags", []))
        for output in [] if uncompared else cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stdout":
                numbers = re.compile(r"(took \d+(?:\.\d+)?|0x[0-9a-f]+)|(\d)")  # group 1 is sanitised, so not compared
                found = next((found for found in numbers.finditer(output.text) if found[2]), None)
                if found:
                    at, digit = found.start(), str((int(found[2]) + 1) % 10)
                    changed = output.text[:at] + digit + output.text[at + 1 :]
                    for text in (output.text, changed):
                        stored = [new_output("stream", name="stdout", text=text)]
                        more = {"metadata": {"tags": cell.metadata.get("tags", [])}, "execution_count": 1}
                        cells.append(new_code_cell(f"print({output.text!r}, end='')", outputs=stored, **more))
    metadata = {name: value for name, value in nb.metadata.items() if name != "needs"}  # printing needs no weights
    return new_notebook(cells=cells, metadata=metadata)


def test_a_changed_digit_fails_in_every_cell_of_every_notebook(root, monkeypatch):
    expected = []
    for path in NOTEBOOKS:
        changed = with_changed_digits(read(path))
        assert changed.cells, f"{path.name} prints no number that is compared"
        nbformat.write(changed, root / "notebooks" / path.name)
        expected += [(path.stem, f"Cell {i}") for i in range(1, len(changed.cells), 2)]
    assert strict_failures(root, monkeypatch) == sorted(expected)


def in_base64(pixels) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_figures_are_stored_in_256_colours():
    """Grey noise with a red square has 17 colours: nothing is lost. Of 4,096 random colours the nearest are kept."""
    rng = np.random.default_rng(0)
    few = np.repeat(rng.integers(0, 16, (64, 64, 1)) * 16, 3, axis=-1).astype(np.uint8)
    few[:9, :9] = 255, 0, 0
    many = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    outputs = [new_output("display_data", data={"image/png": in_base64(pixels)}) for pixels in (few, many)]
    nb = new_notebook(cells=[new_code_cell("plt.show()", outputs=outputs), new_markdown_cell("text")])
    before = [output.data["image/png"] for output in outputs]
    line = f"File {notebook_files.ROOT / 'kitlib' / 'data' / 'files.py'}:51"
    nb.cells[0].outputs.append(new_output("error", ename="E", evalue="", traceback=[line]))
    notebook_files.normalise(nb)
    assert nb.cells[0].outputs.pop()["traceback"] == ["File kitlib/data/files.py:51"]  # not where the kit lies
    after = [output.data["image/png"] for output in nb.cells[0].outputs]
    back = [np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")).astype(int) for png in after]
    np.testing.assert_array_equal(back[0], few)
    assert np.abs(back[1] - many).mean() < 256 / 256 ** (1 / 3)  # a cell of the cube of colours, divided into 256
    assert len(after[0]) < len(before[0])
    assert len(after[1]) < 0.6 * len(before[1])
    notebook_files.normalise(nb)
    assert [output.data["image/png"] for output in nb.cells[0].outputs] == after  # once and for all
    png = in_base64(np.zeros((1, 1, 3), np.uint8))
    assert notebook_files.fewer_colours(png) == png  # would grow
