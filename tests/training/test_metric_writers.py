import sys
import types

import pandas as pd
import pytest

from kitlib.training import metric_writers as writers


def table(path):
    return pd.read_csv(path).pivot(index="step", columns="name", values="value")


def test_rows_of_a_csv(tmp_path):
    writer = writers.CsvWriter(tmp_path / "run" / "metrics.csv")
    writer.write(10, {"loss": 0.5, "eval/accuracy": 0.25})
    writer.write(20, {"loss": 0.125})
    found = table(tmp_path / "run" / "metrics.csv")
    assert found["loss"].to_dict() == {10: 0.5, 20: 0.125} and found["eval/accuracy"][10] == 0.25


def test_a_resumed_run_writes_every_step_once(tmp_path):
    path = tmp_path / "metrics.csv"
    first = writers.CsvWriter(path)
    for step in (10, 20, 30):
        first.write(step, {"loss": float(step)})
    with path.open("a") as handle:
        handle.write("40,lo")  # killed while it wrote
    second = writers.CsvWriter(path)  # the file is kept
    second.rewind(20)
    second.write(30, {"loss": -1.0})
    assert table(path)["loss"].to_dict() == {10: 10.0, 20: 20.0, 30: -1.0}


@pytest.mark.parametrize("content", [b"", b"\0\0\0", b"step,na", b"\xff,\xff,\xff\n10,loss,1.0\n", b"no,table,here\n"])
def test_a_damaged_file_is_written_anew(tmp_path, content):
    (tmp_path / "metrics.csv").write_bytes(content)
    writer = writers.CsvWriter(tmp_path / "metrics.csv")
    writer.rewind(20)
    writer.write(30, {"loss": -1.0})
    rows = {10: 1.0} if b"10,loss" in content else {}
    assert table(tmp_path / "metrics.csv")["loss"].to_dict() == rows | {30: -1.0}


class Recorder:
    def __init__(self, *args, **kwargs):
        self.calls = [("made", args, kwargs)]

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


def test_several_writers_are_one():
    one, two = Recorder(), Recorder()
    both = writers.MetricWriters([one, two])
    both.write(1, {"loss": 2.0})
    both.rewind(0)
    both.close()
    want = [("write", (1, {"loss": 2.0}), {}), ("rewind", (0,), {}), ("close", (), {})]
    assert one.calls[1:] == two.calls[1:] == want


def test_tensorboard_and_wandb_get_every_metric(monkeypatch, tmp_path):
    boards, runs = [], []
    board = types.SimpleNamespace(SummaryWriter=lambda *a: boards.append(Recorder(*a)) or boards[-1])
    monkeypatch.setitem(sys.modules, "tensorboardX", board)
    wandb = types.SimpleNamespace(init=lambda **k: runs.append(Recorder(**k)) or runs[-1])
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for writer in (writers.TensorBoardWriter(tmp_path), writers.WandbWriter("mine", tmp_path / "run", {"seed": 0})):
        writer.write(7, {"loss": 1.5})
        writer.rewind(3)
        writer.close()
    assert ("add_scalar", ("loss", 1.5, 7), {}) in boards[0].calls
    assert ("log", ({"loss": 1.5},), {"step": 7}) in runs[0].calls
    assert runs[0].calls[0][2]["project"] == "mine"
    for folder in ("run", "other"):  # "run" goes on; the other is another run
        writers.WandbWriter("mine", tmp_path / folder, {})
    first, again, other = (run.calls[0][2]["id"] for run in runs)
    assert first == again != other


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    for package, make in (
        ("tensorboardX", lambda: writers.TensorBoardWriter(tmp_path)),
        ("wandb", lambda: writers.WandbWriter("p", tmp_path, {})),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ModuleNotFoundError, match=f"pip install {package}"):
            make()
