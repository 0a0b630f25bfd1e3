"""Not the test of a module: every kind of model, on eight devices, in one process and in two."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from devices import environment, free_port

SCRIPT = Path(__file__).with_name("same_everywhere.py")
TWICE = "ViT; V-MoE; V-MoE, shard_map; E3; T5-MoE; PaLI-X"
ONCE = "ViT, accumulated; ViT, scanned; BatchEnsemble; T5; expert choice; E3, dropless; V-MoE, tensor; V-MoE, dropless"
ONCE += "; V-MoE, accumulated; V-MoE, shard_map, tensor; V-MoE, dropless, tensor"


def compared(text: str) -> dict[str, dict]:
    return {row["name"]: row for row in map(json.loads, re.findall(r"^{.*", text, re.MULTILINE))}


def check(rows: dict[str, dict], names: str) -> None:
    assert set(rows) == set(names.split("; "))
    for row in rows.values():
        # The loss is about 3; the largest gradient is 1 by definition.
        assert row["loss"] < 1e-5 and row["gradient"] < 1e-5, row


def started(*arguments: str) -> subprocess.Popen:
    command, pipe = [sys.executable, str(SCRIPT), *arguments], subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=SCRIPT.parent, env=environment())


@pytest.mark.slow
@pytest.mark.parametrize(("count", "names"), [(1, f"{TWICE}; {ONCE}"), (2, TWICE)])
def test_eight_devices_are_one_in_one_process_and_in_two(count, names):
    address = f"localhost:{free_port()}"
    all_of_them = [started(*(address, "2", str(i)) if count > 1 else ()) for i in range(count)]
    results = [process.communicate(timeout=None if count == 1 else 600) for process in all_of_them]
    for process, (out, err) in zip(all_of_them, results, strict=True):
        assert process.returncode == 0, err[-3000:]
        check(compared(out), names)
