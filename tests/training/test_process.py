"""Settings of processes: the environment variables, and their effect in a process that is started with them."""

import os
import signal
import subprocess
import sys
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


def test_compiled_programs_are_kept_for_this_cpu_and_these_versions(linux, tmp_path, monkeypatch):
    """Another CPU or another version has another folder; what nobody used for a month, or is too large, is removed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    env = process.kept_cache()
    folder = Path(env["JAX_COMPILATION_CACHE_DIR"])
    assert (
        env == process.kept_cache() and folder.parent == tmp_path / "kitlib" and folder.stat().st_mode & 0o777 == 0o700
    )
    # All compiled programs are stored, also small ones and those that compile quickly.
    assert env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == env["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] == "0"
    assert env["GLIBC_TUNABLES"] == process.allocator()["GLIBC_TUNABLES"]
    with monkeypatch.context() as patch:
        patch.setattr(process, "cpu", lambda: "another")
        other = Path(process.kept_cache()["JAX_COMPILATION_CACHE_DIR"])
    with monkeypatch.context() as patch:
        patch.setattr(process.metadata, "version", lambda name: "0.0")
        third = Path(process.kept_cache()["JAX_COMPILATION_CACHE_DIR"])
    assert len({folder, other, third}) == 3
    (folder / "program").write_bytes(b"12345")
    os.utime(folder, (0, 0))  # the one in use stays, however old
    os.utime(other, (0, 0))
    process.kept_cache()
    assert (folder / "program").exists() and third.is_dir() and not other.exists()
    monkeypatch.setattr(process, "MOST_BYTES", 4)
    process.kept_cache()
    assert not (folder / "program").exists()


def test_where_nothing_can_be_kept_every_process_compiles_for_itself(tmp_path, monkeypatch):
    (tmp_path / "kitlib").touch()  # a file where the folder would be
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert process.kept_cache() == process.allocator()
