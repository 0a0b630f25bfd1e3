"""kitlib.bench.palix: the table prints, and its minutes add up."""

import dataclasses
import functools
import re

import pytest

from kitlib import configs
from kitlib.bench import palix as bench_palix
from kitlib.bench import timing
from kitlib.data import tokenizer
from kitlib.multimodal import stages

pytestmark = pytest.mark.slow


def test_the_table_prints_and_adds_up(monkeypatch, capsys):
    """A tower of one block and one stage of texts alone. Minutes are seconds * steps / 60, up to the printed digits."""
    words = tokenizer.multilingual().vocab_size
    text = {"vocab_size": words, "num_encoder_layers": 1, "num_decoder_layers": 1}
    small = configs.palix("XS", tower={"image_size": (64, 64), "depth": 1}, text=text)
    changes = {"weights": {"text": {"span_corruption": 1}}, "rows": {"text": 1}, "steps": 600}
    texts = dataclasses.replace(stages.STAGES["base"], **changes)
    monkeypatch.setattr(stages, "released_config", lambda: small)
    monkeypatch.setattr(stages, "STAGES", {"base": texts})
    monkeypatch.setattr(stages, "OCR", {"steps": 1200, "batch_size": 2, "peak": 1e-3})
    monkeypatch.setattr(timing, "interleaved", functools.partial(timing.interleaved, rounds=2))
    bench_palix.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if re.search(r"\d$", line)]
    rows = {line.split()[0]: line.replace("all stages", "all").split()[1:] for line in lines}
    assert set(rows) == {"ocr", "base", "all"} and rows["all"][0] == "1800"
    for name, steps in (("ocr", 1200), ("base", 600)):
        seconds, counted, minutes = map(float, rows[name])
        assert counted == steps and abs(minutes - seconds * steps / 60) <= 0.005 * steps / 60 + 0.06
    assert abs(float(rows["all"][1]) - sum(float(rows[name][2]) for name in ("ocr", "base"))) < 0.16
