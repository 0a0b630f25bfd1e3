"""Settings of nbval that have no command-line option, and notebooks that need what this machine lacks."""

import functools
from pathlib import Path

import pytest

from kitlib.tools import notebook_files


def pytest_configure(config):
    """`pytest --nbval notebooks/` compares as `kit check` does: with the Python that runs it, not a kernel of the name
    "python3" that a user may have registered, and with the kit's rules for figures, addresses and times."""
    if getattr(config.option, "nbval", False):
        config.option.nbval_current_env = True
        if config.option.nbval_sanitize_with is None:
            config.option.nbval_sanitize_with = str(Path(__file__).with_name("notebooks") / "nbval_sanitize.cfg")


def pytest_collectstart(collector):
    """Compares no kind of output that differs between machines without meaning."""
    if getattr(collector, "path", None) and collector.path.suffix == ".ipynb" and hasattr(collector, "skip_compare"):
        collector.skip_compare += notebook_files.UNCOMPARED


def pytest_collection_modifyitems(items):
    """nbval hard-codes 5 s between outputs (nbval#231); a busy machine needs more. Cells whose notebook needs weights
    that are not here are skipped."""
    lacks = functools.cache(notebook_files.lacks)
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = 120
            if reason := lacks(item.path):
                item.add_marker(pytest.mark.skip(reason=reason))
