"""Pictures of many objects with exact boxes, and questions about them whose answers are true by construction.

    cutouts, names = objects("train")                        # 48 objects, cut out of the emoji
    rng = data.keyed_rng(seed, i)                            # the i-th example, whatever was drawn before
    indices, subject = contents(len(names), rng)             # 1 to 9 of them, some several times
    scene = compose(cutouts, indices, (10, 20), rng)         # uint8[64, 64, 3] with one box per object
    ask(scene, names, subject, rng)                          # {"count": ("how many: red apple?", "3"), ...}
    boxes.to_text(scene.boxes, [names[i] for i in scene.indices])  # the target text of a detector

Questions put names after a colon, "or" or "than" and never inflect them: they come from CLDR ("red apple", "cherries"),
and neither their plurals nor their articles follow one rule. Several names in an answer are joined by " ; ", as in
`multimodal.boxes`, because a few names contain commas. A cut-out is uint8[H, W, 4]: red, green, blue, and alpha, the
share of a pixel that the object covers. A kind is the index of a cut-out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from kitlib.data import captioned

SIZE = 64  # pixels, height and width of a scene
SMALLEST, LARGEST = 8, 28  # pixels, the longer side of an object
MOST = 9  # objects in a scene
MARGIN = 0.15  # share of the picture: two centres nearer than this are neither left nor right, above nor below
TRIES = 64  # positions tried for one object before all are made smaller
FOUR_NEIGHBOURS = ndimage.generate_binary_structure(2, 1)[None]  # of a pixel, in pictures [n, H, W]
# Chosen by eye: a child can name them, they differ in colour or form, and they can still be recognised at 10 pixels.
EASY = {
    "train": (
        "dog", "cat", "panda", "lion", "rooster", "snail", "crab", "whale", "owl", "turtle", "lady beetle",
        "tropical fish", "flamingo", "pig face", "broccoli", "pizza", "red apple", "banana", "lemon", "watermelon",
        "cherries", "hamburger", "pear", "pineapple", "mushroom", "lollipop", "umbrella", "guitar", "balloon",
        "teddy bear", "bell", "rocket", "bus", "sailboat", "fire engine", "tractor", "house", "soccer ball", "crown",
        "star", "red heart", "tulip", "sunflower", "Christmas tree", "snowman", "backpack", "t-shirt",
        "jack-o-lantern",
    ),
    "valid": (
        "butterfly", "octopus", "strawberry", "automobile", "eggplant", "drum", "trophy", "doughnut", "avocado",
        "ice cream", "key", "rainbow",
    ),
    "test": (
        "frog", "rabbit", "carrot", "grapes", "peach", "penguin", "onion", "chair", "anchor", "teapot", "basketball",
        "egg", "cactus", "saxophone", "honeybee", "giraffe", "boxing glove", "birthday cake", "crocodile", "shield",
    ),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and its objects. The i-th box and the i-th index belong to the i-th object.

    Attributes:
        image: uint8[64, 64, 3].
        boxes: float64[n, 4], y0, x0, y1, x1 as shares of the picture, tight around the pixels that the object covers.
        indices: int64[n], the kinds of the objects.
    """

    image: np.ndarray
    boxes: np.ndarray
    indices: np.ndarray


def objects(split: str = "train", *, style: str = "noto") -> tuple[np.ndarray, tuple[str, ...]]:
    """(cutouts uint8[K, 32, 32, 4], K names) of a split's `EASY` emoji. Arguments and errors: as `captioned.emoji`."""
    source = captioned.emoji(split, style=style)
    row = {name: i for i, name in enumerate(source.names["en"])}
    return cut_outs(source.images[[row[name] for name in EASY[split]]]), EASY[split]


