"""A disk of its own for a test, so small that it is soon full: a tmpfs, where the user may mount one."""

import contextlib
import os
import subprocess
from pathlib import Path

import pytest


class SmallDisk:
    """A mounted file system; `fill` leaves `free` bytes of it, `lock` makes it read-only."""

    def __init__(self, folder: Path):
        self.folder = folder

    def fill(self, free: int = 0) -> None:
        stat = os.statvfs(self.folder)
        with (self.folder / "filler").open("wb") as file:
            file.write(b"x" * max(0, stat.f_bavail * stat.f_frsize - free))

    def lock(self) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(self.folder)], check=True)

    def unlock(self) -> None:
        subprocess.run(["mount", "-o", "remount,rw", str(self.folder)], check=True)

    def names(self) -> list[str]:
        """Everything that is there, but for the filler, as relative paths of files."""
        found = (path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
        return sorted(name for name in found if name != "filler")


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "1m"):
    """Skips the test where nothing can be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a full disk needs a tmpfs of its own, which this user may not mount")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
