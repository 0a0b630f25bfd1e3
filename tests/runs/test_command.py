"""`kit train` as its users call it: in one process, on eight devices, in two processes, killed and started again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from devices import environment, free_port
from PIL import Image

from kitlib import data
from kitlib.models import hugging_face
from kitlib.runs import command
from kitlib.runs.command import Options
from kitlib.training import checkpoints

KIT = [sys.executable, "-c", "import sys; from kitlib.runs import command; sys.exit(command.main(sys.argv[1:]))"]
RUN = "vit --steps 24 --warmup 4 --batch-size 32 --model.depth 1 --log-every 4 --save-every 8 --evaluate-every 12"
MOE = "vmoe --steps 2 --warmup 1 --batch-size 32 --devices 8 --mesh data=2,expert=4"
TEXTS = "--steps 2 --warmup 1 --batch-size 4 --model.width 16 --model.mlp-dim 16 --model.num-encoder-layers 1"
POD = "vmoe --scale pod --model.moe.num-selected 2 --mesh data=2 --steps 7"


def start(folder, *more, devices=1):
    command = [*KIT, *RUN.split(), "--folder", str(folder), "--devices", str(devices), *more]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(found) -> None:
    until = time.monotonic() + 120
    while not found() and time.monotonic() < until:
        time.sleep(0.02)


def finish(process, status=0) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, err[-3000:]
    return out + err


def curve(folder) -> pd.DataFrame:
    return pd.read_csv(folder / "metrics.csv").pivot(index="step", columns="name", values="value")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The curve of one process on one device."""
    folder = tmp_path_factory.mktemp("alone")
    finish(start(folder))
    return curve(folder)


def two(folder, *more):
    address = f"localhost:{free_port()}"
    common = ("--address", address, "--processes", "2", *more)
    return [start(folder, *common, "--index", str(i), devices=4) for i in range(2)]


@pytest.mark.slow
def test_eight_devices_and_two_processes_have_the_curve_of_one(tmp_path, alone):
    assert alone["loss"][24] < alone["loss"][4] and 0 <= alone["eval/accuracy"][24] <= 1
    finish(start(tmp_path / "eight", "--mesh", "data=2,fsdp=4", devices=8))
    for process in two(tmp_path / "two"):
        finish(process)
    for folder in ("eight", "two"):
        np.testing.assert_allclose(curve(tmp_path / folder)["loss"], alone["loss"], rtol=2e-4)
        assert curve(tmp_path / folder)["eval/accuracy"][24] == pytest.approx(alone["eval/accuracy"][24], abs=0.01)


@pytest.mark.slow
def test_a_killed_process_ends_the_job_which_goes_on_on_another_mesh(tmp_path, alone):
    folder = tmp_path / "run"
    first, second = two(folder, "--steps", "24")
    wait_for((folder / "checkpoints" / "8").exists)
    # The process that does the work is a child of the one that was started.
    subprocess.run(["pkill", "-9", "-P", str(second.pid)], check=True)
    said = [finish(process, status=1) for process in (first, second)]
    for text in said:
        assert "Start all processes again with the same command: the run goes on from its last checkpoint" in text
    assert "SIGKILL: killed, or out of memory" in said[1]
    assert "another process is gone or does not answer" in said[0]
    finish(start(folder, "--mesh", "fsdp=2", devices=2))
    np.testing.assert_allclose(curve(folder)["loss"], alone["loss"], rtol=2e-4)


