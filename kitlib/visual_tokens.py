"""Pictures as whole numbers: every patch becomes the place of its nearest entry in a learned codebook.

    patches = cut(images, 8).reshape(-1, 8, 8, 3)          # of uint8[n, 64, 64, 3]
    codebook = learn(patches, 128, data.keyed_rng(0))      # uint8[128, 8, 8, 3]
    codes = encode(images, codebook)                       # int64[n, 8, 8] in 0 ... 127
    decode(codes, codebook)                                # uint8[n, 64, 64, 3]: what the codes tell of the pictures
    hidden = mask((8, 8), 0.25, rng)                       # bool[8, 8], 16 of the 64 cells, in rectangles
    hide(images[0], hidden)                                # the picture with these cells grey

One objective of PaLI-X (arXiv 2305.18565) is to write the tokens of what is hidden in a picture. Its tokens come from
ViT-VQGAN, a network that makes 256 of 256 x 256 pixels. Here they come from k-means on pixels, so that each entry can
be looked at: it tells colours and coarse edges, nothing finer.

Centres are rounded to whole numbers in every step, so all sums and distances are whole numbers below 2^53, exact in
float64 in whatever order they are added: the same patches and generator give the same codebook on every machine.
"""

import numpy as np


def cut(images, patch: int) -> np.ndarray:
    """uint8[n, H, W, 3] -> uint8[n, H / patch, W / patch, patch, patch, 3].

    Raises ValueError for another shape or type, and for sides that `patch` does not divide.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"The pictures are {images.dtype}{list(images.shape)}; expected uint8[n, H, W, 3].")
    n, height, width, _ = images.shape
    if patch < 1 or height % patch or width % patch:
        raise ValueError(f"Patches of {patch} pixels do not fill pictures of {height} x {width}.")
    return images.reshape(n, height // patch, patch, width // patch, patch, 3).swapaxes(2, 3)


def learn(patches, size: int, rng: np.random.Generator, *, steps: int = 50) -> np.ndarray:
    """A codebook uint8[size, p, p, 3] for patches uint8[N, p, p, 3]: k-means, with at most this many steps.

    The first entries are drawn by k-means++ (Arthur and Vassilvitskii 2007): each is a patch, drawn in proportion to
    its squared distance from the nearest entry so far. Then, in turns, every patch goes to its nearest entry and every
    entry becomes the mean of its patches, until nothing changes. An entry without patches moves to the patch that is
    worst served.

    Raises ValueError for another shape or type, and for fewer different patches than entries.
    """
    patches = np.asarray(patches)
    if patches.dtype != np.uint8 or patches.ndim != 4 or patches.shape[1] != patches.shape[2] or patches.shape[3] != 3:
        raise ValueError(f"The patches are {patches.dtype}{list(patches.shape)}; expected uint8[N, p, p, 3].")
    if size < 1 or not len(patches):
        raise ValueError(f"Expected at least 1 entry and 1 patch, got {size} entries for {len(patches)} patches.")
    points = patches.reshape(len(patches), -1).astype(np.float64)
    squares = np.square(points).sum(1, keepdims=True)
    centres = points[rng.integers(len(points), size=1)]
    nearest = _distances(points, squares, centres)[:, 0]
    while len(centres) < size:
        if not nearest.any():
            raise ValueError(f"There are only {len(centres)} different patches for {size} entries: take fewer entries.")
        centres = np.vstack([centres, points[rng.choice(len(points), p=nearest / nearest.sum())]])
        nearest = np.minimum(nearest, _distances(points, squares, centres[-1:])[:, 0])
    for _ in range(steps):
        distances = _distances(points, squares, centres)
        members = np.eye(size)[distances.argmin(1)]  # [N, size], one-hot
        counts = members.sum(0)
        moved = np.rint(members.T @ points / np.maximum(counts, 1)[:, None])
        moved[counts == 0] = points[np.argsort(-distances.min(1), kind="stable")[: np.sum(counts == 0)]]
        if (moved == centres).all():
            break
        centres = moved
    return centres.astype(np.uint8).reshape(size, *patches.shape[1:])


def encode(images, codebook: np.ndarray) -> np.ndarray:
    """uint8[n, H, W, 3] -> int64[n, H / p, W / p]: the entry of uint8[K, p, p, 3] nearest to each patch.

    Nearest is least squared distance, of equals the first. Of what it gave, `decode` and `encode` give the same again.
    Raises as `cut`, and ValueError for another codebook.
    """
    cells = cut(images, _checked(codebook).shape[1])
    entries = codebook.reshape(len(codebook), -1).astype(np.float64)
    points = cells.reshape(*cells.shape[:2], cells.shape[2], -1).astype(np.float64)
    rows = [_distances(row, 0, entries).argmin(-1) for picture in points for row in picture]
    return np.array(rows, np.int64).reshape(cells.shape[:3])


def decode(codes, codebook: np.ndarray) -> np.ndarray:
    """int[n, gh, gw] -> uint8[n, gh * p, gw * p, 3]: the entries, put together.

    Raises ValueError for codes of another shape or type, or that are not in the codebook, and for another codebook.
    """
    codes, p = np.asarray(codes), _checked(codebook).shape[1]
    if codes.ndim != 3 or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"The codes are {codes.dtype}{list(codes.shape)}; expected integers[n, gh, gw].")
    if codes.size and not 0 <= codes.min() <= codes.max() < len(codebook):
        raise ValueError(f"Codes must be in 0 ... {len(codebook) - 1}, got {codes.min()} to {codes.max()}.")
    n, height, width = codes.shape
    return codebook[codes].swapaxes(2, 3).reshape(n, height * p, width * p, 3)


def mask(grid: tuple[int, int], share: float, rng: np.random.Generator) -> np.ndarray:
    """bool[gh, gw], True on cells to be hidden: round(share * gh * gw) of them, at least one and not all.

    They are a union of rectangles at random places with sides of 2 cells to half the grid, the last cut off where there
    are enough. Single cells would be told by their neighbours. The number is fixed, so all targets are equally long.

    Raises ValueError for less than 2 cells or a share outside (0, 1).
    """
    grid = np.array(grid)
    if grid.shape != (2,) or grid.min() < 1 or grid.prod() < 2 or not 0 < share < 1:
        raise ValueError(f"Expected a grid of 2 cells or more and a share in (0, 1), got {grid.tolist()} and {share}.")
    out = np.zeros(grid, bool)
    wanted = min(max(round(share * out.size), 1), out.size - 1)
    half = np.maximum(grid // 2, 1)
    while out.sum() < wanted:
        sides = rng.integers(np.minimum(2, half), half, endpoint=True)
        y, x = rng.integers(0, grid - sides, endpoint=True)
        fresh = np.zeros_like(out)
        fresh[y : y + sides[0], x : x + sides[1]] = True
        out.flat[np.flatnonzero(fresh & ~out)[: wanted - out.sum()]] = True
    return out


def hide(image, hidden, grey: int = 128) -> np.ndarray:
    """A copy of uint8[H, W, 3] with all pixels grey under the cells of bool[gh, gw] that are True.

    Raises ValueError for another shape or type, and for a grid that does not divide the picture.
    """
    out, hidden = np.array(image), np.asarray(hidden)
    if out.dtype != np.uint8 or out.ndim != 3 or hidden.dtype != bool or hidden.ndim != 2:
        raise ValueError(
            f"Expected a picture uint8[H, W, 3] and a mask bool[gh, gw], got {out.dtype}{list(out.shape)} and "
            f"{hidden.dtype}{list(hidden.shape)}."
        )
    patch = np.array(out.shape[:2]) // np.maximum(hidden.shape, 1)
    if (patch * hidden.shape != out.shape[:2]).any():
        raise ValueError(f"A grid of {list(hidden.shape)} cells does not divide a picture of {list(out.shape[:2])}.")
    out[np.kron(hidden, np.ones(patch, bool))] = grey
    return out


def _distances(points, squares, centres) -> np.ndarray:
    """Squared distances float64[N, K] of float64[N, D], whose squared norms are float64[N, 1], and float64[K, D].

    Exact, as all are whole numbers. Where only the order of the centres matters, squares may be 0.
    """
    return squares - 2 * (points @ centres.T) + np.square(centres).sum(1)[None]


def _checked(codebook) -> np.ndarray:
    shape, dtype = np.shape(codebook), getattr(codebook, "dtype", None)
    if dtype != np.uint8 or len(shape) != 4 or not shape[0] or shape[1] != shape[2] or shape[3] != 3:
        raise ValueError(f"The codebook is {dtype}{list(shape)}; expected uint8[K, p, p, 3], as `learn` gives it.")
    return codebook
