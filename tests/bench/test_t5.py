"""kitlib.bench.t5: the tables print, also without `transformers`."""

import functools

import pytest

from kitlib import configs
from kitlib.bench import t5 as bench_t5
from kitlib.bench import timing

pytestmark = pytest.mark.slow


class NotInstalled:
    def __init__(self, make):
        raise ImportError(name="torch")


def test_tables_print_without_the_peer(monkeypatch, capsys):
    monkeypatch.setattr(bench_t5, "CONFIG", configs.t5("tiny", num_encoder_layers=1, num_decoder_layers=1))
    monkeypatch.setattr(bench_t5, "BATCHES", (2,))
    for name in ("INPUTS", "WRITTEN", "LONGER", "TARGETS"):
        monkeypatch.setattr(bench_t5, name, 4)
    monkeypatch.setattr(timing, "interleaved", functools.partial(timing.interleaved, rounds=1))
    monkeypatch.setattr(timing, "OtherProcess", NotInstalled)
    bench_t5.main()
    out = capsys.readouterr().out
    assert "transformers with torch is not installed with the kit (torch): no column for it." in out
    assert "writing 4 tokens from 4, tokens/s; compilation excluded" in out
    assert "training step, batch 2, 4 inputs, 4 targets, ms; compilation excluded" in out
    assert bench_t5.versus({"kitlib": 30.0, "transformers": 20.0}).split() == ["20", "1.50"]
    assert bench_t5.versus({"kitlib": 30.0}).split() == ["-", "-"]
