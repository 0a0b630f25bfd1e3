"""kitlib.bench.models: the stock ViT has the size of ours; the tables print, and the minutes add up."""

import dataclasses
import re

import jax
import pytest

from kitlib import configs
from kitlib.bench import models, timing
from kitlib.data import tokenizer
from kitlib.models.vit import ViT
from kitlib.multimodal import stages
from kitlib.training import classification

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_round")]


def test_the_peer_has_the_same_size_and_the_table_prints(monkeypatch, capsys):
    """The stock ViT has as many parameters as ours, so the ratio compares equal models."""
    config = models.VIT_ROWS[0][1].replace(depth=1)
    counts = [
        sum(p.size for p in jax.tree.leaves(classification.init_params(model, (1, 28, 28, 1))))
        for model in (ViT(config), models.StockViT(config))
    ]
    assert counts[0] == counts[1]
    monkeypatch.setattr(models, "VIT_ROWS", [("small", config, 2)])
    models.vit_table()
    text = capsys.readouterr().out
    assert [re.split(r"\s+", line)[1] for line in text.splitlines()[2:]] == ["matmul", "kitlib", "scanned", "stock"]
    for variant in ("kitlib", "scanned", "stock"):
        assert re.search(rf"^small +{variant}( +\d+\.?\d*){{6}}$", text, re.MULTILINE), text


def not_installed(make):
    raise ImportError(name="torch")


def test_tables_of_a_t5_print_without_the_peer(monkeypatch, capsys):
    monkeypatch.setattr(models, "CONFIG", configs.t5("tiny", num_encoder_layers=1, num_decoder_layers=1))
    monkeypatch.setattr(models, "BATCHES", (2,))
    for name in ("INPUTS", "WRITTEN", "LONGER", "TARGETS"):
        monkeypatch.setattr(models, name, 4)
    monkeypatch.setattr(timing, "OtherProcess", not_installed)
    models.t5_tables()
    out = capsys.readouterr().out
    assert "transformers with torch is not installed with the kit (torch): no column for it." in out
    assert "writing 4 tokens from 4, tokens/s" in out and "training step, batch 2, 4 inputs, 4 targets, ms" in out
    assert models.versus({"kitlib": 30.0, "transformers": 20.0}).split() == ["20", "1.50"]
    assert models.versus({"kitlib": 30.0}).split() == ["-", "-"]


def test_the_stages_of_palix_print_and_add_up(monkeypatch, capsys):
    """A tower of one block and one stage of texts alone. Minutes are seconds * steps / 60, up to the printed digits."""
    words = tokenizer.multilingual().vocab_size
    text = {"vocab_size": words, "num_encoder_layers": 1, "num_decoder_layers": 1}
    small = configs.palix("XS", tower={"image_size": (64, 64), "depth": 1}, text=text)
    changes = {"weights": {"text": {"span_corruption": 1}}, "rows": {"text": 1}, "steps": 600}
    texts = dataclasses.replace(stages.STAGES["base"], **changes)
    monkeypatch.setattr(stages, "released_config", lambda: small)
    monkeypatch.setattr(stages, "STAGES", {"base": texts})
    monkeypatch.setattr(stages, "OCR", {"steps": 1200, "batch_size": 2, "peak": 1e-3})
    models.palix_table()
    lines = [line for line in capsys.readouterr().out.splitlines() if re.search(r"\d$", line)]
    rows = {line.split()[0]: line.replace("all stages", "all").split()[1:] for line in lines}
    assert set(rows) == {"ocr", "base", "all"} and rows["all"][0] == "1800"
    for name, steps in (("ocr", 1200), ("base", 600)):
        seconds, counted, minutes = map(float, rows[name])
        assert counted == steps and abs(minutes - seconds * steps / 60) <= 0.005 * steps / 60 + 0.06
    assert abs(float(rows["all"][1]) - sum(float(rows[name][2]) for name in ("ocr", "base"))) < 0.16
