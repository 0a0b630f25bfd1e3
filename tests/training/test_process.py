"""Settings of processes: the environment variables, and their effect in a process that is started with them."""

import os
import signal
import subprocess
import sys

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


def test_the_cache_of_a_job_is_shared_and_removed_at_its_end(linux):
    with process.job_cache() as first, process.job_cache() as second:
        folders = [os.path.dirname(env["JAX_COMPILATION_CACHE_DIR"]) for env in (first, second)]
        assert folders[0] != folders[1] and all(map(os.path.isdir, folders))
        # All compiled programs are stored, also small ones and those that compile quickly.
        assert first["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0"
        assert first["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] == "0"
        assert first["GLIBC_TUNABLES"] == process.allocator()["GLIBC_TUNABLES"]
    with pytest.raises(KeyboardInterrupt), process.job_cache() as env:
        folders.append(os.path.dirname(env["JAX_COMPILATION_CACHE_DIR"]))
        raise KeyboardInterrupt
    assert not any(map(os.path.exists, folders))
