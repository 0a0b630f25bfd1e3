"""Not the test of a module: every kind of model, on eight devices, in one process and in two."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from devices import environment, free_port

SCRIPT = Path(__file__).with_name("same_everywhere.py")


def compared(text: str) -> dict[str, dict]:
    rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return {row["name"]: row for row in rows}


def check(rows: dict[str, dict], names: set[str]) -> None:
    assert set(rows) == names
    for row in rows.values():
        # The loss is about 3; the largest gradient is 1 by definition.
        assert row["loss"] < 1e-5 and row["gradient"] < 1e-5, row


@pytest.mark.slow
def test_eight_devices_are_one():
    command = [sys.executable, str(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parent, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    sparse = {f"V-MoE{rest}" for rest in ("", ", tensor", ", accumulated", ", shard_map", ", shard_map, tensor")}
    sparse |= {"V-MoE, dropless", "V-MoE, dropless, tensor", "E3, dropless"}
    dense = {"ViT", "ViT, accumulated", "ViT, scanned", "BatchEnsemble", "T5", "PaLI-X"}
    check(compared(done.stdout), sparse | dense | {"expert choice", "E3", "T5-MoE"})


@pytest.mark.slow
def test_two_processes_of_four_devices_are_one():
    address = f"localhost:{free_port()}"
    command = [sys.executable, str(SCRIPT), address, "2"]
    both = [
        subprocess.Popen(
            [*command, str(i)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
        for i in range(2)
    ]
    results = [process.communicate(timeout=600) for process in both]
    names = {"ViT", "V-MoE", "V-MoE, shard_map", "E3", "T5-MoE", "PaLI-X"}
    for process, (out, err) in zip(both, results, strict=True):
        assert process.returncode == 0, err[-3000:]
        check(compared(out), names)
