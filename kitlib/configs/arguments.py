"""Arguments that are refused: unknown names, flags that are no bool, counts that are not whole, rates out of range.

    one_of("router", name, ROUTERS)             # names the nearest known one, and all of them
    flag("scan", scan)                          # True or False; 'no' would count as True
    whole("num_selected", k, 1, num_experts)    # a whole number from 1 to E; True would count as 1
    number("peak", peak, above=0.0)             # finite and above 0; NaN would pass most comparisons
    number("dropout", rate, 0.0, below=1.0)     # 0 or more, below 1
    indices("labels", labels, classes, (None,)) # integers[n] from 0 to V - 1; a classifier has no row -1
    finite("scores", scores)                    # an array of finite numbers in float64, of any shape
    instance("config", config, ViTConfig)       # not its name, not the configuration of another model

Each returns the value, so that it can stand where the value is used, and raises ValueError in one sentence: the name,
what was got, what was expected. Values that exist only when a program is traced by JAX cannot be checked.
"""

import difflib
import numbers
from collections.abc import Iterable

import numpy as np

LARGEST = float(np.finfo(np.float32).max)  # 1e308 becomes infinite as soon as a model computes with it


def one_of(what: str, got: str, known: Iterable[str], error: type[BaseException] = ValueError) -> None:
    """Raises `error` unless `got` is one of the known names. what: the kind of name, for the message.

    Commands pass SystemExit, which prints the message without a traceback.
    """
    known = list(known)
    if got in known:
        return
    near = difflib.get_close_matches(str(got), map(str, known), n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise error(f"Unknown {what} {got!r}{hint} Known: {', '.join(map(str, known)) or 'none'}.")


def flag(name: str, value) -> bool:
    """True or False, also as numpy's bool."""
    if value is not True and value is not False and type(value).__name__ not in ("bool", "bool_"):
        raise ValueError(f"{name} is {_shown(value)}; expected True or False.")
    return bool(value)


def whole(name: str, value, least: int | None = None, most: int | None = None) -> int:
    """A whole number from `least` to `most`, both included; also one of numpy."""
    right = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return int(_bounded(name, value, right, "a whole number", least, most))


def number(name: str, value, least=None, most=None, *, above=None, below=None) -> float:
    """A number that is finite in float32, within these bounds: `least` and `most` are included, `above` and `below` are
    not."""
    right = isinstance(value, numbers.Real) and not isinstance(value, bool)
    right = right and value >= -LARGEST and value <= LARGEST  # false for NaN
    return float(_bounded(name, value, right, "a finite number", least, most, above, below))


def _bounded(name: str, value, right: bool, kind: str, least, most, above=None, below=None):
    """The value. The error has the bounds in words: " from 1 to 8", ", 1 or more", ", above 0 and below 1"."""
    right = right and (least is None or value >= least) and (most is None or value <= most)
    if right and (above is None or value > above) and (below is None or value < below):
        return value
    bounds = {"{} or more": least, "above {}": above, "{} or less": most, "below {}": below}
    words = " and ".join(text.format(bound) for text, bound in bounds.items() if bound is not None)
    span = f" from {least} to {most}" if None not in (least, most) else f", {words}" if words else ""
    raise ValueError(f"{name} is {_shown(value)}; expected {kind}{span}.")


def indices(name: str, values, below: int | None, shape: tuple[int | None, ...]) -> np.ndarray:
    """An array of integers from 0 on, all under `below`; not empty. shape: None for a length that may be any.

    Raises TypeError for numbers of another type.
    """
    found = np.asarray(values)
    fits = found.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, found.shape, strict=True))
    if not fits or not found.size:
        wanted = ", ".join("n" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} have the shape {list(found.shape)}; expected [{wanted}], not empty.")
    if not np.issubdtype(found.dtype, np.integer):
        raise TypeError(f"{name} are {found.dtype}; expected integers.")
    if found.min() < 0 or (below is not None and found.max() >= below):
        most = "" if below is None else f" to {below - 1}"
        raise ValueError(f"{name} go from {found.min()} to {found.max()}; expected whole numbers from 0{most}.")
    return found


def finite(name: str, values) -> np.ndarray:
    """An array of finite real numbers, in float64."""
    found = np.asarray(values)
    if found.dtype.kind in "OUSMmc":  # objects, texts, dates, complex numbers
        raise ValueError(f"{name} are {_shown(values)}; expected numbers.")
    found = found.astype(np.float64)
    if bad := np.sum(~np.isfinite(found)):
        raise ValueError(f"{name} hold {bad} NaN or infinite values of {found.size}; expected finite numbers.")
    return found


def instance(name: str, value, *types: type):
    """An object of one of these types."""
    if not isinstance(value, types):
        wanted = " or ".join(t.__name__ for t in types)
        raise TypeError(f"{name} is {_shown(value)}; expected {wanted}.")
    return value


def _shown(value) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
