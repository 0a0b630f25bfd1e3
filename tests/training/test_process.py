"""Settings of processes: the environment variables, and their effect in a process that is started with them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kitlib.training import process


@pytest.fixture
def linux(monkeypatch):
    """A Linux process whose memory allocator has its usual settings."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)


def test_the_allocator_keeps_its_memory_in_huge_pages(linux, monkeypatch):
    settings = "hugetlb=1 arena_max=1 mmap_threshold=4000000000 trim_threshold=4000000000"
    assert process.allocator() == {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{each}" for each in settings.split())}
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=3")  # settings of the user are kept
    assert process.allocator() == {"GLIBC_TUNABLES": "glibc.malloc.arena_max=3"}
    assert process.run_with_allocator("raise SystemExit(3)") is None  # and need no other process
    monkeypatch.delenv("GLIBC_TUNABLES")
    monkeypatch.setattr(sys, "platform", "darwin")  # other systems have no such allocator
    assert process.allocator() == {}
    assert process.run_with_allocator("raise SystemExit(3)") is None


def test_a_line_runs_in_a_process_with_the_settings(linux):
    line = "import os, sys; sys.exit(7 if 'hugetlb=1' in os.environ['GLIBC_TUNABLES'] else 1)"
    assert process.run_with_allocator(line) == 7
    assert "GLIBC_TUNABLES" not in os.environ


def test_a_signal_to_end_reaches_the_process(linux, tmp_path):
    """The process answers SIGTERM with exit status 5; the signal is sent as soon as it listens."""
    ready = tmp_path / "ready"
    line = "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))"
    line += f"; pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    wait_and_send = f"while [ ! -e {ready} ]; do sleep 0.05; done; kill -TERM {os.getpid()}"
    before = signal.getsignal(signal.SIGTERM)
    with subprocess.Popen(["sh", "-c", wait_and_send]):
        assert process.run_with_allocator(line) == 5
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_compilation_cache_is_kept_for_the_next_job(linux, monkeypatch, tmp_path):
    """Of one version of JAX and one CPU, for this user alone; what has not been used for a month is deleted."""
    monkeypatch.setenv("HOME", str(tmp_path))
    found = process.job()
    folder = Path(found["JAX_COMPILATION_CACHE_DIR"])
    assert folder.parent == tmp_path / ".cache" / "kitlib" and folder.stat().st_mode & 0o077 == 0
    # All compiled programs are stored, also small ones and those that compile quickly.
    assert found["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0"
    assert found["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] == "0"
    assert found["GLIBC_TUNABLES"] == process.allocator()["GLIBC_TUNABLES"]
    for name, days in (("old", 31), ("new", 29)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - days * 24 * 3600,) * 2)
    assert process.job() == found and [path.name for path in folder.iterdir()] == ["new"]
    monkeypatch.setattr(process, "_cpu", lambda: ["another"])
    assert process.job()["JAX_COMPILATION_CACHE_DIR"] != str(folder)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))  # nothing can be written there
    assert process.job() == process.allocator()
