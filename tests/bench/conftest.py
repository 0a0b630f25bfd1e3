import functools

import pytest

from kitlib.bench import timing


@pytest.fixture
def one_round(monkeypatch):
    """Tables are timed in one round only."""
    monkeypatch.setattr(timing, "interleaved", functools.partial(timing.interleaved, rounds=1))
