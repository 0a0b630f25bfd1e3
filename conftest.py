"""Two settings of nbval that have no command-line option; they matter to `kit check` only."""


def pytest_collectstart(collector):
    """Compares no output that differs between machines without meaning: warnings carry paths, SVG carries a date."""
    if getattr(collector, "path", None) and collector.path.suffix == ".ipynb" and hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr", "image/svg+xml", "text/html", "application/javascript")


def pytest_collection_modifyitems(items):
    """nbval hard-codes 5 s between outputs (nbval#231); a busy machine needs more."""
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = 120
