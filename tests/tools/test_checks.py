"""The checks: what they print, and that each of them can fail."""

import functools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitlib.moe import routing
from kitlib.tools import checks


@pytest.fixture(autouse=True)
def fresh_count(monkeypatch):
    monkeypatch.setattr(checks, "_lines", [])


# claim


def test_claim_prints_the_expected_value_not_the_measured_one(capsys):
    checks.claim("ViT-B/16 parameters, millions", jnp.float32(86.5678), 86.57, 0.01)
    assert capsys.readouterr().out == "[ok] ViT-B/16 parameters, millions: 86.57 (±0.01)\n"


def test_claim_shows_counts_to_the_last_digit_and_says_exact(capsys):
    checks.claim("parameters", 86_567_656, 86_567_656, 0)
    assert capsys.readouterr().out == "[ok] parameters: 86,567,656 (exact)\n"
    with pytest.raises(AssertionError, match="parameters"):
        checks.claim("parameters", 86_567_657, 86_567_656, 0)


@pytest.mark.parametrize("got", [86.59, float("nan"), float("inf"), np.float32(np.nan)])
def test_claim_fails_outside_the_tolerance(got, capsys):
    with pytest.raises(AssertionError, match=r"size: got .*, expected 86.57 within ±0.01"):
        checks.claim("size", got, 86.57, 0.01)
    assert capsys.readouterr().out == ""


# same


def mine_square(x):
    return x * x


def lib_square(x):
    return jnp.square(x)


def test_same_names_both_functions(capsys):
    checks.same(mine_square, jnp.square, jnp.arange(3.0))
    checks.same(mine_square, functools.partial(lib_square), jnp.arange(3.0), tag="the square")
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("[ok] test_checks.mine_square == ")
    assert out.splitlines()[0].endswith("square: outputs and gradients")
    assert out.splitlines()[1] == "[ok] the square: outputs and gradients"


def test_same_hides_the_notebooks_own_module_name():
    def mine(x):
        return x

    mine.__module__, mine.__qualname__ = "__main__", "mine"
    lib = types.SimpleNamespace(__module__="kitlib.routing", __qualname__="top_k")
    assert (checks._name(mine), checks._name(lib)) == ("mine", "routing.top_k")
    assert checks._name(functools.partial(mine, 1)) == "mine"
    assert checks._name(jax.jit(functools.partial(routing.top_k, num_selected=1))) == "routing.top_k"


def test_same_finds_a_wrong_output_and_says_where():
    def wrong(x):
        return x.at[1, 2].add(0.5)

    with pytest.raises(AssertionError, match=r"output: max error 0.5 at \[1, 2\] .*mean error 0.0833"):
        checks.same(wrong, lambda x: x, jnp.zeros((2, 3)))


def test_same_finds_a_wrong_gradient_of_any_input():
    def wrong(tree, y):
        return tree["a"] * jax.lax.stop_gradient(y)

    def right(tree, y):
        return tree["a"] * y

    inputs = {"a": jnp.ones(3), "n": jnp.arange(3)}, jnp.ones(3)
    with pytest.raises(AssertionError, match=r"gradient of inputs\[1\]: max error"):
        checks.same(wrong, right, *inputs)
    checks.same(wrong, right, *inputs, grad=False)


@pytest.mark.slow
def test_same_weights_outputs_so_that_constant_sums_do_not_hide_a_gradient():
    # Every softmax sums to 1: with uniform weights all its gradients are 0, and this mistake would pass.
    def wrong(x):
        return jax.lax.stop_gradient(jax.nn.softmax(x))

    with pytest.raises(AssertionError, match="gradient"):
        checks.same(wrong, jax.nn.softmax, jnp.array([[0.1, 0.9, -0.4]]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x[None], r"got float32\[1, 3\], expected float32\[3\]"),
        (lambda x: x.astype(jnp.bfloat16), r"got bfloat16\[3\], expected float32\[3\]"),
        (lambda x: (x,), "got the structure"),
        (lambda x: x * jnp.nan, "max error nan"),
        (lambda x: x.at[0].set(jnp.inf), "max error inf"),
    ],
)
def test_same_checks_structure_shape_dtype_and_nan(wrong, message):
    with pytest.raises(AssertionError, match=message):
        checks.same(wrong, lambda x: x, jnp.arange(3.0), grad=False)


def test_same_takes_infinities_integers_keys_and_bfloat16(capsys):
    mask = jnp.array([-jnp.inf, 0.0])
    checks.same(lambda x: x, lambda x: x, mask)
    with pytest.raises(AssertionError, match="max error inf"):
        checks.same(lambda x: jnp.array([5.0, 0.0]), lambda x: x, mask, grad=False)
    checks.same(lambda x: x, lambda x: x, jnp.array([1.0, 2.0], jnp.bfloat16))
    checks.same(lambda k: (k, jnp.arange(3)), lambda k: (k, jnp.arange(3)), jax.random.key(0))
    with pytest.raises(AssertionError, match=r"1 of 3 entries differ, the first at \[2\]: got 9, expected 2"):
        checks.same(lambda x: x.at[2].set(9), lambda x: x, jnp.arange(3))
    assert capsys.readouterr().out.splitlines()[-1].endswith(": outputs")  # nothing to differentiate, and it says so


