"""Short videos of one or two moving objects, and questions that one picture cannot answer.

    cutouts, names = scenes.objects("train")
    rng = data.keyed_rng(seed, i)                               # the i-th example
    video, question, answer = draw_question("direction", cutouts, names, 4, rng)
    question, answer                                            # "which way does it move: dog?", "left"
    draw_question("speed", cutouts, names, 16, rng, jitter=4)   # more frames show the speed better
    render(cutouts, [3, 7], [(0, 2), (0, -1)], 8, rng)          # kind 3 fast to the right, kind 7 slowly to the left

An object moves in a straight line, by the same whole number of pixels from frame to frame. The picture is a torus: an
object that leaves on one side enters on the opposite side. So all positions of an object are equally likely in each
frame, however it moves, and a single frame does not indicate whether, where and how fast it moves. With borders it
would: an object at the left border could only have come from the right.

Two objects stay in two halves of the torus, cut along the axis on which they move, so that they never meet. Then a
single frame hints at the axis, but neither at the direction on it nor at the speed.

With jitter J each frame also shifts an object along both axes by -J to J pixels, equally likely, for that frame only.
Questions are about the steady motion. A straight line fitted to n frames has a normal error in the speed of standard
deviation sqrt(J (J + 1) / 3 * 12 / (n (n^2 - 1))): at J = 4 it separates slow from fast in 90 of 100 videos of 8 frames
and in all videos of 16.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kitlib.configs.arguments import one_of
from kitlib.synthetic import scenes
from kitlib.synthetic.scenes import SIZE

DIRECTIONS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
SPEEDS = {"slow": 1, "fast": 2}  # times `pace` pixels per frame
PACES = (1, 15)  # at most 30 pixels per frame, less than half the torus: else left looks like right
FRAMES = (2, 16)  # fewest, most
QUESTION_KINDS = ("direction", "moves", "speed", "faster")


@dataclass(frozen=True, eq=False)
class Video:
    """The frames and the objects that move in them. The i-th index and the i-th velocity belong to the i-th object.

    Attributes:
        frames: uint8[n, 64, 64, 3].
        indices: int64[m], the kinds of the objects.
        velocities: int64[m, 2], down and to the right, in pixels per frame; an object with 0, 0 stands still.
        centres: float64[n, m, 2], down and to the right, in pixels of the torus: where the objects are in each frame.
    """

    frames: np.ndarray
    indices: np.ndarray
    velocities: np.ndarray
    centres: np.ndarray


def render(
    cutouts,
    indices,
    velocities,
    frames: int,
    rng: np.random.Generator,
    *,
    sides=(12, 24),
    jitter: int = 0,
    background=None,
) -> Video:
    """Renders one or two objects that start at random positions and move over a fixed background.

    Args:
        cutouts: K cut-outs, as in `scenes`.
        indices: int[m], the kinds of the objects, m = 1 or 2.
        velocities: int[m, 2], each along one axis, two along the same; (0, 0) is allowed for both axes.
        frames: 2 to 16; the first n frames do not depend on the number of frames.
        rng: decides positions, sizes, background and jitter.
        sides: (smallest, largest) longer side in pixels; two objects must fit their halves: side + 2 jitter <= 32.
        jitter: J, in pixels, 0 to 8.
        background: uint8[64, 64, 3], instead of a random background.

    Raises ValueError for any other argument.
    """
    indices = scenes.checked_kinds(indices, len(cutouts), 2)
    velocities = np.asarray(velocities)
    if velocities.shape != (len(indices), 2) or not np.issubdtype(velocities.dtype, np.integer):
        raise ValueError(f"Expected one velocity (down, right) per object, in whole pixels, got {velocities.tolist()}.")
    if velocities.any(axis=0).all():
        raise ValueError(f"Objects move along one axis, two along the same one, got {velocities.tolist()}.")
    if not FRAMES[0] <= frames <= FRAMES[1]:
        raise ValueError(f"frames is {frames}; expected {FRAMES[0]} to {FRAMES[1]}.")
    if not 0 <= jitter <= 8 or (len(indices) == 2 and sides[1] + 2 * jitter > SIZE // 2):
        raise ValueError(
            f"jitter is {jitter}, the largest side {sides[1]}: expected a jitter of 0 to 8, and for two objects a side "
            f"of at most {SIZE // 2} - 2 jitter."
        )
    drawn = scenes.draw_sides(sides, len(indices), rng)
    sized = [scenes.scaled(cutouts[i], side) for i, side in zip(indices, drawn, strict=True)]
    background = scenes.checked_background(background, rng)
    starts = rng.integers(SIZE, size=(len(sized), 2))
    if len(sized) == 2:
        across = rng.integers(2)  # the axis along which neither object moves
        if velocities.any():
            across = 0 if velocities[:, 1].any() else 1
        free = [SIZE // 2 - 2 * jitter - cutout.shape[across] for cutout in sized]
        starts[:, across] = rng.integers(SIZE) + jitter + rng.integers(0, free, endpoint=True) + (0, SIZE // 2)
    # Drawn last, so that the first n frames do not depend on the number of frames.
    shifts = rng.integers(-jitter, jitter, (frames, len(sized), 2), endpoint=True)
    positions = starts + np.arange(frames)[:, None, None] * velocities + shifts
    out = np.repeat(background[None], frames, axis=0)
    for frame, corners in zip(out, positions, strict=True):
        for cutout, corner in zip(sized, corners, strict=True):
            scenes.paste(frame, cutout, corner)
    centres = (positions + [np.array(cutout.shape[:2]) / 2 for cutout in sized]) % SIZE
    return Video(out, indices, velocities.astype(np.int64), centres)


def draw_question(
    task: str,
    cutouts,
    names: Sequence[str],
    frames: int,
    rng: np.random.Generator,
    *,
    sides=(12, 24),
    jitter: int = 0,
    pace: int = 1,
) -> tuple[Video, str, str]:
    """(video, question, answer); the answers of a task are equally likely:

        direction   which way does it move: dog?           up, down, left, right
        moves       does it move: dog?                     yes, no
        speed       how fast is it: dog?                   slow, fast (1 or 2 times `pace` pixels per frame)
        faster      which is faster: dog or red apple?     the name of the fast one; the other one is slow

    The first three show a second object in half of the videos, which stands still, is slow or is fast, independently of
    the first. "faster" names the fast object first in half of its questions. Without jitter two frames suffice for all.

    pace: 1 to 15; 8 is the width of a patch of the kit's PaLI-X.

    Raises ValueError for an unknown task, equal names, names that are not one per kind, fewer than two kinds, another
    pace, and as `render`.
    """
    names = list(names)
    if not PACES[0] <= pace <= PACES[1]:
        raise ValueError(f"pace is {pace}; expected {PACES[0]} to {PACES[1]} pixels per frame.")
    one_of("kind of question", task, QUESTION_KINDS)
    if len(set(names)) != len(names) or len(names) != len(cutouts) or len(names) < 2:
        raise ValueError(f"Expected different names, one per cut-out and at least 2, got {names} for {len(cutouts)}.")
    axis = rng.integers(2)
    along_axis = list(DIRECTIONS)[2 * axis : 2 * axis + 2]
    directions = [along_axis[i] for i in rng.integers(2, size=2)]
    speeds = rng.integers(3, size=2)
    if task == "moves":
        speeds[0] = rng.integers(1, 3) * rng.integers(2)
    elif task == "faster":
        speeds = rng.permutation([1, 2])
    else:
        speeds[0] = rng.integers(1, 3)
    count = 2 if task == "faster" else int(rng.integers(1, 3))
    indices = rng.choice(len(names), count, replace=False)
    velocities = [
        speed * pace * np.array(DIRECTIONS[name]) for speed, name in zip(speeds[:count], directions, strict=False)
    ]
    video = render(cutouts, indices, velocities, frames, rng, sides=sides, jitter=jitter)
    first, second = (names[i] for i in indices[[0, -1]])
    if task == "direction":
        return video, f"which way does it move: {first}?", directions[0]
    if task == "moves":
        return video, f"does it move: {first}?", "yes" if speeds[0] else "no"
    if task == "speed":
        return video, f"how fast is it: {first}?", "fast" if speeds[0] == SPEEDS["fast"] else "slow"
    return video, f"which is faster: {first} or {second}?", first if speeds[0] > speeds[1] else second
