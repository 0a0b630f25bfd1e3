"""Every line of `kit doctor` can be OK and can be FAIL; `complete` installs what is missing and no more."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from kitlib.tools import doctor


def lines(part) -> list[str]:
    return [str(line) for line in part]


def test_this_environment_is_complete(capsys):
    assert doctor.main() == 0
    out = capsys.readouterr().out
    assert "[FAIL]" not in out
    assert out.endswith("kit doctor: nothing to repair in the library\n")
    assert "[OK] python 3." in out and "[OK] jax " in out and "CPU cores" in out


def test_the_exit_status_is_1_if_anything_fails(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "packages", lambda: iter([doctor.Line("FAIL", "jax: not installed")]))
    assert doctor.main() == 1
    assert capsys.readouterr().out.endswith("1 to repair, see FAIL above\n")


def test_packages():
    assert lines(doctor.python(">=3.11"))[0].startswith("[OK] python 3.")
    assert "expected <3; make the environment anew" in lines(doctor.python("<3"))[0]
    wanted = ["numpy>=1", "jax>=999", "no-such-package>=2", "no-such-lab>=1; extra == 'lab'", "jax<1; extra == 'x'"]
    jax_in_extra, jax_too_old, lab, absent, numpy = lines(doctor.packages(wanted))
    assert jax_in_extra.startswith("[OK] jax ") and jax_too_old.startswith("[FAIL] jax: got 0.")
    assert jax_too_old.endswith(", expected >=999; run: pip install 'jax>=999'")
    assert lab == "[--] no-such-lab is not installed (extra: lab)"
    assert absent == "[FAIL] no-such-package: not installed, expected >=2; run: pip install 'no-such-package>=2'"
    assert numpy.startswith("[OK] numpy ")


def test_a_missing_extra_names_its_commands(monkeypatch, capsys, tmp_path):
    wanted = ["numpy>=1", "no-such-lab>=1; extra == 'lab'", "numpy>=999; extra == 'lab'", "nothing; extra == 'pods'"]
    assert list(doctor.missing_extras(wanted)) == [
        "kit run, kit check and kit lab need the extra lab (no-such-lab, numpy): pip install -e '.[lab]'"
    ]
    assert list(doctor.missing_extras(["numpy>=1; extra == 'lab'"])) == []
    monkeypatch.setattr(doctor, "missing_extras", lambda: iter(["kit run needs the extra lab"]))
    assert doctor.main() == 0
    assert capsys.readouterr().out.endswith("nothing to repair in the library; kit run needs the extra lab\n")
    monkeypatch.setattr(doctor, "ROOT", tmp_path)  # without a checkout
    assert doctor.install("test") == "pip install 'kitlib-...whl[test]', with the file that you installed"


def test_the_lock_is_informational(tmp_path):
    path = tmp_path / "requirements.lock"
    assert lines(doctor.lock(path)) == []  # not a checkout
    version = doctor.installed_version("numpy")
    path.write_text(f"numpy=={version} \\\n    --hash=sha256:00\nother==1 ; sys_platform == 'no-such'\n")
    assert lines(doctor.lock(path)) == ["[OK] the installed set is the tested one (requirements.lock)"]
    path.write_text("numpy==0.1 \\\n    --hash=sha256:00\nno-such-package==3\n")
    (line,) = lines(doctor.lock(path))
    assert f"2 of 2 versions are not the tested ones: numpy {version} (tested: ==0.1), 1 of other packages" in line
    path.write_text("numpy==0.1 ; python_full_version < '3'\n")
    (line,) = lines(doctor.lock(path))
    assert line == "[--] the tested set in requirements.lock is for other Pythons or systems than this one"


def test_data_files(tmp_path):
    def found(content: bytes | None, path=tmp_path / "a.bin") -> str:
        path.unlink(missing_ok=True) if content is None else path.write_bytes(content)
        (line,) = lines(doctor.data_files(tmp_path))
        return line

    sums = f"{hashlib.sha256(b'a').hexdigest()}  "
    assert lines(doctor.data_files(tmp_path / "none"))[0].startswith("[FAIL] data: ")
    (tmp_path / "checksums.txt").write_text(f"{sums}a.bin\n")
    assert found(b"a") == "[OK] data: 1 files, all with the right checksum"
    assert found(b"b").startswith("[FAIL] data a.bin: got ")
    assert found(None).startswith("[FAIL] data a.bin: got no readable file")
    found(b"a")
    (tmp_path / "results").mkdir()  # folders below have notes of their own
    (tmp_path / "results" / "checksums.txt").write_text(f"{sums}t.csv\n")
    assert found(b"a", tmp_path / "results" / "t.csv") == "[OK] data: 2 files, all with the right checksum"
    assert found(b"b", tmp_path / "results" / "t.csv").startswith("[FAIL] data results/t.csv: got ")


def test_cache_folder(tmp_path, monkeypatch):
    (line,) = lines(doctor.cache_folder(tmp_path / "not" / "yet"))
    assert line == f"[OK] cache folder {tmp_path}/not/yet can be written"
    assert list(tmp_path.iterdir()) == []  # looking leaves nothing behind
    (tmp_path / "file").write_text("")
    assert lines(doctor.cache_folder(tmp_path / "file" / "x"))[0].startswith("[FAIL] cache folder ")


def test_devices(monkeypatch):
    import jax

    assert lines(doctor.devices())[0].startswith("[OK] JAX computes on ")

    def broken():
        raise RuntimeError("no driver")

    monkeypatch.setattr(jax, "devices", broken)
    assert lines(doctor.devices())[0].startswith("[FAIL] JAX: RuntimeError: no driver")


def test_a_missing_numpy_is_reported_and_does_not_end_the_doctor():
    code = "import sys; sys.modules['numpy'] = None; from kitlib.tools import doctor; sys.exit(doctor.main())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "[OK] python 3." in ended.stdout and "[FAIL] data: " in ended.stdout and "[FAIL] JAX: " in ended.stdout
    assert ended.stdout.endswith("2 to repair, see FAIL above\n")


# Colab


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
    doctor.complete(wanted[:1], pip)
    assert not pip.commands and "installing" not in capsys.readouterr().out  # nothing is missing
    doctor.complete(wanted, pip)
    assert len(pip.commands) == 1 and pip.commands[0][-1] == "no-such-package>=2"  # not numpy, not the extra's
    lines = pip.held.splitlines()
    assert f"numpy=={doctor.installed_version('numpy')}" in lines and all("==" in line for line in lines)
    out = capsys.readouterr().out
    assert "installing no-such-package>=2" in out and out.endswith("no restart is needed\n")


def test_what_pip_cannot_do_and_what_is_too_old_is_said():
    with pytest.raises(SystemExit, match=r"(?s)could not install no-such-package>=2 .*no matching distribution"):
        doctor.complete(["no-such-package>=2"], Pip(returncode=1))
    with pytest.raises(SystemExit, match=r"(?s)numpy: got .*, expected >=999; run: pip install.*restart the session"):
        doctor.complete(["numpy>=999"], Pip())
