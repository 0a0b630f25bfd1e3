"""kitlib.bench.runner: it runs the named tables and knows their names."""

import pytest

from kitlib.bench import runner


def test_only_the_named_table_is_printed(monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(runner.vit, "main", lambda: ran.append("vit"))
    monkeypatch.setattr(runner.moe, "main", lambda: ran.append("moe"))
    runner.main(("moe",))
    with pytest.raises(SystemExit, match=r"Unknown bench 'vitt'; did you mean 'vit'\? Known: vit, moe, e3, t5, palix"):
        runner.main(("vitt",))
    assert ran == ["moe"] and capsys.readouterr().out.startswith("jax ")