def test_same_is_relative_above_one_and_absolute_below():
    checks.same(lambda x: x * (1 + 5e-6), lambda x: x, jnp.array([1e4]), grad=False)
    checks.same(lambda x: x + 5e-6, lambda x: x, jnp.array([1e-3]), grad=False)
    with pytest.raises(AssertionError):
        checks.same(lambda x: x * (1 + 5e-5), lambda x: x, jnp.array([1e4]), grad=False)


# better


@pytest.fixture
def bootstrap(monkeypatch):
    """A stand-in for the bootstrap, so that the verdict is tested alone: the interval is the range of the values."""

    def interval(values, *, resamples=2000, confidence=0.95, seed=0):
        return np.mean(values), np.min(values), np.max(values)

    monkeypatch.setattr(checks, "bootstrap", interval)


@pytest.mark.parametrize(
    ("a", "b", "higher", "line", "seen"),
    [
        ([3, 4, 5], [1, 2, 2], True, "[seen] t (3 paired seeds, 95 % interval above 0)", True),
        ([1, 2, 2], [3, 4, 5], True, "[reversed] t (3 paired seeds, 95 % interval below 0)", False),
        ([1, 2, 2], [3, 4, 5], False, "[seen] t (3 paired seeds, 95 % interval above 0)", True),
        ([1, 2, 9], [3, 4, 5], True, "[not seen at this scale] t (3 paired seeds, 95 % interval contains 0)", False),
        ([1, 1, 1], [1, 1, 1], True, "[not seen at this scale] t (3 paired seeds, 95 % interval contains 0)", False),
    ],
)
def test_better_prints_a_verdict_and_never_raises_on_a_negative_one(bootstrap, capsys, a, b, higher, line, seen):
    verdict = checks.better("t", a, b, higher=higher)
    assert capsys.readouterr().out == line + "\n"
    assert verdict.seen is seen
    assert verdict.low <= verdict.mean <= verdict.high


@pytest.mark.parametrize(("a", "b"), [([1, 2], [3, 4]), ([1, 2, 3], [1, 2, 3, 4]), ([[1, 2, 3]], [[1, 2, 3]])])
def test_better_needs_three_paired_seeds(bootstrap, a, b):
    with pytest.raises(ValueError, match="expected two equally long sequences of at least 3 seeds"):
        checks.better("t", a, b)


def test_better_refuses_nan(bootstrap):
    with pytest.raises(ValueError, match="NaN"):
        checks.better("t", [1, 2, float("nan")], [1, 2, 3])


def test_better_with_the_kits_own_bootstrap(capsys):
    verdict = checks.better("t", [0.9, 0.91, 0.89, 0.92, 0.9], [0.8, 0.82, 0.79, 0.8, 0.81], confidence=0.9)
    assert verdict.seen and 0 < verdict.low < verdict.mean < verdict.high < 0.2
    assert capsys.readouterr().out == "[seen] t (5 paired seeds, 90 % interval above 0)\n"
    checks.better("t", [0.9, 0.91, 0.89], [0.8, 0.82, 0.79], over="pictures")
    assert "(3 paired pictures, " in capsys.readouterr().out


# exercise, summary, environment, scale


def raises(*_):
    raise NotImplementedError


def leaves(*_):
    sys.exit(1)


@pytest.mark.parametrize(
    "fn", [raises, leaves, None, lambda x: None, lambda x: x[None], lambda x: x + 1, lambda: 0, lambda x: "done"]
)
def test_exercise_never_raises(fn, capsys):
    checks.exercise("3", fn, lambda x: x, jnp.arange(3.0))
    assert capsys.readouterr().out == "exercise 3: not done yet\n"


def test_exercise_sees_the_solution_even_through_a_function_that_overwrites_its_input(capsys):
    def overwrites(x):
        x += 1
        return x

    checks.exercise("1", overwrites, lambda x: x + 1, np.arange(3.0))
    checks.exercise("2", overwrites, lambda x: x, np.arange(3.0))  # "ok" would mean that it overwrote ref's output
    assert capsys.readouterr().out == "exercise 1: ok\nexercise 2: not done yet\n"


def test_summary_counts_claims_sames_and_verdicts_but_no_failures_or_exercises(bootstrap, capsys):
    checks.claim("a", 1, 1, 0)
    checks.same(mine_square, lib_square, jnp.arange(3.0))
    checks.better("b", [1, 2, 3], [3, 2, 1])
    checks.exercise("c", mine_square, lib_square, jnp.arange(3.0))
    with pytest.raises(AssertionError):
        checks.claim("d", 1, 2, 0)
    checks.summary()
    assert capsys.readouterr().out.splitlines()[-1] == "kit: 3 checks passed"


def test_environment_and_scale(monkeypatch, capsys):
    checks.environment()
    out = capsys.readouterr().out
    assert f"jax {jax.__version__}" in out and "scale cpu" in out
    monkeypatch.delenv("KIT_SCALE")
    assert checks.scale() == "cpu"
    monkeypatch.setenv("KIT_SCALE", "huge")
    with pytest.raises(ValueError, match="got 'huge', expected one of cpu, gpu, pod"):
        checks.scale()
