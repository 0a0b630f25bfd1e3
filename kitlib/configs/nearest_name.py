"""One error for every unknown name: what was given, the nearest known name, and all known names."""

import difflib
from collections.abc import Iterable


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
