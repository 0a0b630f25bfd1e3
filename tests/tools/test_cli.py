import json
import os
import socket
import subprocess
import sys
import time

import pytest

import kitlib
from kitlib.data import files
from kitlib.tools import cli, doctor


def test_help_does_not_import_jax():
    for modules, absent in (("kitlib.tools.cli", {"jax", "numpy"}), ("kitlib.tools.notebooks", {"jax"})):
        code = f"import sys, {modules}; sys.exit(bool({absent} & set(sys.modules)))"
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0


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


def test_output_that_nobody_reads_to_its_end():
    """`kit claims palix --list | head -1` ends without a message."""
    kit = f"{sys.executable} -c 'from kitlib.tools.cli import main; raise SystemExit(main())' claims palix --list"
    done = subprocess.run(f"{kit} | head -1", shell=True, capture_output=True, text=True, cwd=files.ROOT)
    assert done.stdout.startswith("Gains are differences") and done.stderr == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["claims", "palix", "--help"], "kit claims palix NAME"), (["claims", "--help", "palix"], "frames: "),
        (["--version"], f"kitlib {kitlib.__version__}\n"), (["copy", "mine", "07"], "with: kit lab mine\n"),
    ],
)  # fmt: skip
def test_what_commands_say(line, words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kit", *line])
    assert cli.main() == 0 and words in capsys.readouterr().out


def interrupted():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("line", "main", "message"),
    [
        ("doctor", lambda: __import__("no_such_package"), r"No module named 'no_such_package'.*pip install -e"),
        ("doctor", interrupted, "stopped; trainings, studies and downloads go on where they were"),
        ("shwo a.png", None, r"Unknown command 'shwo'; did you mean 'show'\?"),
        ("check 05", None, r"kit check needs the extra test: pip install -e '\.\[test\]'"),
        ("test moe", None, r"kit test needs the extra test: pip install -e '\.\[test\]'"),
    ],
)
def test_what_goes_wrong_is_one_sentence(line, main, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kit", *line.split()])
    monkeypatch.setattr(doctor, "main", main)
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=message):
        cli.main()


def test_kit_scale_is_checked(monkeypatch):
    monkeypatch.setenv("KIT_SCALE", "huge")
    with pytest.raises(SystemExit, match="got 'huge', expected cpu, gpu or pod"):
        cli.run()
