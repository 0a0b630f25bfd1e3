"""closeness.assert_close: how far apart trees are, and where they differ. (More messages: test_checks.py.)"""

import jax.numpy as jnp
import numpy as np
import pytest

from kitlib.tools.checks import assert_close


def test_the_largest_difference_by_hand():
    # |2.5 - 2| / 2 = 0.25, |0.3 - 0.2| / 1 = 0.1: the largest is 0.25; an integer leaf counts as 0.
    got = {"a": np.array([2.5, 0.3]), "n": np.array([3])}
    want = {"a": np.array([2.0, 0.2]), "n": np.array([3])}
    assert assert_close("x == y", "output", got, want, tol=0.3) == pytest.approx(0.25)
    with pytest.raises(AssertionError, match=r"x == y: output\['a'\]: max error 0.5 at \[0\] \(got 2.5, expected 2\)"):
        assert_close("x == y", "output", got, want, tol=0.2)
    assert assert_close("x == x", "output", want, want, tol=0.0) == 0.0
    with pytest.raises(AssertionError, match=r"^x: output: got 1, expected 2, tolerance 1e-05\.$"):
        assert_close("x", "output", 1.0, 2.0, tol=1e-5)
    with pytest.raises(AssertionError, match=r"output\['b'\]: 1 of 2 entries differ, the first at \[1\]"):
        assert_close("x", "output", {"a": 1.0, "b": np.array([3, 5])}, {"a": 1.0, "b": np.array([3, 4])}, tol=1e-5)
    assert assert_close("nothing", "output", jnp.zeros((0, 2)), jnp.zeros((0, 2)), tol=0.0) == 0.0
