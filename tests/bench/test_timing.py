"""kitlib.bench.timing: calls alternate, and a stepper keeps its state."""

import functools
import gc
import os

import pytest

from kitlib.bench import timing


def test_calls_alternate_and_the_first_round_is_discarded():
    order = []
    seconds = timing.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert order == ["a", "b"] * 4
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    call = timing.stepper(lambda state, batch: (state + batch, {"loss": state}), 10, [5, 6, 7])
    assert [call(), call(), call()] == [10, 15, 21]  # it keeps the state, and takes the next batch


@pytest.mark.slow
def test_calls_run_in_a_process_of_their_own():
    """Functions of the standard library: they can be sent to another process."""
    with timing.OtherProcess(functools.partial(dict, collect=gc.collect)) as peer:
        seconds = timing.interleaved({"theirs": peer.call("collect"), "ours": gc.collect}, rounds=2)
        assert {name: len(times) for name, times in seconds.items()} == {"theirs": 2, "ours": 2}
        assert peer.submit(os.getpid).result() != os.getpid()
        with pytest.raises(KeyError, match="unknown"):
            peer.call("unknown")()
    with pytest.raises(ValueError, match="invalid literal"):  # an error there is raised here
        timing.OtherProcess(functools.partial(int, "x"))
