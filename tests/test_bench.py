import re

import pytest

from kitlib import bench


def test_calls_take_turns_and_the_first_round_is_thrown_away():
    order = []
    seconds = bench.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert order == ["a", "b"] * 4
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_a_stepper_keeps_the_state():
    call = bench.stepper(lambda state, batch: (state + batch, {"loss": state}), 10, 5)
    assert [call(), call(), call()] == [10, 15, 20]


def test_an_unknown_bench_is_refused():
    with pytest.raises(SystemExit, match="no bench 'vitt'; there are: vit, moe, e3, t5, palix, import"):
        bench.main(("vitt",))


def test_the_peer_is_the_same_function_in_size_and_work(monkeypatch, capsys):
    """A small table runs; the stock ViT has as many parameters as ours, so that the ratio compares like with like."""
    import jax

    from kitlib import train
    from kitlib.vit import ViT

    config = bench.VIT_ROWS[0][1].replace(depth=1)
    counts = [
        sum(p.size for p in jax.tree.leaves(train.init_params(model, (1, 28, 28, 1))))
        for model in (ViT(config), bench.StockViT(config))
    ]
    assert counts[0] == counts[1]
    monkeypatch.setattr(bench, "VIT_ROWS", [("small", config, 2)])
    monkeypatch.setattr(bench, "ROUNDS", 1)
    bench.vit_table()
    text = capsys.readouterr().out
    assert [re.split(r"\s+", line)[1] for line in text.splitlines()[2:]] == ["matmul", "kitlib", "scanned", "stock"]
