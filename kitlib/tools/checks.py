"""The assertions of notebooks: `claim`, `same`, `better`, `exercise`, and `summary` as the last line.

Every output of every notebook is compared character by character in the tests (strict nbval), so the text printed here
must be identical on every CPU, and tolerances are applied in code only. `claim` therefore prints the number that was
*expected*, `same` prints names, `better` prints a verdict; measured numbers are asserted and not printed.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from kitlib.metrics import bootstrap
from kitlib.studies.tables import final, values_at

SCALES = ("cpu", "gpu", "pod")
HIGHER = ("accuracy", "shift_accuracy", "ood_", "shots_", "calibration_auc", "disagreement", "kl")  # more is better

_lines: list[str] = []  # one per check that this process has passed; `summary` prints how many


def claim(tag: str, got, want: float, tol: float) -> None:
    """Asserts |got - want| <= tol and prints the expected value.

    Args:
      tag: what is claimed, with its source ("Table 3: ViT-B/16 parameters, millions").
      got: the measured number, a scalar of any kind.
      want: the published or hand-derived number.
      tol: the largest allowed absolute difference.

    Raises:
      AssertionError: if the number is outside the tolerance, or is NaN.
    """
    value = float(got)
    if not abs(value - want) <= tol:  # written so that NaN fails
        raise AssertionError(f"{tag}: got {value:.6g}, expected {want:.6g} within ±{tol:g}.")
    shown = f"{want:,}" if isinstance(want, int) else f"{want:.6g}"  # counts with all digits
    _passed(f"[ok] {tag}: {shown} ({f'±{tol:g}' if tol else 'exact'})")


def same(mine: Callable, lib: Callable, *inputs, tol: float = 1e-5, grad: bool = True, tag: str = "") -> None:
    """Asserts that two functions have equal outputs and equal gradients.

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

    Raises:
      AssertionError: with the leaf, the largest error and its index, and the mean error.
    """
    names = tag or f"{_name(mine)} == {_name(lib)}"
    got, want = mine(*inputs), lib(*inputs)
    _assert_close(names, "output", got, want, tol)
    leaves, tree = jax.tree.flatten(inputs)
    at = [i for i, leaf in enumerate(leaves) if _is_float(leaf)]
    grad = grad and bool(at) and any(_is_float(leaf) for leaf in jax.tree.leaves(want))
    if grad:
        mine_grad, lib_grad = (jax.grad(_weighted(fn, leaves, tree, at))([leaves[i] for i in at]) for fn in (mine, lib))
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(inputs)]
        for i, g, w in zip(at, mine_grad, lib_grad, strict=True):
            _assert_close(names, f"gradient of inputs{paths[i]}", g, w, tol)
    _passed(f"[ok] {names}: outputs" + (" and gradients" if grad else ""))


@dataclass(frozen=True)
class Verdict:
    """How much better `a` is than `b`: mean gain over pairs, its interval, whether the interval is above 0."""

    mean: float
    low: float
    high: float
    seen: bool


def better(
    tag: str,
    a: Sequence[float],
    b: Sequence[float],
    *,
    higher: bool = True,
    confidence: float = 0.95,
    over: str = "seeds",
) -> Verdict:
    """Prints whether `a` is better than `b`, in pairs; a negative verdict is a result, not an error.

    Only the verdict is printed: seen (the bootstrap interval of the mean gain is above 0), reversed (it is below 0), or
    not seen at this scale (it contains 0).

    Args:
      tag: what is compared ("upcycled beats dense at equal compute").
      a, b: one number per seed (or image), the same seeds in the same order, at least 3.
      higher: whether a higher number is the better one; for a loss pass False.
      confidence: of the bootstrap interval.
      over: the kind of pairs, for the printed line: "seeds", or "pictures".

    Raises:
      ValueError: if the sequences are not of equal length >= 3, or hold NaN or infinity.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 3:
        raise ValueError(
            f"{tag}: got shapes {a.shape} and {b.shape}, expected two equally long sequences of at least 3 {over}."
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"{tag}: got NaN or infinity, expected finite numbers; look at the runs that produced them.")
    mean, low, high = (float(x) for x in bootstrap(a - b if higher else b - a, confidence=confidence))
    if low > 0:
        word, where = "seen", "interval above 0"
    elif high < 0:
        word, where = "reversed", "interval below 0"
    else:
        word, where = "not seen at this scale", "interval contains 0"
    _passed(f"[{word}] {tag} ({len(a)} paired {over}, {confidence * 100:g} % {where})")
    return Verdict(mean, low, high, seen=low > 0)


