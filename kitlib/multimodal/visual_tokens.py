"""Discrete visual tokens: every patch becomes the index of its nearest entry in a learned codebook.

    patches = cut(images, 8).reshape(-1, 8, 8, 3)          # of uint8[n, 64, 64, 3]
    codebook = learn(patches, 128, data.keyed_rng(0))      # uint8[128, 8, 8, 3]
    codes = encode(images, codebook)                       # int64[n, 8, 8] in 0 ... 127
    decode(codes, codebook)                                # uint8[n, 64, 64, 3]: the entries in place of the patches
    hidden = mask((8, 8), 0.25, rng)                       # bool[8, 8], 16 of the 64 cells, in rectangles
    hide(images[0], hidden)                                # the image with these cells grey

One objective of PaLI-X (arXiv 2305.18565) is to write the tokens of the hidden part of an image. Its tokens come from
ViT-VQGAN, a network that turns 256 x 256 pixels into 256 tokens. Here they come from k-means on pixels
(scikit-learn's), so that each entry can be looked at: it shows colours and coarse edges, nothing finer. The kit's own
codebook travels with it: `kit_data.codebook`.
"""

import numpy as np


def cut(images, patch: int) -> np.ndarray:
    """uint8[n, H, W, 3] -> uint8[n, H / patch, W / patch, patch, patch, 3].

    Raises ValueError for another shape or type, and for sides that `patch` does not divide.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"The images are {images.dtype}{list(images.shape)}; expected uint8[n, H, W, 3].")
    n, height, width, _ = images.shape
    if patch < 1 or height % patch or width % patch:
        raise ValueError(f"Patches of {patch} pixels do not fill images of {height} x {width}.")
    return images.reshape(n, height // patch, patch, width // patch, patch, 3).swapaxes(2, 3)


def learn(patches, size: int, rng: np.random.Generator, *, steps: int = 50) -> np.ndarray:
    """A codebook uint8[size, p, p, 3] for patches uint8[N, p, p, 3]: k-means with at most `steps` steps.

    The first entries are drawn by k-means++ (Arthur and Vassilvitskii 2007); entries are rounded to whole numbers.
    Raises ValueError for another shape or type, and for fewer different patches than entries.
    """
    from sklearn.cluster import KMeans  # here, because it takes long to import and few need it

    patches = np.asarray(patches)
    if patches.dtype != np.uint8 or patches.ndim != 4 or patches.shape[1] != patches.shape[2] or patches.shape[3] != 3:
        raise ValueError(f"The patches are {patches.dtype}{list(patches.shape)}; expected uint8[N, p, p, 3].")
    if size < 1 or not len(patches):
        raise ValueError(f"Expected at least 1 entry and 1 patch, got {size} entries for {len(patches)} patches.")
    points = patches.reshape(len(patches), -1).astype(np.float64)
    if (different := len(np.unique(points, axis=0))) < size:
        raise ValueError(f"There are only {different} different patches for {size} entries: take fewer entries.")
    found = KMeans(size, n_init=1, max_iter=steps, random_state=int(rng.integers(2**31))).fit(points)
    return np.rint(found.cluster_centers_).astype(np.uint8).reshape(size, *patches.shape[1:])


def encode(images, codebook: np.ndarray) -> np.ndarray:
    """uint8[n, H, W, 3] -> int64[n, H / p, W / p]: the entry of uint8[K, p, p, 3] nearest to each patch.

    The nearest entry has the smallest squared distance; of equal ones the first is taken. Codes that `encode`
    returned are returned again for their decoded images. Raises as `cut`, and ValueError for another codebook.
    """
    cells = cut(images, _checked(codebook).shape[1])
    entries = codebook.reshape(len(codebook), -1).astype(np.float64)
    points = cells.reshape(*cells.shape[:2], cells.shape[2], -1).astype(np.float64)
    norms = np.square(entries).sum(1)  # of |point - entry|^2, the part without the entry is the same for all entries
    rows = [(norms - 2 * (row @ entries.T)).argmin(-1) for picture in points for row in picture]
    return np.array(rows, np.int64).reshape(cells.shape[:3])


def decode(codes, codebook: np.ndarray) -> np.ndarray:
    """int[n, gh, gw] -> uint8[n, gh * p, gw * p, 3]: the images made of these entries.

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
    """bool[gh, gw], True for cells to be hidden: round(share * gh * gw) of them, at least one and not all.

    They are a union of rectangles at random positions with sides of 2 cells to half the grid; the last one is cut off
    where the number is reached. Single cells could be inferred from their neighbours. The number is fixed, so that all
    targets have the same length.

    Raises ValueError for fewer than 2 cells or a share outside (0, 1).
    """
    grid = np.array(grid)
    if grid.shape != (2,) or grid.min() < 1 or grid.prod() < 2 or not 0 < share < 1:
        raise ValueError(f"Expected a grid of 2 cells or more and a share in (0, 1), got {grid.tolist()} and {share}.")
    out = np.zeros(grid, bool)
    count = min(max(round(share * out.size), 1), out.size - 1)
    half = np.maximum(grid // 2, 1)
    while out.sum() < count:
        sides = rng.integers(np.minimum(2, half), half, endpoint=True)
        y, x = rng.integers(0, grid - sides, endpoint=True)
        rectangle = np.zeros_like(out)
        rectangle[y : y + sides[0], x : x + sides[1]] = True
        out.flat[np.flatnonzero(rectangle & ~out)[: count - out.sum()]] = True
    return out


def hide(image, hidden, grey: int = 128) -> np.ndarray:
    """A copy of uint8[H, W, 3] with grey pixels in the cells of bool[gh, gw] that are True.

    Raises ValueError for another shape or type, and for a grid that does not divide the image.
    """
    out, hidden = np.array(image), np.asarray(hidden)
    if out.dtype != np.uint8 or out.ndim != 3 or hidden.dtype != bool or hidden.ndim != 2:
        raise ValueError(
            f"Expected an image uint8[H, W, 3] and a mask bool[gh, gw], got {out.dtype}{list(out.shape)} and "
            f"{hidden.dtype}{list(hidden.shape)}."
        )
    patch = np.array(out.shape[:2]) // np.maximum(hidden.shape, 1)
    if (patch * hidden.shape != out.shape[:2]).any():
        raise ValueError(f"A grid of {list(hidden.shape)} cells does not divide an image of {list(out.shape[:2])}.")
    out[np.kron(hidden, np.ones(patch, bool))] = grey
    return out


def _checked(codebook) -> np.ndarray:
    shape, dtype = np.shape(codebook), getattr(codebook, "dtype", None)
    if dtype != np.uint8 or len(shape) != 4 or not shape[0] or shape[1] != shape[2] or shape[3] != 3:
        raise ValueError(f"The codebook is {dtype}{list(shape)}; expected uint8[K, p, p, 3], as `learn` gives it.")
    return codebook
