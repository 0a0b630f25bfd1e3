"""The assertions of notebooks: `claim`, `same`, `exercise`; `better` and `family` for seeds; `verdicts`, `gate` and
`cost_to_catch_up` for stored studies; last, `summary`.

Every output of every notebook is compared character by character in the tests, so the text of an output must be
identical on every CPU. What was measured is not: a check therefore shows two things at once, a text without measured
numbers, which is compared, and a row of HTML with them, which readers see instead and which is not compared. Outside a
notebook the text is printed, measured numbers included. Statistics are loaded only by the checks that need them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from kitlib.tools.html_table import display_row

if TYPE_CHECKING:
    import pandas as pd

    from kitlib.studies.statistics import Verdict

SCALES = ("cpu", "gpu", "pod")

_lines: list[str] = []  # one per check that this process has passed; `summary` prints how many


def claim(tag: str, got, want: float, tol: float, *, why: str = "") -> None:
    """Asserts |got - want| <= tol; shows what was measured beside what was expected.

    Args:
      tag: what is claimed, with its source ("Table 3: ViT-B/16 parameters, millions").
      got: the measured number, a scalar of any kind.
      want: the published or hand-derived number.
      tol: the largest allowed absolute difference; at most a third of `want`, or 0.001 around 0 (else ValueError).
      why: the reason for a wider one.

    Raises AssertionError if the number is outside the tolerance, or is NaN.
    """
    value = float(got)
    if tol > (1 / 3 * abs(want) or 1e-3) and not why:
        raise ValueError(
            f"{tag}: a tolerance of ±{tol:g} around {want:g} says little: give at most a third of the expected number "
            f"(around 0: 0.001), or the reason as why=..."
        )
    if not abs(value - want) <= tol:  # written so that NaN fails
        raise AssertionError(f"{tag}: got {value:.6g}, expected {want:.6g} within ±{tol:g}.")
    expected = f"{want:,}" if isinstance(want, int) else f"{want:.6g}"  # counts with all digits
    measured = f"{value:,.0f}" if isinstance(want, int) and value == round(value) else f"{value:.4g}"
    if tol and abs(float(measured.replace(",", "")) - value) > tol / 2:  # more is asked than four digits show
        measured += f" ({value - want:+.0g} off)"
    within = f"±{tol:g}" if tol else "exact"
    reason = f"; {why}" if why else ""
    told = f"expected {expected} {within}{reason}"
    _passed("ok", tag, f": {expected} ({within}{reason})", f"measured {measured}", told)


def same(mine: Callable, lib: Callable, *inputs, tol: float = 1e-5, grad: bool = True, tag: str = "") -> None:
    """Asserts that two functions have equal outputs and equal gradients; shows the largest difference.

    Outputs are compared in every leaf: structure, shape, dtype, and values within tol * max(1, |lib|); integers and
    booleans exactly. Gradients are taken with respect to every floating-point array in the inputs, of a sum of all
    floating-point outputs under fixed non-uniform weights, so that no two terms cancel.

    Args:
      mine: the function built in the notebook.
      lib: the function of the library it must equal.
      *inputs: arguments for both, arrays or trees of arrays.
      tol: tolerance for outputs and gradients.
      grad: False where a gradient is not defined.
      tag: printed in place of the two function names, which are of no use for a lambda.

    Raises AssertionError with the leaf, the largest error and its index, and the mean error.
    """
    names = tag or f"{_name(mine)} == {_name(lib)}"
    got, want = mine(*inputs), lib(*inputs)
    largest = assert_close(names, "output", got, want, tol)
    leaves, tree = jax.tree.flatten(inputs)
    at = [i for i, leaf in enumerate(leaves) if _is_float(leaf)]
    grad = grad and bool(at) and any(_is_float(leaf) for leaf in jax.tree.leaves(want))
    if grad:
        mine_grad, lib_grad = (jax.grad(_weighted(fn, leaves, tree, at))([leaves[i] for i in at]) for fn in (mine, lib))
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(inputs)]
        for i, g, w in zip(at, mine_grad, lib_grad, strict=True):
            largest = max(largest, assert_close(names, f"gradient of inputs{paths[i]}", g, w, tol))
    what = "outputs and gradients" if grad else "outputs"
    told = f"{what}, at most {tol:g} · max(1, |expected|)"
    _passed("ok", names, f": {what}", f"largest difference {largest:.1g}", told)


def better(
    tag: str,
    a: Sequence[float],
    b: Sequence[float],
    *,
    higher: bool = True,
    margin: float | None = None,
    floor: float | Sequence[float] | None = None,
    over: str = "seeds",
) -> Verdict:
    """Shows whether `a` is better than `b`, in pairs (`studies.statistics`); a negative verdict is a result, no error.

    Args:
      tag: what is compared ("upcycled beats dense at equal compute").
      a, b: one number per seed (or image), the same seeds in the same order, at least 3.
      higher: whether a higher number is the better one; for a loss pass False.
      margin: a difference that would not matter, set without looking at it; None: that there is none is not asked.
      floor: chance, or a control's number per seed: arms that are not above it cannot be compared.
      over: the kind of pairs: "seeds", or "pictures".

    Raises ValueError if the sequences are not of equal length >= 3, or hold NaN or infinity.
    """
    return family({tag: (a, b)}, higher=higher, margin=margin, floor=floor, over=over)[0]


def family(pairs: Mapping[str, tuple], *, over: str = "seeds", **options) -> list[Verdict]:
    """`better` for several comparisons of the same runs, {tag: (a, b)}, corrected for their number; same options."""
    from kitlib.studies import statistics

    gains = []
    for tag, (a, b) in pairs.items():
        try:
            gains.append(statistics.compare(a, b, **options))
        except ValueError as error:
            raise ValueError(f"{tag}: {error}") from None
    verdicts = statistics.judge(gains)
    for tag, verdict in zip(pairs, verdicts, strict=True):
        gain = verdict.gain
        measured = f"gain {gain.mean:+.4g} [{gain.low:+.4g}, {gain.high:+.4g}]"
        _passed(
            verdict.word.partition(" (")[0], tag, f" ({gain.n} paired {over})", measured,
            f"{verdict.word.replace('seeds', over)}; {gain.n} paired {over}, detectable {gain.detectable:.2g}",
        )  # fmt: skip
    return verdicts


def verdicts(paper: str, table: str, *, where: str | None = None) -> pd.DataFrame:
    """Shows the verdicts on all questions that are asked of a stored table (`studies.claims.answers`).

    where: only those shown in this section ("09.7"); all questions of the table are one family in any case. Returns the
    rows, for `plots.verdicts`. The numbers are those of the stored table, the same on every machine, and compared.
    """
    from kitlib.studies import claims

    rows = claims.answers(paper, table)
    if where is not None:
        rows = rows[rows["where"] == where]
    shown = rows.assign(
        gain=[f"{row.gain:+.4f} [{row.low:+.4f}, {row.high:+.4f}]" for row in rows.itertuples()],
        detectable=[f"{x:.4f}" for x in rows["detectable"]],
    )
    columns = ["claim", "published", "gain", "detectable", "verdict"]
    print(f"{paper} {table}: {rows['seeds'].iloc[0]} paired seeds")
    print(shown[columns].rename(columns={"published": "paper", "gain": "gain [95 %]"}).to_string(index=False))
    _lines.extend(rows["claim"])
    return rows


def gate(task: str) -> pd.DataFrame:
    """Shows whether claims about a task can be judged (`studies.gates`): its three conditions, and what the search for
    recipes found. Returns the trials, for `plots.trials`. The numbers are those of stored tables, and compared."""
    from kitlib.studies import gates

    found, arms, trials = gates.read(task), gates.arms_of(task), gates.trial_scores(task)
    print(f"gate of {task}: {'open' if found.open else 'closed'}")
    for reason in found.reasons:
        print(f"- {reason}")
    print(f"dense: last fifth / first fifth of its training {found.plateau:.3f}, as much again {found.left:.3f} of all")
    for where, verdict in (("steps", found.at_steps), ("cost", found.at_cost)):
        gain = f"{verdict.gain.mean:+.3f} [{verdict.gain.low:+.3f}, {verdict.gain.high:+.3f}]"
        print(f"{arms.new_mixture} against {arms.new_dense}, equal {where}: {gain}, {verdict.word}")
    best = trials[trials["best"]].assign(of=lambda rows: rows["kind"].map(trials["kind"].value_counts()))
    print(best[["kind", "of", "trial", "loss"]].to_string(index=False, float_format="%.3f"))
    return trials


def cost_to_catch_up(table: pd.DataFrame) -> float:
    """The extra cost, as a share of the parent's, at which the mean curve of the mixture from scratch has caught up
    with the upcycled one; infinity, if it has not by 1. table: of an upcycling study (`studies.tables.read_table`).
    Also shows how much dense training upcycling is worth, and what the surgery changes."""
    from kitlib.metrics import t_interval
    from kitlib.studies import tables

    def at(arm: str, cost: float) -> pd.Series:
        return tables.values_at(table[table["arm"] == arm], "loss", "extra_cost", cost)[arm]

    level = at("dense", 1.0).set_axis(sorted(table["seed"].unique()))
    mean, low, high = (100 * x for x in t_interval(tables.reached(table, "loss", "extra_cost", level)["upcycled"]))
    print(f"dense after +100 % of the parent's cost = upcycled after +{mean:.1f} % [{low:.1f}, {high:.1f}]")
    print(f"surgery: from {at('parent', 1.0).mean():.3f} to {at('upcycled', 0.0).mean():.3f}")
    ahead = (cost for cost in np.linspace(0.1, 1.0, 91) if at("scratch", cost).mean() < at("upcycled", cost).mean())
    return float(next(ahead, np.inf))


def assert_close(names: str, what: str, got, want, tol: float) -> float:
    """The largest difference of all entries of two trees of arrays, in units of max(1, |want|); of integers, 0.

    `numpy.testing` and `chex` do not say how far apart trees are that are close enough. Raises AssertionError at the
    first leaf that differs: in structure, shape, dtype, or by more than `tol`, with the worst entry.
    """
    if (g := jax.tree.structure(got)) != (w := jax.tree.structure(want)):
        raise AssertionError(f"{names}: {what}: got the structure {g}, expected {w}.")
    largest = 0.0
    for (path, mine), lib in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        where = f"{names}: {what}{jax.tree_util.keystr(path)}"
        mine, lib = _numpy(mine), _numpy(lib)
        if (mine.shape, mine.dtype) != (lib.shape, lib.dtype):
            raise AssertionError(f"{where}: got {mine.dtype}{list(mine.shape)}, expected {lib.dtype}{list(lib.shape)}.")
        largest = max(largest, _assert_leaf_close(where, mine, lib, tol))
    return largest


def exercise(tag: str, fn: Callable, ref: Callable, *inputs, tol: float = 1e-4) -> None:
    """Says whether the reader's `fn` equals `ref` on the inputs, or what is wrong. Never raises, whatever `fn` does.

    fn: what the reader completes; as it stands in the notebook, it raises NotImplementedError. ref: the solution, or
    the library's function. inputs, tol: as in `same`; gradients are not compared.
    """
    want = ref(*inputs)
    copies = jax.tree.map(lambda x: x.copy() if isinstance(x, np.ndarray) else x, inputs)  # fn may write into them
    try:
        assert_close(tag, "output", fn(*copies), want, tol)
    except NotImplementedError:
        print(f"exercise {tag}: not done yet")
    except AssertionError as error:
        print(f"exercise {tag}: not right yet: {str(error).removeprefix(f'{tag}: ')}")
    except (Exception, SystemExit) as error:
        print(f"exercise {tag}: stopped by {type(error).__name__}: {error}")
    else:
        print(f"exercise {tag}: ok")


def summary() -> None:
    """Prints the last line of a notebook. It is compared like every output, so that a deleted check is noticed."""
    print(f"kit: {len(_lines)} checks passed")


def environment() -> None:
    """Prints versions, device and scale. They differ between machines: tag the cell nbval-ignore-output."""
    import flax

    from kitlib import __version__

    python = ".".join(map(str, sys.version_info[:3]))
    print(f"python {python}, jax {jax.__version__}, flax {flax.__version__}, kitlib {__version__}")
    print(f"device {jax.devices()[0].device_kind} x {jax.device_count()}, scale {scale()}")


def scale() -> str:
    """The scale at which notebooks run: the environment variable KIT_SCALE, one of cpu (default), gpu, pod."""
    value = os.environ.get("KIT_SCALE", "cpu")
    if value not in SCALES:
        raise ValueError(
            f"KIT_SCALE: got {value!r}, expected one of {', '.join(SCALES)}; unset it for the default, cpu."
        )
    return value


def _passed(mark: str, tag: str, stable: str, measured: str, expected: str) -> None:
    """Shows a check: the compared text is mark, tag and `stable`, a reader sees mark, tag, `measured`, `expected`."""
    line = f"[{mark}] {tag}{stable}"
    _lines.append(line)
    display_row(line, (mark, tag, measured, expected))


def _name(fn: Callable) -> str:
    """`module.function`; only `function` if a notebook defines it."""
    while hasattr(fn, "func") or hasattr(fn, "__wrapped__"):  # functools.partial, jax.jit
        fn = fn.func if hasattr(fn, "func") else fn.__wrapped__
    name = getattr(fn, "__qualname__", type(fn).__name__).replace("<locals>.", "")
    module = (getattr(fn, "__module__", None) or "__main__").rpartition(".")[2]
    return name if module == "__main__" else f"{module}.{name}"


def _is_float(leaf) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def _weighted(fn: Callable, leaves: list, tree, at: list[int]) -> Callable:
    """The scalar whose gradients are compared, as a function of the floating-point input leaves alone."""

    def scalar(floats: list) -> jax.Array:
        filled = list(leaves)
        for i, value in zip(at, floats, strict=True):
            filled[i] = value
        outputs = [leaf for leaf in jax.tree.leaves(fn(*tree.unflatten(filled))) if _is_float(leaf)]
        total = jnp.zeros((), jnp.float32)
        for i, output in enumerate(outputs):
            weights = jnp.cos(1.7 * jnp.arange(output.size) + i).reshape(output.shape)
            total += jnp.sum(weights * output.astype(jnp.float32))
        return total

    return scalar


def _assert_leaf_close(where: str, mine: np.ndarray, lib: np.ndarray, tol: float) -> float:
    if not jnp.issubdtype(lib.dtype, jnp.inexact):  # jnp's, which knows bfloat16
        if not np.array_equal(mine, lib):
            at = [int(i) for i in np.argwhere(mine != lib)[0]]
            raise AssertionError(
                f"{where}: {np.sum(mine != lib)} of {lib.size} entries differ, the first at {at}: "
                f"got {mine[tuple(at)]}, expected {lib[tuple(at)]}."
            )
        return 0.0
    wide = np.complex128 if jnp.issubdtype(lib.dtype, jnp.complexfloating) else np.float64
    mine, lib = mine.astype(wide), lib.astype(wide)
    with np.errstate(invalid="ignore"):
        error = np.where(mine == lib, 0.0, np.abs(mine - lib))  # equal infinities are equal
    scale = np.maximum(1.0, np.where(np.isfinite(lib), np.abs(lib), 1.0))
    if not (error <= tol * scale).all():  # NaN, on either side, fails
        at = [int(i) for i in np.unravel_index(np.argmax(np.nan_to_num(error, nan=np.inf)), lib.shape)]
        if not at:  # a single number
            raise AssertionError(f"{where}: got {mine[()]:.6g}, expected {lib[()]:.6g}, tolerance {tol:g}.")
        raise AssertionError(
            f"{where}: max error {error[tuple(at)]:.3g} at {at} (got {mine[tuple(at)]:.6g}, expected "
            f"{lib[tuple(at)]:.6g}), mean error {np.mean(error):.3g}, tolerance {tol:g} · max(1, |expected|)."
        )
    return float((error / scale).max(initial=0.0))


def _numpy(leaf) -> np.ndarray:
    is_key = jnp.issubdtype(getattr(leaf, "dtype", int), jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)
