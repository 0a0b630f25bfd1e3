"""A generator of malformed files, seeded, for every loader."""

import numpy as np


def malformed(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut, one byte changed, a run overwritten, a run doubled, a run left out, or two places exchanged."""
    n, kind = len(content), rng.integers(6)
    a, b = sorted(rng.integers(0, n, 2).tolist())
    data = bytearray(content)
    if kind == 0:
        return content[:a]
    if kind == 1:
        data[a] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        data[a : a + 16] = rng.bytes(16)
    elif kind == 3:
        data[a:a] = data[a:b]
    elif kind == 4:
        del data[a:b]
    else:
        data[a], data[b] = data[b], data[a]
    return bytes(data)
