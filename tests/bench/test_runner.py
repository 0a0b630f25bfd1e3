"""kitlib.bench.runner: it runs the named tables and knows their names; every timed import can be run."""

import pytest

from kitlib.bench import runner, timing


def test_only_the_named_table_is_printed(monkeypatch, capsys):
    ran = []
    for name in ("vit", "moe"):
        monkeypatch.setitem(runner.TABLES, name, (lambda name=name: ran.append(name),))
    runner.main(("moe",))
    with pytest.raises(SystemExit, match=r"Unknown bench 'vitt'; did you mean 'vit'\? Known: vit, moe, e3, t5, palix"):
        runner.main(("vitt",))
    assert ran == ["moe"] and capsys.readouterr().out.startswith("jax ")


@pytest.mark.slow
def test_the_table_of_imports_prints(monkeypatch, capsys):
    """Whole processes, once each: a line that fails would raise CalledProcessError."""
    monkeypatch.setattr(timing, "medians", lambda calls: {name: call() and 1.0 for name, call in calls.items()})
    runner.import_table()
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()[2:]] == ["1.00"] * 4
