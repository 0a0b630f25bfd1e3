"""kitlib.bench.e3: its tables print."""

import functools

import pytest

from kitlib.bench import e3 as bench_e3
from kitlib.bench import timing

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("table", "words"), [("step_table", "E3 K=1 M=4, lazy"), ("together_table", "one program")])
def test_tables_print(table, words, monkeypatch, capsys):
    monkeypatch.setattr(bench_e3, "STEP", bench_e3.SMALL.replace(depth=2))
    monkeypatch.setattr(bench_e3, "BATCH", 4)
    monkeypatch.setattr(bench_e3, "SMALL_BATCH", 4)
    monkeypatch.setattr(timing, "interleaved", functools.partial(timing.interleaved, rounds=1))
    getattr(bench_e3, table)()
    assert words in capsys.readouterr().out
