import json
import os
import socket
import subprocess
import sys
import time

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import kitlib
from kitlib.data import files
from kitlib.tools import cli, doctor, notebook_files


def test_help_does_not_import_jax():
    for modules, absent in (("kitlib.tools.cli", {"jax", "numpy"}), ("kitlib.tools.notebooks", {"jax"})):
        code = f"import sys, {modules}; sys.exit(bool({absent} & set(sys.modules)))"
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_kit_scale_is_checked(monkeypatch):
    monkeypatch.setenv("KIT_SCALE", "huge")
    with pytest.raises(SystemExit, match="got 'huge', expected cpu, gpu or pod"):
        cli.run()


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kit", "doctor"])
    monkeypatch.setattr(doctor, "main", lambda: __import__("no_such_package"))
    with pytest.raises(SystemExit, match=r"No module named 'no_such_package'.*pip install -e"):
        cli.main()


def test_the_version_is_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kit", "--version"])
    assert cli.main() == 0 and capsys.readouterr().out == f"kitlib {kitlib.__version__}\n"


@pytest.mark.parametrize(("root", "last"), [(0, ["--allow-root"]), (1000, [])])
def test_lab_passes_options_on(root, last, monkeypatch, tmp_path):
    """Also as root, where Jupyter refuses to start without being told. It opens the lessons, or a folder that is named,
    as seen from here."""
    started = []
    monkeypatch.setattr(cli.os, "execve", lambda *arguments: started.append(arguments))
    monkeypatch.setattr(cli.os, "geteuid", lambda: root)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    for line in (["mine", "--no-browser", "--port", "9000"], ["--no-browser"]):
        monkeypatch.setattr(sys, "argv", ["kit", "lab", *line])
        cli.main()
    options = [["mine", "--no-browser", "--port", "9000"], [str(files.ROOT / "notebooks"), "--no-browser"]]
    wanted = [[sys.executable, "-m", "jupyter", "lab", *words, *last] for words in options]
    assert [[program, *command[1:]] for program, command, _ in started] == wanted
    assert all("JUPYTER_CONFIG_PATH" in env for *_, env in started)


@pytest.mark.slow
def test_what_ends_lab_ends_jupyterlab(tmp_path):
    """SIGTERM to `kit lab` once its server listens: nothing of it is left."""
    code = "import sys; from kitlib.tools.cli import main; sys.argv[0] = 'kit'; sys.exit(main())"
    command = [sys.executable, "-c", code, "lab", "--no-browser", f"--ServerApp.root_dir={tmp_path}"]
    env = os.environ | {"JUPYTER_RUNTIME_DIR": str(tmp_path)}
    started = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until = time.monotonic() + 60
    while not (found := list(tmp_path.glob("jpserver-*.json"))) and time.monotonic() < until:
        time.sleep(0.1)
    assert [path.name for path in found] == [f"jpserver-{started.pid}.json"]  # the server is the command itself
    port = json.loads(found[0].read_text())["port"]
    started.terminate()
    started.communicate(timeout=60)  # until the last process that holds its output is gone
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("localhost", port), timeout=5).close()


def test_ctrl_c_ends_with_a_sentence(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["kit", "doctor"])
    monkeypatch.setattr(doctor, "main", interrupted)
    with pytest.raises(SystemExit, match="stopped; trainings, studies and downloads go on where they were"):
        cli.main()


def test_copies_are_announced(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["kit", "copy", str(tmp_path / "mine"), "07"])
    assert cli.main() == 0
    assert (
        capsys.readouterr().out == f"copied 1 notebooks into {tmp_path}/mine; open them with: kit lab {tmp_path}/mine\n"
    )
    assert (tmp_path / "mine" / "07_sparse_upcycling.ipynb").is_file()


@pytest.mark.parametrize("line", [["check", "05"], ["test", "moe"]])
def test_comparing_without_pytest_says_what_to_install(line, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kit", *line])
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=rf"kit {line[0]} needs the extra test: pip install -e '\.\[test\]'"):
        cli.main()


def test_output_that_nobody_reads_to_its_end():
    """`kit claims palix --list | head -1` ends without a message."""
    kit = f"{sys.executable} -c 'from kitlib.tools.cli import main; raise SystemExit(main())' claims palix --list"
    done = subprocess.run(f"{kit} | head -1", shell=True, capture_output=True, text=True, cwd=files.ROOT)
    assert done.stdout.startswith("Gains are differences") and done.stderr == ""


@pytest.mark.parametrize("line", [["claims", "palix", "--help"], ["claims", "--help", "palix"]])
def test_the_studies_of_a_paper_are_listed(line, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kit", *line])
    assert cli.main() == 0
    out = capsys.readouterr().out
    assert "frames: " in out and " seeds, stored\n" in out and "kit claims palix NAME" in out


@pytest.mark.parametrize(
    ("line", "words"), [(["bench"], "vit, moe, e3, t5, palix"), (["claims"], "upcycling, ensembles")]
)
def test_help_says_what_there_is(line, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kit", *line, "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert words in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_stamp_writes_badge_and_setup_cell():
    address = "https://github.com/someone/kit"
    setup = new_code_cell('"google.colab"', metadata={"tags": [notebook_files.SKIP]})
    nb = new_notebook(cells=[new_markdown_cell("# 01 Title"), setup])
    for _ in range(2):  # stamping twice is stamping once
        notebook_files.stamp(nb, "01_x.ipynb", address)
        title, badge = nb.cells[0].source.split("\n\n")
        assert title == "# 01 Title"
        assert "/github/someone/kit/blob/v" in badge and badge.endswith("/notebooks/01_x.ipynb)")
        assert setup.source == notebook_files.setup_cell(address) and setup.metadata["cellView"] == "form"
    notebook_files.stamp(nb, "01_x.ipynb", "")
    assert nb.cells[0].source == "# 01 Title"  # no dead badge
    with pytest.raises(SystemExit, match="got 0 set-up cells"):
        notebook_files.stamp(new_notebook(cells=[new_markdown_cell("# 01 Title")]), "01_x.ipynb", "")


def test_an_unknown_command_is_named_with_the_nearest(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kit", "shwo", "a.png"])
    with pytest.raises(SystemExit, match=r"Unknown command 'shwo'; did you mean 'show'\?"):
        cli.main()
