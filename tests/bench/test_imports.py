"""kitlib.bench.runner: every timed line can be run, and the table prints."""

import functools

import pytest

from kitlib.bench import runner, timing

pytestmark = pytest.mark.slow


def test_the_table_prints(monkeypatch, capsys):
    """Whole processes, one round each: a line that fails would raise CalledProcessError."""
    monkeypatch.setattr(timing, "interleaved", functools.partial(timing.interleaved, rounds=0))
    monkeypatch.setattr(runner.statistics, "median", lambda seconds: 1.0)
    runner.imports()
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[2:]] == ["1.00"] * 4
