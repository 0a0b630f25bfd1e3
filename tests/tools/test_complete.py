"""kitlib.tools.complete: what is missing is installed, what is there stays, what does not fit is named."""

import subprocess
from pathlib import Path

import pytest

from kitlib.tools import complete, doctor


class Pip:
    """Stands for pip: remembers what it was asked for, and what it had to leave alone; then `provides` is there."""

    def __init__(self, returncode: int = 0, provides: str = "", monkeypatch=None):
        self.commands, self.held, self.returncode = [], "", returncode
        self.provides, self.monkeypatch = provides, monkeypatch

    def __call__(self, command, **options):
        self.commands.append(command)
        self.held = Path(command[command.index("--constraint") + 1]).read_text()
        if self.provides:
            known = doctor.installed_version
            found = lambda name: "2.5" if name == self.provides else known(name)  # noqa: E731
            self.monkeypatch.setattr(doctor, "installed_version", found)
        return subprocess.CompletedProcess(command, self.returncode, "", "ERROR: no matching distribution")


def test_only_what_is_missing_is_installed(monkeypatch, capsys):
    pip = Pip(provides="no-such-package", monkeypatch=monkeypatch)
    wanted = ["numpy>=1", "no-such-package>=2", "no-such-lab>=1; extra == 'lab'"]
    complete.complete(wanted[:1], pip)
    assert not pip.commands and "installing" not in capsys.readouterr().out  # nothing is missing
    complete.complete(wanted, pip)
    assert len(pip.commands) == 1 and pip.commands[0][-1] == "no-such-package>=2"  # not numpy, not the extra's
    lines = pip.held.splitlines()
    assert f"numpy=={doctor.installed_version('numpy')}" in lines and all("==" in line for line in lines)
    out = capsys.readouterr().out
    assert "installing no-such-package>=2" in out and out.endswith("no restart is needed\n")


def test_what_pip_cannot_do_and_what_is_too_old_is_said():
    with pytest.raises(SystemExit, match=r"(?s)could not install no-such-package>=2 .*no matching distribution"):
        complete.complete(["no-such-package>=2"], Pip(returncode=1))
    with pytest.raises(SystemExit, match=r"(?s)numpy: got .*, expected >=999; run: pip install.*restart the session"):
        complete.complete(["numpy>=999"], Pip())