def verdict(
    claim: str, paper: str, table: pd.DataFrame, arm: str, baseline: str, column="", position=0.0, *, metric="loss"
) -> dict:
    """How much of the test loss `arm` saves against `baseline`, over pairs of the same seed; printed by `better`.

    The arms are compared where `column` is `position` (see `tables.values_at`); without a column, at the end of each
    arm. paper: the paper's own answer, in a word. metric: another column of the table; for those in HIGHER more is
    better, and `saved` is the gain. Returns a row for `plots.verdicts`: claim, paper, saved, low, high (95 % interval),
    verdict.
    """
    there = values_at(table, metric, column, position) if column else final(table, metric)
    higher = metric.startswith(HIGHER)
    found = better(claim, there[arm], there[baseline], higher=higher)
    word = "seen" if found.seen else "reversed" if found.high < 0 else "not seen"
    return {"claim": claim, "paper": paper, "saved": found.mean, "low": found.low, "high": found.high, "verdict": word}


def exercise(tag: str, fn: Callable, ref: Callable, *inputs, tol: float = 1e-4) -> None:
    """Prints whether the reader's `fn` equals `ref` on the inputs. Never raises, whatever `fn` does.

    Args:
      tag: the exercise's number or name.
      fn: the placeholder that the reader completes.
      ref: the solution, or the library's function.
      *inputs: arguments for both.
      tol: as in `same`; gradients are not compared.
    """
    want = ref(*inputs)
    copies = jax.tree.map(lambda x: x.copy() if isinstance(x, np.ndarray) else x, inputs)  # fn may write into them
    try:
        _assert_close(tag, "output", fn(*copies), want, tol)
    except (Exception, SystemExit):
        print(f"exercise {tag}: not done yet")
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


def _passed(line: str) -> None:
    _lines.append(line)
    print(line)


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


def _assert_close(names: str, what: str, got, want, tol: float) -> None:
    """Raises AssertionError at the first leaf that differs."""
    if (g := jax.tree.structure(got)) != (w := jax.tree.structure(want)):
        raise AssertionError(f"{names}: {what}: got the structure {g}, expected {w}.")
    for (path, mine), lib in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        where = f"{names}: {what}{jax.tree_util.keystr(path)}"
        mine, lib = _numpy(mine), _numpy(lib)
        if (mine.shape, mine.dtype) != (lib.shape, lib.dtype):
            raise AssertionError(f"{where}: got {mine.dtype}{list(mine.shape)}, expected {lib.dtype}{list(lib.shape)}.")
        _assert_leaf_close(where, mine, lib, tol)


def _assert_leaf_close(where: str, mine: np.ndarray, lib: np.ndarray, tol: float) -> None:
    if not jnp.issubdtype(lib.dtype, jnp.inexact):  # jnp's, which knows bfloat16
        if not np.array_equal(mine, lib):
            at = [int(i) for i in np.argwhere(mine != lib)[0]]
            raise AssertionError(
                f"{where}: {np.sum(mine != lib)} of {lib.size} entries differ, the first at {at}: "
                f"got {mine[tuple(at)]}, expected {lib[tuple(at)]}."
            )
        return
    wide = np.complex128 if jnp.issubdtype(lib.dtype, jnp.complexfloating) else np.float64
    mine, lib = mine.astype(wide), lib.astype(wide)
    with np.errstate(invalid="ignore"):
        error = np.where(mine == lib, 0.0, np.abs(mine - lib))  # equal infinities are equal
    allowed = tol * np.maximum(1.0, np.where(np.isfinite(lib), np.abs(lib), 1.0))
    if not (error <= allowed).all():  # NaN, on either side, fails
        at = [int(i) for i in np.unravel_index(np.argmax(np.nan_to_num(error, nan=np.inf)), lib.shape)]
        raise AssertionError(
            f"{where}: max error {error[tuple(at)]:.3g} at {at} (got {mine[tuple(at)]:.6g}, expected "
            f"{lib[tuple(at)]:.6g}), mean error {np.mean(error):.3g}, tolerance {tol:g} · max(1, |expected|)."
        )


def _numpy(leaf) -> np.ndarray:
    is_key = jnp.issubdtype(getattr(leaf, "dtype", int), jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)
