"""What every iterator of batches has to do after a restart, whatever its batches hold."""

import json

import numpy as np


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def check_exact_resume(make, stop: int) -> None:
    """An iterator from `make()`, stopped after `stop` batches, goes on with the very next one from its JSON state."""
    whole = make()
    expected = [next(whole) for _ in range(stop + 6)][stop:]
    stopped = make()
    for _ in range(stop):
        next(stopped)
    state = json.loads(json.dumps(stopped.get_state()))
    resumed = make()
    resumed.set_state(state)
    assert all(same(next(resumed), batch) for batch in expected)
    stopped.set_state(state)  # and back on the same iterator
    assert same(next(stopped), expected[0])