@pytest.mark.slow
def test_a_preempted_run_saves_and_ends_with_143(tmp_path, alone):
    process = start(tmp_path / "run", "--save-every", "1000")
    rows = tmp_path / "run" / "metrics.csv"
    wait_for(lambda: rows.exists() and "loss" in rows.read_text())  # it trains
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    if process.returncode:  # it may have finished before the signal
        assert process.returncode == 143 and "saved, the same command goes on" in out
        finish(start(tmp_path / "run", "--save-every", "1000"))
    np.testing.assert_allclose(curve(tmp_path / "run")["loss"][24], alone["loss"][24], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["vmoe", "--batch-size", "32"], "tokens per group: 256\nslots per expert: 36\ndropped at best: 0.00%"),
        (["t5_moe"], "option: --model.decoder-moe\ngroups: 1\ntokens per group: 448"),
        (["t5_moe"], "encoder/layers_1/moe/Mlp/wi_0/kernel"),
        # As an array, one such picture would take 292 GiB.
        (["vit", "--model.image-size", "280000", "280000"], "pos_embedding (1, 1600000000, 64)"),
        (["palix", "--model.tower.image-size", "280000", "280000"], "parameters: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_dry_run_says_what_shapes_say_and_writes_nothing(tmp_path, capsys, monkeypatch, arguments, shown):
    monkeypatch.chdir(tmp_path)
    assert command.main([*arguments, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert shown in out and "\nbut:" not in out  # one device: nothing differs
    assert "GFLOP per step" in out and os.listdir(tmp_path) == []


@pytest.mark.slow
def test_other_routing_groups_than_on_one_device_are_said_in_a_line(tmp_path):
    for more in (["--dry-run"], ["--evaluate-every", "0", "--folder", str(tmp_path / "run")]):
        run = subprocess.run([*KIT, *MOE.split(), *more], env=environment(), capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        (line,) = (line for line in run.stdout.splitlines() if "to make them equal" in line)
        assert "8 routing groups of 64 tokens, on one device 2 of 256" in line


def picture_folder(folder):
    """Two classes of ten pictures, 9 x 12 pixels."""
    for name, colour in (("cat", 40), ("dog", 200)):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(np.full((9, 12, 3), colour + i, np.uint8)).save(folder / name / f"{i}.png")
    return folder


def test_pictures_of_ones_own_train_go_on_and_are_exported(tmp_path, capsys):
    pictures, run = picture_folder(tmp_path / "pets"), tmp_path / "run"
    options = ["vit", "--data", str(pictures), "--steps", "3", "--warmup", "1", "--model.pool", "tok"]
    options += ["--model.depth", "1", "--folder", str(run)]
    assert command.main([*options, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "pets: 2 classes (cat, dog), 18 pictures to train, 2 to test, read as 28 x 28 x 3" in shown
    for more in ([], ["--dry-run"]):
        with pytest.raises(SystemExit, match=r"batch_size is 19, but .*pets has 18 pictures to train: .*--batch-size"):
            command.main([*options, "--batch-size", "19", *more])
    assert command.main(options) == 0
    shown = capsys.readouterr().out
    assert "pets: 2 classes" in shown and "on 2 test examples: " in shown and "goes on" not in shown
    with pytest.raises(SystemExit, match=r"another recipe: steps=3, now steps=4\. That is another run \(of more steps"):
        command.main([*options, "--steps", "4"])
    assert "goes on" not in capsys.readouterr().out
    assert command.main(options) == 0  # what was refused has left no trace; nothing is left to do
    assert "goes on from step 3 of 3" in capsys.readouterr().out
    assert command.export(["vit", str(tmp_path / "hf"), "--folder", str(run)]) == 0
    stored = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert list(stored["id2label"].values()) == ["cat", "dog"] and stored["num_channels"] == 3
    for i in range(10):
        Image.new("RGB", (12, 9), (i, 0, 0)).save(pictures / "cat" / f"{i}.png")
    with pytest.raises(SystemExit, match="began with other data"):
        command.main(options)
    with pytest.raises(SystemExit, match=r"lines has .*expected FOLDER/class"):
        (tmp_path / "lines").mkdir()
        command.main(["vit", "--data", str(tmp_path / "lines")])


def test_texts_of_ones_own(tmp_path, capsys):
    text = tmp_path / "tales.txt"
    text.write_text("".join(f"Once there were {i} goats on a hill, and nobody counted them.\n" for i in range(200)))
    options = ["t5", "--data", str(text), *TEXTS.split()]
    assert command.main([*options, "--folder", str(tmp_path / "run")]) == 0
    assert "test examples: " in capsys.readouterr().out
    text.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SystemExit, match=r"tales\.txt is not a text in UTF-8"):
        command.main(options)
    with pytest.raises(SystemExit):
        command.main(["t5", "--steps", "many"])


def test_overrides_are_typed_and_scale_chooses_the_defaults(monkeypatch):
    seen = []
    monkeypatch.setattr(command, "_run", lambda *args: seen.append(args) or 0)
    command.main(POD.split())
    command.main(["vmoe", "--scale=gpu"])
    (name, recipe, options), (_, other, _) = seen
    assert (name, recipe.steps, options) == ("vmoe", 7, Options("pod", Path("build/runs/vmoe"), "data=2"))
    assert recipe.model.moe.num_selected == 2 and recipe.model.width == 768 and recipe.data == "imagenet2012"
    assert other.model.width == 384


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "kit train NAME.*names: vit, vmoe, e3, t5, t5_moe, palix"),
        ("vitt", "Unknown run 'vitt'; did you mean 'vit'"),
        ("vit --mesh data:2", "A mesh is written like 'data=2,expert=4'"),
        ("vit --mesh data=8", "mesh data=8 has 8 devices, here is 1: .* or simulate devices"),
        ("vit --mesh data=1,data=1", "data is there twice"),
        ("vit --devices -3", "--devices is -3; expected a whole number, 0 or more"),
        ("palix --data vqav2", "vqav2 needs 3 paths"),
        ("vit --steps 10", "warmup is 100, of 10 steps; .* --warmup 1"),
        ("vit --wandb p --steps 200", "pip install wandb"),
        ("vit --accumulate 0", "accumulate is 0; expected a whole number"),
        ("vit --save-every -3", "--save-every is -3; expected a whole number"),
        ("vit --index 5", "need all three .*index=5"),
        ("vit --folder /dev/null", "/dev/null/checkpoints cannot be written"),
        ("vit --data no_such_folder", "or the path of a folder or file that is there"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message) as ended:
        command.main(line.split())
    assert str(ended.value).count("\n") == 0


def test_a_finished_vit_is_exported_and_an_unfinished_one_is_not(tmp_path, capsys):
    options = ["--steps", "4", "--warmup", "1", "--batch-size", "16", "--model.depth", "1", "--folder"]
    options += [str(tmp_path / "run"), "--log-every", "2", "--save-every", "2", "--evaluate-every", "4"]
    gap = ["vit", str(tmp_path / "hf"), *options]
    with pytest.raises(SystemExit, match=r"There is no finished run in .*: it is at step 0 of 4. Train it first"):
        command.export(gap)
    assert command.main(["vit", *options, "--model.pool", "tok"]) == 0
    short = ["vit", str(tmp_path / "hf"), "--folder", str(tmp_path / "run")]  # the folder knows the options
    assert command.export(short) == 0
    assert "wrote" in capsys.readouterr().out
    config, params = hugging_face.load_vit(tmp_path / "hf")
    assert config.depth == 1 and config.num_classes == 10
    stored = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert list(stored["id2label"].values()) == list(data.load("fashion_mnist", "test").class_names)
    saver = checkpoints.Saver(tmp_path / "run" / "checkpoints")
    everything = saver.ocp.args.Composite(state=saver.ocp.args.StandardRestore())
    restored = saver.manager.restore(saver.latest, args=everything)
    jax.tree.map(np.testing.assert_array_equal, params, restored.state["params"])
    saver.close()
    (tmp_path / "run" / "recipe.json").write_text("{")
    with pytest.raises(SystemExit, match=r"run/recipe\.json is damaged"):
        command.export(short)
    (tmp_path / "run" / "recipe.json").unlink()  # as of older runs, whose options are given again
    assert command.export([*gap, "--model.pool", "tok"]) == 0
    with pytest.raises(SystemExit, match="t5 is no ViT"):
        command.export(["t5", str(tmp_path / "hf")])
    with pytest.raises(SystemExit, match=r"kit export NAME FOLDER \[--folder RUN\]"):
        command.export(["vit", "--steps"])
