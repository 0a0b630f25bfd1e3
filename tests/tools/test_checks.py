"""The checks: what they print, and that each of them can fail."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from kitlib.studies import gates
from kitlib.tools import checks, html_table


@pytest.fixture(autouse=True)
def fresh_count(monkeypatch):
    monkeypatch.setattr(checks, "_lines", [])


def test_a_lesson_without_statistics_loads_none():
    code = (
        "from kitlib.tools import checks; import sys; checks.same(abs, abs, 1, grad=False); checks.claim('a', 1, 1, 0)"
    )
    loaded = "print([name for name in sys.modules if name.startswith(('kitlib.studies', 'pandas', 'scipy'))])"
    done = subprocess.run([sys.executable, "-c", f"{code}; {loaded}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("got", "want", "tol", "line"),
    [
        (jnp.float32(86.5678), 86.57, 0.01, "86.57 (±0.01), measured 86.57"),
        (0.3312, 0.35, 0.1, "0.35 (±0.1), measured 0.3312"),
        (2.302585, 2.302584, 1e-5, "2.30258 (±1e-05), measured 2.303 (+1e-06 off)"),  # 2.303 would be 0.0004 away
        (86_567_656, 86_567_656, 0, "86,567,656 (exact), measured 86,567,656"),
        (86.59, 86.57, 0.01, None), (float("nan"), 86.57, 0.01, None), (np.float32(np.inf), 86.57, 0.01, None),
        (86_567_657, 86_567_656, 0, None),
    ],
)  # fmt: skip
def test_claim_shows_what_was_measured_and_what_was_expected(got, want, tol, line, capsys):
    if line is None:
        with pytest.raises(AssertionError, match=r"so: got .*, expected .* within ±"):
            checks.claim("so", got, want, tol)
    else:
        checks.claim("so", got, want, tol)
    assert capsys.readouterr().out == (f"[ok] so: {line}\n" if line else "")


@pytest.mark.parametrize(("want", "tol"), [(0.3, 0.11), (-0.3, 0.11), (0.0, 0.002), (3, 2)])
def test_claim_refuses_a_tolerance_that_says_little_unless_told_why(want, tol, capsys):
    with pytest.raises(ValueError, match="says little"):
        checks.claim("effect", want, want, tol)
    checks.claim("effect", want, want, tol, why="it is about the sign")
    assert "; it is about the sign)" in capsys.readouterr().out


def test_in_a_notebook_the_text_is_stable_and_the_row_has_what_was_measured(monkeypatch):
    shown = []
    monkeypatch.setattr(html_table, "_in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: shown.append(bundle))
    checks.claim("a <share>", 0.3312, 0.35, 0.1)
    checks.same(square, jnp.square, jnp.arange(3.0), tag="squares")
    checks.better("two beat one", [1, 2, 3], [0, 0.9, 2.2])
    texts = "[ok] a <share>: 0.35 (±0.1)|[ok] squares: outputs and gradients|[seen] two beat one (3 paired seeds)"
    assert [bundle["text/plain"] for bundle in shown] == texts.split("|")
    pages = [bundle["text/html"] for bundle in shown]
    assert "<td" in pages[0] and "measured 0.3312" in pages[0] and "a &lt;share&gt;" in pages[0]
    assert "largest difference 0" in pages[1]
    # Gains 1, 1.1, 0.8: mean 0.96667, spread 0.15275; 4.30265 * 0.15275 / sqrt(3) = 0.37945; 3.264 * 0.15275 = 0.5.
    assert "gain +0.9667 [+0.5872, +1.346]" in pages[2] and "detectable 0.5" in pages[2]


def square(x):
    return x * x


def same(x):
    return x


TREE = {"a": jnp.ones(3), "n": jnp.arange(3)}
SCORES = jnp.array([[0.1, 0.9, -0.4]])


@pytest.mark.parametrize(
    ("wrong", "right", "inputs", "message"),
    [
        (lambda x: x.at[1, 2].add(0.5), same, [jnp.zeros((2, 3))], r"output: max error 0.5 at \[1, 2\] .*error 0.0833"),
        (lambda x: x[None], same, [jnp.arange(3.0)], r"got float32\[1, 3\], expected float32\[3\]"),
        (lambda x: x.astype(jnp.bfloat16), same, [jnp.arange(3.0)], r"got bfloat16\[3\], expected float32\[3\]"),
        (lambda x: (x,), same, [jnp.arange(3.0)], "got the structure"),
        (lambda x: x * jnp.nan, same, [jnp.arange(3.0)], "max error nan"),
        (lambda x: x.at[0].set(jnp.inf), same, [jnp.arange(3.0)], "max error inf"),
        (lambda x: jnp.array([5.0, 0.0]), same, [jnp.array([-jnp.inf, 0.0])], "max error inf"),
        (lambda x: x.at[2].set(9), same, [jnp.arange(3)], r"1 of 3 entries .* at \[2\]: got 9, expected 2"),
        (lambda x: x * (1 + 5e-5), same, [jnp.array([1e4])], "max error 0.499"),
        # a gradient of any input; and every softmax sums to 1: with equal weights all its gradients would be 0
        (lambda t, y: t["a"] * jax.lax.stop_gradient(y), lambda t, y: t["a"] * y, [TREE, jnp.ones(3)],
         r"gradient of inputs\[1\]: max error"),
        (lambda x: jax.lax.stop_gradient(jax.nn.softmax(x)), jax.nn.softmax, [SCORES], "gradient"),
    ],
)  # fmt: skip
def test_same_finds_a_difference_and_says_where(wrong, right, inputs, message):
    with pytest.raises(AssertionError, match=message):
        checks.same(wrong, right, *inputs)
    if "gradient" in message:
        checks.same(wrong, right, *inputs, grad=False)


def test_same_takes_infinities_integers_keys_and_bfloat16(capsys):
    """It is relative above 1, absolute below."""
    for change, x in (
        (same, jnp.array([-jnp.inf, 0.0])), (same, jnp.array([1.0, 2.0], jnp.bfloat16)),
        (lambda x: x * (1 + 5e-6), jnp.array([1e4])), (lambda x: x + 5e-6, jnp.array([1e-3])),
    ):  # fmt: skip
        checks.same(change, same, x)
    checks.same(lambda k: (k, jnp.arange(3)), lambda k: (k, jnp.arange(3)), jax.random.key(0))
    assert capsys.readouterr().out.endswith(": outputs, largest difference 0\n")  # nothing to differentiate


def test_the_largest_difference_by_hand():
    # |2.5 - 2| / 2 = 0.25, |0.3 - 0.2| / 1 = 0.1: the largest is 0.25; an integer leaf counts as 0.
    got = {"a": np.array([2.5, 0.3]), "n": np.array([3])}
    want = {"a": np.array([2.0, 0.2]), "n": np.array([3])}
    assert checks.assert_close("x == y", "output", got, want, tol=0.3) == pytest.approx(0.25)
    with pytest.raises(AssertionError, match=r"x == y: output\['a'\]: max error 0.5 at \[0\] \(got 2.5, expected 2\)"):
        checks.assert_close("x == y", "output", got, want, tol=0.2)
    with pytest.raises(AssertionError, match=r"^x: output: got 1, expected 2, tolerance 1e-05\.$"):
        checks.assert_close("x", "output", 1.0, 2.0, tol=1e-5)
    for leaf in (got["n"], jnp.zeros((0, 2))):
        assert checks.assert_close("x", "output", leaf, leaf, tol=0.0) == 0.0


@pytest.mark.parametrize(
    ("a", "b", "options", "line", "seen"),
    [
        ([3, 4, 5], [1, 2, 3.1], {}, "[seen] t (3 paired seeds)", True),
        ([1, 2, 3.1], [3, 4, 5], {}, "[reversed] t (3 paired seeds)", False),
        ([1, 2, 3.1], [3, 4, 5], {"higher": False}, "[seen] t (3 paired seeds)", True),
        ([1, 2, 9], [3, 4, 5], {}, "[undecided] t (3 paired seeds)", False),
        ([1, 2, 3], [1.01, 2, 2.99], {"margin": 0.5}, "[no difference above 0.5] t (3 paired seeds)", False),
        ([3, 4, 5], [1, 2, 3.1], {"over": "pictures"}, "[seen] t (3 paired pictures)", True),
    ],
)
def test_better_shows_a_verdict_and_never_raises_on_a_negative_one(capsys, a, b, options, line, seen):
    verdict = checks.better("t", a, b, **options)
    assert capsys.readouterr().out.startswith(f"{line}, gain ")
    assert verdict.seen is seen and verdict.gain.low <= verdict.gain.mean <= verdict.gain.high


def test_a_family_is_corrected_for_its_size(capsys):
    pair = [1.0, 2.0, 3.2], [0.2, 1.1, 2.5]
    alone = checks.better("t", *pair)
    both = checks.family({"one": pair, "two": pair})
    assert [v.p for v in both] == pytest.approx([2 * alone.p] * 2)
    assert capsys.readouterr().out.count("paired seeds") == 3
    with pytest.raises(ValueError, match="t: got "):
        checks.better("t", [1, 2], [3, 4])


def test_verdicts_print_the_stored_questions(capsys):
    rows = checks.verdicts("palix", "frames")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "palix frames: 5 paired seeds" and len(lines) == 2 + len(rows) == 2 + len(checks._lines)
    assert rows["verdict"].iloc[0] == "seen" and "4 frames beat 2" in lines[2] and lines[2].endswith("seen")
    some, every = (checks.verdicts("ensembles", "methods", where=where) for where in ("09.7", None))
    assert 0 < len(some) < len(every)
    assert list(some["p"]) == list(every.set_index("claim").loc[some["claim"], "p"])  # one family in any case


@pytest.mark.parametrize(("task", "word"), [("recall", "open"), ("real", "closed")])
def test_a_gate_shows_its_conditions_and_the_best_trials(task, word, capsys):
    trials = checks.gate(task)
    lines = capsys.readouterr().out.splitlines()
    found = gates.read(task)
    assert lines[: 1 + len(found.reasons)] == [f"gate of {task}: {word}", *(f"- {why}" for why in found.reasons)]
    dense, steps, cost = lines[1 + len(found.reasons) :][:3]
    assert f"{found.plateau:.3f}" in dense and f"{found.left:.3f}" in dense
    for line, verdict in ((steps, found.at_steps), (cost, found.at_cost)):
        assert f"{verdict.gain.mean:+.3f}" in line and line.endswith(f", {verdict.word}")
    for kind in trials["kind"].unique():
        (row,) = (line for line in lines if line.split()[: len(kind.split())] == kind.split() and " peak " in line)
        assert gates.best(task, kind) in row and f" {(trials['kind'] == kind).sum()} " in row


def test_cost_to_catch_up_by_hand(capsys):
    """Dense falls from 1 to 0.8 for one parent. Upcycled starts at 1.2 and falls by 1 per parent: it is there at 0.4.
    From scratch 3 - 3 x: it is below 1.2 - x from 0.9 on (3 - 2.7 = 0.3 = 1.2 - 0.9)."""
    ends = {"parent": (5.0, 1.0), "dense": (1.0, 0.8), "upcycled": (1.2, 0.2), "scratch": (3.0, 0.0)}
    points = [(arm, end, seed, cost) for arm, end in ends.items() for seed in (3, 4) for cost in (0.0, 0.5, 1.0)]
    rows = [(arm, seed, cost, end[0] + cost * (end[1] - end[0])) for arm, end, seed, cost in points]
    table = pd.DataFrame(rows, columns=["arm", "seed", "extra_cost", "loss"])
    assert checks.cost_to_catch_up(table) == pytest.approx(0.91, abs=0.011)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "dense after +100 % of the parent's cost = upcycled after +40.0 % [40.0, 40.0]"
    assert lines[1] == "surgery: from 1.000 to 1.200"
    later = table.assign(loss=table["loss"] + 2.0 * (table["arm"] == "scratch"))
    assert checks.cost_to_catch_up(later) == np.inf


def placeholder(*_):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (placeholder, "not done yet"), (lambda x: sys.exit(1), "stopped by SystemExit: 1"),
        (None, "stopped by TypeError: 'NoneType' object is not callable"),
        (lambda x: 1 / 0, "stopped by ZeroDivisionError: division by zero"),
        (lambda x: None, "not right yet: output: got the structure"),
        (lambda x: x[None], r"not right yet: output: got float32[1, 3], expected float32[3]"),
        (lambda x: x.at[2].add(1.0), "not right yet: output: max error 1 at [2] (got 3, expected 2)"),
    ],
)  # fmt: skip
def test_exercise_tells_not_done_from_wrong_from_stopped_and_never_raises(fn, says, capsys):
    checks.exercise("3", fn, same, jnp.arange(3.0))
    assert capsys.readouterr().out.startswith(f"exercise 3: {says}")


def test_exercise_sees_the_solution_even_through_a_function_that_overwrites_its_input(capsys):
    def overwrites(x):
        x += 1
        return x

    checks.exercise("1", overwrites, lambda x: x + 1, np.arange(3.0))
    checks.exercise("2", overwrites, same, np.arange(3.0))  # "ok" would mean that it overwrote ref's output
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "exercise 1: ok"
    assert lines[1].startswith("exercise 2: not right yet: output: max error 1 at [0] (got 1, expected 0)")


def test_summary_counts_claims_sames_and_verdicts_but_no_failures_or_exercises(capsys):
    checks.claim("a", 1, 1, 0)
    checks.same(square, functools.partial(jnp.square), jnp.arange(3.0))
    checks.better("b", [1, 2, 3], [3, 2, 1])
    checks.exercise("c", square, jnp.square, jnp.arange(3.0))
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
