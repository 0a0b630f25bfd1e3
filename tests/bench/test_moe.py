"""kitlib.bench.moe: the timed calls compute everything that they should; the tables print."""

import jax
import numpy as np
import pytest

from kitlib.bench import moe as bench_moe

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
TABLES |= {"members": "E3 K=1 M=4, lazy", "together": "one program"}


@pytest.mark.parametrize(("table", "words"), TABLES.items())
def test_tables_print(table, words, monkeypatch, capsys, one_round):
    small = bench_moe.TINY.replace(depth=2)
    changes = {"SHAPES": ((16, 4, 8, 2, 1),) * 2, "GROUPS": (2,), "STEP": small, "SMALL_VMOE": small}
    for name, value in (changes | {"SMALL_BATCH": 4, "TINY_BATCH": 4}).items():
        monkeypatch.setattr(bench_moe, name, value)
    getattr(bench_moe, f"{table}_table")()
    assert words in capsys.readouterr().out
