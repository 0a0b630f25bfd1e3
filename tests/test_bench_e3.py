import functools

import pytest

from kitlib import bench, bench_e3


@pytest.mark.parametrize(("table", "words"), [("step_table", "E3 K=1 M=4, lazy"), ("together_table", "one program")])
def test_tables_print(table, words, monkeypatch, capsys):
    monkeypatch.setattr(bench_e3, "STEP", bench_e3.SMALL)
    monkeypatch.setattr(bench_e3, "BATCH", 4)
    monkeypatch.setattr(bench_e3, "SMALL_BATCH", 4)
    monkeypatch.setattr(bench, "interleaved", functools.partial(bench.interleaved, rounds=1))
    getattr(bench_e3, table)()
    assert words in capsys.readouterr().out
