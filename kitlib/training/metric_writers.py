"""Where the metrics of a run go: a CSV always, TensorBoard and Weights & Biases (W&B) where asked for.

    writer = MetricWriters([CsvWriter("run/metrics.csv"), TensorBoardWriter("run")])
    writer.write(100, {"loss": 0.31, "eval/accuracy": 0.87})
    table = pd.read_csv("run/metrics.csv").pivot(index="step", columns="name", values="value")

A writer is any object with `write(step, {name: number})`, `rewind(step)` and `close()`. A run that was killed repeats
the steps after its last checkpoint; `rewind` removes what was written for them before.
"""

import csv
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from kitlib.data import files


class MetricWriter(Protocol):
    """What every writer can do; `rewind` and `close` may do nothing. TensorBoard shows the value that was written last,
    and W&B ignores steps that are not later than the last."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics after `step` updates."""

    def rewind(self, step: int) -> None:
        """Forgets what was written for later steps, where that is possible."""

    def close(self) -> None: ...


class CsvWriter(MetricWriter):
    """Rows of step, name and value; every row is on the disk when `write` returns."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            files.write_text(self.path, "step,name,value\n")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        with self.path.open("a", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([step, name, repr(float(value))] for name, value in metrics.items())
            handle.flush()
            os.fsync(handle.fileno())

    def rewind(self, step: int) -> None:
        lines = [line.split(",") for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines()]
        # Rows after this step are of a run that is repeated, and the last one may be cut off, the header with it.
        whole = [",".join(row) for row in lines if len(row) == 3 and row[0].isdecimal() and int(row[0]) <= step]
        files.write_text(self.path, "\n".join(["step,name,value", *whole]))


class TensorBoardWriter(MetricWriter):
    """Event files for TensorBoard. Raises ModuleNotFoundError without the package tensorboardX."""

    def __init__(self, folder: str | Path):
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError:
            raise ModuleNotFoundError("TensorBoard files need tensorboardX: pip install tensorboardX.") from None
        self.writer = SummaryWriter(str(folder))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, float(value), step)

    def close(self) -> None:
        self.writer.close()


class WandbWriter(MetricWriter):
    """A run of W&B, under `project`. Raises ModuleNotFoundError without the package wandb."""

    def __init__(self, project: str, folder: str | Path, config: dict):
        try:
            import wandb
        except ModuleNotFoundError:
            raise ModuleNotFoundError("Weights & Biases needs its package: pip install wandb.") from None
        # A run that goes on is the same run there; one in another folder, or after this one was deleted, is not.
        named = Path(folder) / "wandb_id.txt"
        if not named.is_file():
            named.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(named, secrets.token_hex(8))
        one = named.read_text(encoding="utf-8")
        self.run = wandb.init(project=project, dir=str(folder), config=config, resume="allow", id=one)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        self.run.finish()


class MetricWriters:
    """Several writers as one."""

    def __init__(self, writers: list[MetricWriter]):
        self.writers = writers

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        for writer in self.writers:
            writer.write(step, metrics)

    def rewind(self, step: int) -> None:
        for writer in self.writers:
            writer.rewind(step)

    def close(self) -> None:
        for writer in self.writers:
            writer.close()
