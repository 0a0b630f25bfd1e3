"""Short films of one or two moving things, and questions that one picture cannot answer.

    cutouts, names = scenes.objects("train")
    rng = data.keyed_rng(seed, i)                                              # the i-th example
    clip, question, answer = make("direction", cutouts, names, 4, rng)         # "which way does it move: dog?", "left"
    clip, question, answer = make("speed", cutouts, names, 16, rng, jitter=4)  # the more frames, the surer
    clip = film(cutouts, [3, 7], [(0, 2), (0, -1)], 8, rng)                    # kind 3 fast to the right, 7 slowly left

A thing moves straight on by the same whole number of pixels from frame to frame. The picture is a torus: what leaves on
one side comes in on the opposite one. So a thing is everywhere equally likely in each frame, however it moves, and a
single frame of it says nothing about direction, speed or rest. With borders it would: what stands at the left border
could only have come from the right.

Two things keep to two halves of the torus, cut along the axis on which they move, so that they never meet. There a
single frame hints at the axis, but at neither the way on it nor the speed.

With jitter J a thing is also shaken: in each frame and in both directions by -J to J pixels, equally likely, for that
frame only. Questions are about the steady motion underneath. The best straight line through n frames misses the speed
by a normal error of standard deviation sqrt(J (J + 1) / 3 * 12 / (n (n^2 - 1))): at J = 4, slow and fast are told apart
in 90 of 100 clips of 8 frames and in all of 16.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kitlib import scenes
from kitlib.scenes import SIZE

WAYS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
SPEEDS = {"slow": 1, "fast": 2}  # pixels a frame; fast crosses less than half the torus in 16 frames
FRAMES = (2, 16)  # fewest, most
TASKS = ("direction", "moves", "speed", "faster")


@dataclass(frozen=True, eq=False)
class Clip:
    """A film and what moves in it. The i-th index and the i-th velocity belong to the i-th thing.

    Attributes:
        frames: uint8[n, 64, 64, 3].
        indices: int64[m], the kinds.
        velocities: int64[m, 2], down and to the right, in pixels a frame; 0, 0 stands still.
    """

    frames: np.ndarray
    indices: np.ndarray
    velocities: np.ndarray


def film(
    cutouts, indices, velocities, frames: int, rng: np.random.Generator, *, sides=(12, 24), jitter: int = 0, ground=None
) -> Clip:
    """Films one or two things from random places on, on a background that stays. More frames only go on longer.

    Args:
        cutouts: K cut-outs, as in `kitlib.scenes`.
        indices: int[m], which of them, m = 1 or 2.
        velocities: int[m, 2], each along one axis, two along the same; (0, 0) goes with both.
        frames: 2 to 16; the first n frames do not depend on how many there are.
        rng: decides places, sizes, background and jitter.
        sides: (smallest, largest) longer side in pixels; two things must fit their halves: side + 2 jitter <= 32.
        jitter: J, in pixels, 0 to 8.
        ground: uint8[64, 64, 3] instead of a random background.

    Raises ValueError for anything else.
    """
    indices = scenes.checked_kinds(indices, len(cutouts), 2)
    velocities = np.asarray(velocities)
    if velocities.shape != (len(indices), 2) or not np.issubdtype(velocities.dtype, np.integer):
        raise ValueError(f"Expected one velocity (down, right) of whole pixels a thing, got {velocities.tolist()}.")
    if velocities.any(axis=0).all():
        raise ValueError(f"Things move along one axis, two along the same one, got {velocities.tolist()}.")
    if not FRAMES[0] <= frames <= FRAMES[1]:
        raise ValueError(f"frames is {frames}; expected {FRAMES[0]} to {FRAMES[1]}.")
    if not 0 <= jitter <= 8 or (len(indices) == 2 and sides[1] + 2 * jitter > SIZE // 2):
        raise ValueError(
            f"jitter is {jitter}, the largest side {sides[1]}: expected a jitter of 0 to 8, and with two things a side "
            f"of at most {SIZE // 2} - 2 jitter."
        )
    drawn = scenes.draw_sides(sides, len(indices), rng)
    things = [scenes.scaled(cutouts[i], side) for i, side in zip(indices, drawn, strict=True)]
    ground = scenes.draw_ground(ground, rng)
    starts = rng.integers(SIZE, size=(len(things), 2))
    if len(things) == 2:
        across = rng.integers(2)  # the axis along which nothing moves
        if velocities.any():
            across = 0 if velocities[:, 1].any() else 1
        room = [SIZE // 2 - 2 * jitter - thing.shape[across] for thing in things]
        starts[:, across] = rng.integers(SIZE) + jitter + rng.integers(0, room, endpoint=True) + (0, SIZE // 2)
    shaken = rng.integers(-jitter, jitter, (frames, len(things), 2), endpoint=True)  # last, so that frames only add
    places = starts + np.arange(frames)[:, None, None] * velocities + shaken
    out = np.repeat(ground[None], frames, axis=0)
    for frame, corners in zip(out, places, strict=True):
        for thing, corner in zip(things, corners, strict=True):
            scenes.paste(frame, thing, corner)
    return Clip(out, indices, velocities.astype(np.int64))


def make(
    task: str, cutouts, names: Sequence[str], frames: int, rng: np.random.Generator, *, sides=(12, 24), jitter: int = 0
) -> tuple[Clip, str, str]:
    """(clip, question, answer), the answers of a task equally likely:

        direction   which way does it move: dog?           up, down, left, right
        moves       does it move: dog?                     yes, no
        speed       how fast is it: dog?                   slow, fast (1 or 2 pixels a frame)
        faster      which is faster: dog or red apple?     the name of the fast one; the other is slow; either first

    The first three are about one of two things in half of the clips: the other stands still, is slow or is fast,
    whatever the first does. Without jitter two frames decide all of them.

    Raises ValueError for an unknown task, names that are not one different each, less than two kinds, and as `film`.
    """
    names = list(names)
    if task not in TASKS:
        raise ValueError(f"There is no task {task!r}: There are: {', '.join(TASKS)}.")
    if len(set(names)) != len(names) or len(names) != len(cutouts) or len(names) < 2:
        raise ValueError(f"Expected different names, one a cut-out and at least 2, got {names} for {len(cutouts)}.")
    axis = rng.integers(2)
    ways = list(WAYS)[2 * axis : 2 * axis + 2]
    drawn = [ways[i] for i in rng.integers(2, size=2)]
    speeds = rng.integers(3, size=2)
    if task == "moves":
        speeds[0] = rng.integers(1, 3) * rng.integers(2)
    elif task == "faster":
        speeds = rng.permutation([1, 2])
    else:
        speeds[0] = rng.integers(1, 3)
    count = 2 if task == "faster" else int(rng.integers(1, 3))
    indices = rng.choice(len(names), count, replace=False)
    velocities = [speed * np.array(WAYS[way]) for speed, way in zip(speeds[:count], drawn, strict=False)]
    clip = film(cutouts, indices, velocities, frames, rng, sides=sides, jitter=jitter)
    first, second = (names[i] for i in indices[[0, -1]])
    if task == "direction":
        return clip, f"which way does it move: {first}?", drawn[0]
    if task == "moves":
        return clip, f"does it move: {first}?", "yes" if speeds[0] else "no"
    if task == "speed":
        return clip, f"how fast is it: {first}?", "fast" if speeds[0] == SPEEDS["fast"] else "slow"
    return clip, f"which is faster: {first} or {second}?", first if speeds[0] > speeds[1] else second
