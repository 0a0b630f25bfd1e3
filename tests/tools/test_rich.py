"""rich: a line for tests and terminals, a row for readers."""

import sys
import types

from kitlib.tools import rich

CELLS = ("ok", "a < b", "measured 1", "expected 1 ±0.1")


def test_a_row_is_escaped_and_its_columns_have_fixed_widths(capsys):
    row = rich.row(CELLS)
    assert "<b>ok</b>" in row and "a &lt; b" in row and row.count("<td") == 4 == row.count("<col ")
    assert "table-layout:fixed" in row and all(width in row for width in rich.WIDTHS)
    assert "\n" not in row
    rich.display_row("[ok] a < b: 1", CELLS)  # without a notebook
    assert capsys.readouterr().out == "[ok] a < b: 1, measured 1\n"


def test_a_notebook_is_a_shell_with_a_kernel(monkeypatch):
    for shell, expected in ((None, False), (types.SimpleNamespace(), False), (types.SimpleNamespace(kernel=1), True)):
        monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert rich._in_notebook() is expected
    monkeypatch.delitem(sys.modules, "IPython")
    assert rich._in_notebook() is False
