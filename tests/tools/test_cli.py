"""The kit command: options that are passed on, what it says, and refusals in one sentence."""

import json
import os
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import kitlib
from kitlib.data import captioned, files
from kitlib.multimodal import showcase, stages
from kitlib.tools import cli, doctor


@pytest.mark.parametrize(
    ("module", "absent"), [("kitlib.tools.cli", {"jax", "numpy"}), ("kitlib.tools.notebooks", {"jax"})]
)
def test_help_does_not_import_jax(module, absent):
    code = f"import sys, {module}; sys.exit(bool({absent} & set(sys.modules)))"
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
        ("test moe", None, r"kit test needs the extra test: pip install -e '\.\[test\]'"),
        ("run 00", None, "got 'huge', expected cpu, gpu or pod"),
        ("run 00 --jobs -1", None, "got 'huge'|--jobs"), ("show", None, "which pictures"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_sentence(line, main, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kit", *line.split()])
    monkeypatch.setattr(doctor, "main", main)
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("KIT_SCALE", "huge")
    with pytest.raises(SystemExit, match=message):
        cli.main()


# kit show


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Two pictures; the model calls everything a cat."""
    model = SimpleNamespace(config=SimpleNamespace(tower=SimpleNamespace(image_size=(64, 64))))
    monkeypatch.setattr(stages, "released", lambda: (model, {}))

    def ask_about(model, params, image, *, question):
        captions = dict.fromkeys(captioned.LANGUAGES, "<cat>") | {"th": "แมว"}
        box = np.array([[0.1, 0.1, 0.5, 0.5]])
        return showcase.Seen(image, captions, box, ["cat"], "1", question, "blue" if question else "")

    monkeypatch.setattr(showcase, "ask_about", ask_about)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (10, 10), "red").save(tmp_path / name)
    return str(tmp_path / "a.png"), str(tmp_path / "b.png")


@pytest.mark.parametrize(("question", "rows", "said"), [("", 1, ""), ("how many?", 2, ", how many? blue")])
def test_the_page_has_every_picture_and_every_answer(pictures, tmp_path, capsys, question, rows, said):
    """Also a question in the words of another row."""
    assert cli.show(pictures, question=question, out=tmp_path / "new" / "page.html") == 0
    page = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 2 and page.count("<th>") == 1 + 16 + rows
    assert page.count("แมว") == 2 and "&lt;cat&gt;" in page and "<cat>" not in page
    assert page.count(">1<") == 2 and page.count(">blue<") == 2 * bool(question)
    assert "http" not in page  # no network
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{pictures[0]}: <cat>, boxes: 1, how many: 1{said}" and len(lines) == 3


@pytest.mark.parametrize(
    ("names", "out", "message"),
    [
        (["a.png", "bad.png"], "page.html", r"bad\.png is not a picture"), (["none"], "page.html", r"none is missing"),
        (["a.png"], "page.png", r"the page cannot be .*ends in \.html"), (["a.png"], "folder.html", r"ends in \.html"),
    ],
)  # fmt: skip
def test_what_is_refused_before_anything_is_written(names, out, message, pictures, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"x")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(SystemExit, match=f"kit show: .*{message}"):
        cli.show(tuple(str(tmp_path / name) for name in names), out=tmp_path / out)
    assert not (tmp_path / "page.html").exists() and not (tmp_path / "page.png").exists()


def test_a_damaged_model_is_refused(pictures, tmp_path, monkeypatch):
    monkeypatch.undo()
    (tmp_path / "palix_s.safetensors").write_bytes(b"x" * 100)
    monkeypatch.setattr(stages, "released_file", lambda: tmp_path / "palix_s.safetensors")
    with pytest.raises(SystemExit, match=r"kit show: .*palix_s\.safetensors"):
        cli.show(pictures, out=tmp_path / "page.html")
