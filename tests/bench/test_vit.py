"""kitlib.bench.vit: the stock ViT has the size of ours, and the table prints."""

import functools
import re

import jax
import pytest

from kitlib.bench import timing
from kitlib.bench import vit as bench_vit
from kitlib.models.vit import ViT
from kitlib.training import classification

pytestmark = pytest.mark.slow


def test_the_peer_has_the_same_size_and_the_table_prints(monkeypatch, capsys):
    """The stock ViT has as many parameters as ours, so the ratio compares equal models."""
    config = bench_vit.VIT_ROWS[0][1].replace(depth=1)
    counts = [
        sum(p.size for p in jax.tree.leaves(classification.init_params(model, (1, 28, 28, 1))))
        for model in (ViT(config), bench_vit.StockViT(config))
    ]
    assert counts[0] == counts[1]
    monkeypatch.setattr(bench_vit, "VIT_ROWS", [("small", config, 2)])
    monkeypatch.setattr(timing, "interleaved", functools.partial(timing.interleaved, rounds=1))
    bench_vit.main()
    text = capsys.readouterr().out
    assert [re.split(r"\s+", line)[1] for line in text.splitlines()[2:]] == ["matmul", "kitlib", "scanned", "stock"]
    for variant in ("kitlib", "scanned", "stock"):
        assert re.search(rf"^small +{variant}( +\d+\.?\d*){{6}}$", text, re.MULTILINE), text
