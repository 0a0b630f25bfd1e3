"""Approximate equality of two trees of arrays, for the checks of notebooks: messages say where they differ.

`numpy.testing` and `chex` compare leaf by leaf as well; this one says how far apart the trees are when they are close
enough, and gives the worst entry with both of its values when they are not.
"""

import jax
import jax.numpy as jnp
import numpy as np


def assert_close(names: str, what: str, got, want, tol: float) -> float:
    """The largest difference of all entries, in units of max(1, |want|); of integers and booleans, 0.

    Raises AssertionError at the first leaf that differs: in structure, shape, dtype, or by more than `tol`.
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