def cut_outs(images) -> np.ndarray:
    """uint8[n, H, W, 3] on white -> uint8[n, H, W, 4]: removes the white that is connected to the border.

    Eyes and a panda's face are white, too, so the white is flooded from the border and stops at the object. A pixel at
    the object's rim is modelled as a mixture of white and the mean colour of the object's neighbouring inner pixels: it
    gets that colour, and as alpha the share that explains it best (least squares).

    Raises ValueError for another shape or type, and for a picture that is all white.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"The pictures are {images.dtype}{list(images.shape)}; expected uint8[n, H, W, 3] on white.")
    white = np.asarray((images >= 250).all(-1))
    border = np.ones_like(white)
    border[:, 1:-1, 1:-1] = False
    outside = ndimage.binary_propagation(border & white, FOUR_NEIGHBOURS, mask=white)
    if outside.all((1, 2)).any():
        raise ValueError(f"Picture {outside.all((1, 2)).argmax()} is white: there is no object to cut out.")
    inner = ~outside & (_neighbours(outside[..., None])[..., 0] == 0)
    ink = 255.0 - images  # distance to white
    # The mean is over inner pixels; in thin parts, which have none, over the rim itself, weighted by its ink.
    weights = np.where(inner, 1.0, np.where(outside, 0.0, 1e-9 * np.square(ink).sum(-1)))[..., None]
    mean = _neighbours(ink * weights) / np.maximum(_neighbours(weights), 1e-9)
    strength = np.square(mean).sum(-1)
    rim = ~outside & ~inner & (strength > 60**2)  # a nearly white object cannot be separated from white
    share = np.clip((ink * mean).sum(-1) / np.maximum(strength, 1), 0, 1)
    colours = np.where(rim[..., None], 255 - mean, images)
    alpha = np.where(outside, 0, np.where(rim, 255 * share, 255))
    return np.rint(np.concatenate([colours, alpha[..., None]], axis=-1)).astype(np.uint8)


def scaled(cutout, side: int) -> np.ndarray:
    """uint8[H, W, 4] -> uint8[h, w, 4], cropped to the object; the longer of h and w is `side` pixels.

    It is shorter where a thin tip or a pale rim fades. Alpha becomes 0 or 255: each pixel of a scene belongs to an
    object or to the background, so boxes are exact.

    Raises ValueError for a side outside 8 ... 28 and for an object so thin that nothing is left of it.
    """
    if not SMALLEST <= side <= LARGEST:
        raise ValueError(f"side is {side} pixels; expected {SMALLEST} to {LARGEST}.")
    small = Image.fromarray(_crop(np.asarray(cutout), side))
    factor = side / max(small.size)
    size = [max(1, round(length * factor)) for length in small.size]
    out = np.array(small.resize(size, Image.Resampling.BILINEAR))  # PIL averages colours weighted by alpha
    out[..., 3] = np.where(out[..., 3] >= 128, 255, 0)
    return _crop(out, side)


def contents(kinds: int, rng: np.random.Generator, most: int = MOST, least: int = 0) -> tuple[np.ndarray, int]:
    """(indices int64[n], subject): the kinds of a scene's objects, and the kind to be counted.

    The number of objects of the subject is drawn first, `least` to `most` equally likely: no answer to "how many" is
    more frequent than another. Up to three other kinds add a random number of objects, to 1 to `most` in all.

    Raises ValueError for fewer than 2 kinds, `most` outside 1 ... 9 and `least` outside 0 ... most.
    """
    if kinds < 2 or not 1 <= most <= MOST or not 0 <= least <= most:
        raise ValueError(f"Expected at least 2 kinds and 1 to {MOST} objects, got {kinds} kinds, {least} to {most}.")
    subject, *others = rng.permutation(kinds).tolist()
    count = int(rng.integers(least, most + 1))
    rest = rng.integers(count == 0, most - count + 1)
    others = rng.choice(others[: rng.integers(1, 4)], rest)
    return np.concatenate([np.full(count, subject), others]).astype(np.int64), subject


def checked_background(background, rng: np.random.Generator) -> np.ndarray:
    """A copy of background uint8[64, 64, 3], or a random one for None. Raises ValueError for another shape or type."""
    background = random_background(rng) if background is None else np.array(background)
    if background.shape != (SIZE, SIZE, 3) or background.dtype != np.uint8:
        raise ValueError(f"The background is {background.dtype}{list(background.shape)}; expected uint8[64, 64, 3].")
    return background


def random_background(rng: np.random.Generator) -> np.ndarray:
    """uint8[64, 64, 3]: one soft colour, a gradient between two at a random angle, or such a gradient with noise."""
    look, angle = rng.integers(3), rng.uniform(0, 2 * np.pi)
    first, second = rng.uniform(110, 215, (2, 1)) + rng.uniform(-30, 30, (2, 3))
    y, x = np.mgrid[:SIZE, :SIZE] / (SIZE - 1) - 0.5
    share = 0.5 + (y * np.sin(angle) + x * np.cos(angle)) / np.sqrt(2) if look else np.zeros((SIZE, SIZE))
    image = first + (second - first) * share[..., None]
    if look == 2:
        image = image + rng.normal(0, 8, image.shape)
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)


def compose(cutouts, indices, sides, rng, *, smallest: int = SMALLEST, background=None) -> Scene:
    """Places objects at random positions without overlap: at least one pixel is between two boxes.

    Each object is tried at 64 positions, the largest object first. If none is free, all become a fifth smaller, down to
    `smallest`, and placing starts again: 6 rounds at most. So objects of crowded scenes may be smaller than `sides`.

    Args:
        cutouts: K cut-outs.
        indices: int[n], the kinds of 1 to 9 objects.
        sides: (smallest, largest) longer side in pixels, within 8 ... 28; each is equally likely.
        rng: all draws come from it.
        smallest: pixels, below which nothing shrinks. background: uint8[64, 64, 3], not a random one.

    Raises ValueError for other numbers of objects or sides, unknown kinds, another background, objects that do not fit.
    """
    indices = checked_kinds(indices, len(cutouts), MOST)
    wanted = draw_sides(sides, len(indices), rng)
    image = checked_background(background, rng)
    while True:
        sized = [scaled(cutouts[i], side) for i, side in zip(indices, wanted, strict=True)]
        shapes = np.array([cutout.shape[:2] for cutout in sized])
        corners = _free_corners(shapes, rng)
        if corners is not None:
            break
        if wanted.max() <= smallest:
            raise ValueError(f"{len(indices)} objects of {smallest} pixels found no position: take fewer.")
        wanted = np.minimum(wanted, np.maximum(wanted * 4 // 5, smallest))
    for cutout, corner in zip(sized, corners, strict=True):
        paste(image, cutout, corner)
    return Scene(image, np.concatenate([corners, corners + shapes], axis=1) / SIZE, indices)


def paste(image: np.ndarray, cutout: np.ndarray, corner) -> None:
    """Writes a `scaled` cut-out into image uint8[64, 64, 3], its top left at corner (row, column), as on a torus."""
    y, x = np.nonzero(cutout[..., 3])
    image[(y + corner[0]) % SIZE, (x + corner[1]) % SIZE] = cutout[y, x, :3]


def ask(scene: Scene, names: Sequence[str], subject: int, rng: np.random.Generator) -> dict[str, tuple[str, str]]:
    """{task: (question, answer)}, all in English, for the tasks that the scene allows:

        count      how many: dog?                             "0" to "9", of the subject; balanced by `contents`
        present    is there: dog?                             yes, no: equally likely
        which      which is there: dog or red apple?          the name that is present; it comes first in half of them
        list       which are there?                           dog ; red apple (each name once, in alphabetical order)
        relation   where is: dog, seen from: red apple?       left of, right of, above, below
        compare    are there more: dog than red apple?        yes, no (fewer or the same number): equally likely

    "present" and "which" need an absent kind, "compare" two kinds in different numbers. Otherwise the task is left out,
    independently of the answer, so the balance stays. A relation is between kinds that occur once; their centres differ
    by more than `MARGIN` along the answer's axis, and by less than half as much along the other.

    In scenes of `contents` relations are rare: compose three or four different kinds for them. Raises ValueError for
    names that are not different, contain ";", or are fewer than the kinds.
    """
    names = list(names)
    if len(set(names)) != len(names) or any(";" in name for name in names):
        raise ValueError("Names must be different from each other and have no ';', which separates them in answers.")
    checked_kinds([*scene.indices, subject], len(names), MOST + 1)
    counts = np.bincount(scene.indices, minlength=len(names))
    present, absent = np.flatnonzero(counts), np.flatnonzero(counts == 0)
    out = {"count": (f"how many: {names[subject]}?", str(counts[subject]))}
    out["list"] = "which are there?", " ; ".join(sorted((names[i] for i in present), key=str.lower))
    if len(absent):
        answer = rng.choice(["yes", "no"])
        out["present"] = f"is there: {names[rng.choice(present if answer == 'yes' else absent)]}?", str(answer)
        pair = [names[rng.choice(present)], names[rng.choice(absent)]]
        first, second = rng.permutation(2)
        out["which"] = f"which is there: {pair[first]} or {pair[second]}?", pair[0]
    pairs = [(a, b) for a in present for b in present if a != b]
    if any(counts[a] != counts[b] for a, b in pairs):
        answer = rng.choice(["yes", "no"])
        a, b = rng.choice([(a, b) for a, b in pairs if (counts[a] > counts[b]) == (answer == "yes")])
        out["compare"] = f"are there more: {names[a]} than {names[b]}?", str(answer)
    centres = {i: (box[:2] + box[2:]) / 2 for i, box in zip(scene.indices, scene.boxes, strict=True) if counts[i] == 1}
    related = [(a, b) for a, b in pairs if {a, b} <= set(centres) and relation(centres[a] - centres[b])]
    if related:
        a, b = rng.choice(related)
        out["relation"] = f"where is: {names[a]}, seen from: {names[b]}?", relation(centres[a] - centres[b])
    return out


def relation(difference) -> str | None:
    """The direction for a difference (y, x) between two centres, in shares of the picture; None where it is unclear."""
    along = int(np.argmax(np.abs(difference)))
    far, other = difference[along], abs(difference[1 - along])
    if abs(far) <= MARGIN or other >= abs(far) / 2:
        return None
    return (("above", "below"), ("left of", "right of"))[along][int(far > 0)]


def checked_kinds(indices, kinds: int, most: int) -> np.ndarray:
    """The indices as int64[n]. Raises ValueError if there are none or more than `most`, and for unknown kinds."""
    indices = np.asarray(indices)
    if indices.ndim != 1 or not 1 <= len(indices) <= most or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"Expected 1 to {most} integers, the kinds of the objects, got {indices.tolist()}.")
    if indices.min() < 0 or indices.max() >= kinds:
        raise ValueError(f"There are {kinds} kinds, 0 to {kinds - 1}, got {indices.tolist()}.")
    return indices.astype(np.int64)


def draw_sides(sides: tuple[int, int], count: int, rng: np.random.Generator) -> np.ndarray:
    """Random int64[count] in smallest ... largest. Raises ValueError if these are not ordered or not in 8 ... 28."""
    low, high = sides
    if not SMALLEST <= low <= high <= LARGEST:
        raise ValueError(f"sides are {sides}; expected (smallest, largest) within {SMALLEST} to {LARGEST} pixels.")
    return rng.integers(low, high + 1, count)


def _free_corners(shapes, rng) -> np.ndarray | None:
    """Corners int64[n, 2] for objects of these shapes int[n, 2] without overlap; None if one has no free position."""
    corners, done = np.zeros_like(shapes), []
    for i in np.argsort(-shapes.prod(1), kind="stable"):
        tries = rng.integers(0, SIZE - shapes[i] + 1, (TRIES, 2))[:, None]
        behind, before = tries > corners[done] + shapes[done], tries + shapes[i] < corners[done]
        free = (behind | before).any(-1).all(-1)
        if not free.any():
            return None
        corners[i] = tries[free.argmax(), 0]
        done.append(i)
    return corners


def _crop(cutout, side) -> np.ndarray:
    rows, columns = np.nonzero(cutout[..., 3] >= 128)
    if not len(rows):
        raise ValueError(f"Nothing is left of the object at side {side}: take a larger side or a less thin object.")
    return cutout[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _neighbours(values) -> np.ndarray:
    """[n, H, W, C] -> the sum over each pixel and its eight neighbours."""
    height, width = values.shape[1:3]
    padded = np.pad(values.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum((padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)), np.zeros(values.shape))
