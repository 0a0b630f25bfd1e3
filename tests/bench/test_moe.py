"""kitlib.bench.moe: the timed calls compute everything that they should; the tables print."""

import functools

import jax
import numpy as np
import pytest

from kitlib.bench import moe as bench_moe
from kitlib.bench import timing
from kitlib.bench import vit as bench_vit

pytestmark = pytest.mark.slow


def test_every_variant_returns_its_output_and_all_gradients():
    """The layers of one row are the same function; outputs and all gradients are part of the timing."""
    t, d, f, e, k, g = 24, 4, 8, 3, 2, 2
    calls, megabytes = bench_moe.variants(t, d, f, e, k, g)
    assert set(calls) == {name for race in bench_moe.RACES for name in race}
    y, (params, x) = calls["gather"]()
    assert y.shape == x.shape == (g, t // g, d)
    kernels = params["params"]
    assert kernels["Router"]["dense"]["kernel"].shape == (d, e)
    assert kernels["Mlp"]["Dense_0"]["kernel"].shape == (e, d, f)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves((params, x)))
    einsum = calls["einsum"]()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), (y, (params, x)), einsum)
    assert calls["dense"]()[0].shape == (t * k, d)  # as many rows as all tokens have choices
    assert all(mb > 0 for mb in megabytes.values())


TABLES = {"layer": "choice alone", "parts": "combine", "step": "every-2, K=2", "step_parts": "AdamW"}


@pytest.mark.parametrize(("table", "words"), TABLES.items())
def test_tables_print(table, words, monkeypatch, capsys):
    monkeypatch.setattr(bench_moe, "SHAPES", ((16, 4, 8, 2, 1),) * 2)
    monkeypatch.setattr(bench_moe, "GROUPS", (2,))
    monkeypatch.setattr(bench_moe, "STEP", bench_vit.VIT_ROWS[0][1].replace(depth=2))
    monkeypatch.setattr(timing, "interleaved", functools.partial(timing.interleaved, rounds=1))
    getattr(bench_moe, f"{table}_table")()
    assert words in capsys.readouterr().out
