"""Settings of nbval that have no command-line option, and notebooks that need what this machine lacks."""

import functools

import pytest

from kitlib.tools import notebook_files


def pytest_collectstart(collector):
    """Compares no output that differs between machines without meaning: warnings carry paths, SVG carries a date."""
    if getattr(collector, "path", None) and collector.path.suffix == ".ipynb" and hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr", "image/svg+xml", "text/html", "application/javascript")


def pytest_collection_modifyitems(items):
    """nbval hard-codes 5 s between outputs (nbval#231); a busy machine needs more. Cells whose notebook needs weights
    that are not here are skipped."""
    lacks = functools.cache(notebook_files.lacks)
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = 120
            if reason := lacks(item.path):
                item.add_marker(pytest.mark.skip(reason=reason))
