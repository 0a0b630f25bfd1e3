"""kitlib.clips: what moves how far, measured in the pixels; that one frame tells nothing and many tell more."""

import itertools
import math
import re
from collections import Counter

import numpy as np
import pytest

from kitlib import clips, data, scenes
from kitlib.clips import SPEEDS, WAYS, film, make

GROUND = np.full((64, 64, 3), 128, np.uint8)
COLOURS = {"red": (250, 0, 0), "blue": (0, 0, 250), "lime": (100, 250, 0)}
NAMES = list(COLOURS)
SQUARES = np.array([np.full((24, 24, 4), (*colour, 255), np.uint8) for colour in COLOURS.values()])


@pytest.fixture(scope="module")
def things():
    return scenes.objects("train")


def masks(frames, name):
    """Where each frame shows this square: bool[n, 64, 64]."""
    return (frames == np.array(COLOURS[name])).all(-1)


def shift(before, after):
    """(down, right) that turns one picture into the other on the torus, by circular cross-correlation."""
    spectra = np.conj(np.fft.fft2(before, axes=(0, 1))) * np.fft.fft2(after, axes=(0, 1))
    peak = np.fft.ifft2(spectra, axes=(0, 1)).real.reshape(64, 64, -1).sum(-1).argmax()
    return [(int(d) + 32) % 64 - 32 for d in np.unravel_index(peak, (64, 64))]


def centres(found):
    """float[n, 2], the place of what is found in bool[n, 64, 64], followed across the border: the circular mean."""
    angle = np.exp(2j * np.pi * np.arange(64) / 64)
    sums = np.stack([found.sum(2) @ angle, found.sum(1) @ angle], axis=-1)
    return np.unwrap(np.angle(sums), axis=0) * 64 / (2 * np.pi)


# --- one thing ---


@pytest.mark.parametrize("speed", SPEEDS.values())
@pytest.mark.parametrize("way", WAYS)
def test_every_step_is_the_velocity(way, speed, things):
    velocity = speed * np.array(WAYS[way])
    for seed in range(6):
        clip = film(things[0], [seed * 7], [velocity], 16, data.keyed_rng(0, seed), ground=GROUND)
        assert clip.frames.shape == (16, 64, 64, 3) and clip.frames.dtype == np.uint8
        seen = clip.frames.astype(float) - GROUND
        for before, after in itertools.pairwise(seen):
            assert shift(before, after) == velocity.tolist()
        for t, frame in enumerate(clip.frames):
            np.testing.assert_array_equal(frame, np.roll(clip.frames[0], t * velocity, (0, 1)))
        assert clip.velocities.tolist() == [velocity.tolist()] and clip.indices.tolist() == [seed * 7]


def test_what_stands_still_is_the_same_in_all_frames(things):
    clip = film(things[0], [5], [(0, 0)], 8, data.keyed_rng(0, 1))
    assert (clip.frames == clip.frames[0]).all() and (clip.frames[0] != clip.frames[0, 0, 0]).any()


def test_one_frame_tells_nothing():
    """The first frame is the same however things move; all others are shifted ones of it, all shifts equally likely."""
    for seed in range(20):
        first = {
            film(SQUARES, [0], [speed * np.array(WAYS[way])], 2, data.keyed_rng(0, seed)).frames[0].tobytes()
            for way in WAYS
            for speed in (0, 1, 2)
        }
        pair = {
            film(SQUARES, [0, 1], [(0, a), (0, b)], 2, data.keyed_rng(0, seed)).frames[0].tobytes()
            for a in (-2, -1, 0, 1, 2)
            for b in (-2, 0, 1)
            if a or b
        }
        assert len(first) == len(pair) == 1
    for way in WAYS:
        frames = [
            film(SQUARES, [0], [WAYS[way]], 16, data.keyed_rng(1, i), sides=(12, 12), ground=GROUND).frames[15]
            for i in range(400)
        ]
        places = np.concatenate([centres(masks(frame[None], "red")) for frame in frames])
        counts = np.stack([np.bincount((places[:, axis] // 8 % 8).astype(int), minlength=8) for axis in (0, 1)])
        assert np.abs(counts - 50).max() < 5 * np.sqrt(50)


# --- two things ---


@pytest.mark.parametrize("axis", [0, 1])
def test_two_things_move_each_in_its_way_and_never_meet(axis):
    for seed in range(30):
        rng = data.keyed_rng(2, seed)
        speeds = rng.integers(-2, 3, 2)
        velocities = np.zeros((2, 2), int)
        velocities[:, axis] = speeds
        clip = film(SQUARES, [2, 0], velocities, 16, rng, ground=GROUND)
        for name, velocity in zip(("lime", "red"), velocities, strict=True):
            found = masks(clip.frames, name)
            side = math.isqrt(found[0].sum())
            assert found[0].sum() == side**2 and 12 <= side <= 24
            for t in range(16):
                np.testing.assert_array_equal(found[t], np.roll(found[0], t * velocity, (0, 1)))
        seen = masks(clip.frames, "lime") | masks(clip.frames, "red")
        np.testing.assert_array_equal(seen, (clip.frames != GROUND).any(-1))


def test_shaken_pairs_never_meet_either():
    for seed in range(12):
        rng = data.keyed_rng(3, seed)
        clip = film(SQUARES, [0, 1], [(1, 0), (-2, 0)], 16, rng, sides=(24, 24), jitter=4)
        assert {masks(clip.frames, name)[t].sum() for name in ("red", "blue") for t in range(16)} == {24**2}


# --- questions ---


def measured(clip, name):
    """The displacement from the first frame to the second, found in the pixels."""
    found = masks(clip.frames, name)
    return tuple(shift(found[0], found[1]))


@pytest.mark.parametrize("task", clips.TASKS)
def test_answers_are_what_the_pixels_say_and_balanced(task):
    answers, others, pairs = Counter(), Counter(), 0
    for i in range(600):
        clip, question, answer = make(task, SQUARES, NAMES, 2, data.keyed_rng(4, i))
        pairs += len(clip.indices) == 2
        answers[answer] += 1
        assert len(set(clip.indices.tolist())) == len(clip.indices)
        if task == "faster":
            a, b = re.fullmatch("which is faster: (.+) or (.+)[?]", question).groups()
            speed = {name: np.abs(measured(clip, name)).sum() for name in (a, b)}
            assert sorted(speed.values()) == [1, 2] and speed[answer] == 2
            others[answer == a] += 1
            continue
        pattern = {"direction": "which way does it move", "moves": "does it move", "speed": "how fast is it"}[task]
        name = re.fullmatch(f"{pattern}: (.+)[?]", question)[1]
        velocity = measured(clip, name)
        speed = np.abs(velocity).sum()
        if task == "direction":
            assert tuple(np.sign(velocity)) == WAYS[answer]
        elif task == "moves":
            assert answer == ("yes" if speed else "no")
        else:
            assert speed == SPEEDS[answer]
        for other in {NAMES[k] for k in clip.indices} - {name}:
            others[int(np.abs(measured(clip, other)).sum())] += 1
    number = {"direction": 4, "moves": 2, "speed": 2, "faster": 3}[task]
    assert len(answers) == number
    assert all(abs(n - 600 / number) < 5 * np.sqrt(600 / number) for n in answers.values()), answers
    assert all(
        abs(n - others.total() / len(others)) < 5 * np.sqrt(others.total() / len(others)) for n in others.values()
    )
    assert pairs == 600 if task == "faster" else abs(pairs - 300) < 5 * 12.3 and len(others) == 3


# --- jitter and many frames ---


def test_jitter_shakes_both_axes_by_at_most_its_size_and_zero_on_average():
    errors = []
    for i in range(60):
        clip = film(SQUARES, [0], [(0, 2)], 16, data.keyed_rng(5, i), sides=(12, 12), jitter=3, ground=GROUND)
        assert {found.sum() for found in masks(clip.frames, "red")} == {144}
        steps = np.diff(centres(masks(clip.frames, "red")), axis=0) - [0, 2]
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-6)
        steps = np.rint(steps)
        assert np.abs(steps).max() <= 6
        errors.append(steps[::2])  # every second step: no two of them share a frame
    errors = np.concatenate(errors)
    # The difference of two uniform whole numbers in -3 ... 3 has variance 2 * 3 * 4 / 3 = 8.
    assert np.abs(errors.mean(0)).max() < 5 * np.sqrt(8 / len(errors)) and errors.var(0) == pytest.approx(8, rel=0.25)


def test_more_frames_only_go_on_longer(things):
    for jitter in (0, 4):
        long = film(things[0], [1, 2], [(2, 0), (-1, 0)], 16, data.keyed_rng(6, 0), jitter=jitter)
        for n in (2, 5, 8):
            short = film(things[0], [1, 2], [(2, 0), (-1, 0)], n, data.keyed_rng(6, 0), jitter=jitter)
            np.testing.assert_array_equal(short.frames, long.frames[:n])


def test_sixteen_frames_tell_the_speed_and_fewer_tell_less():
    """The best straight line through the first n places, against the formula at the top of the module."""
    total, jitter = 500, 4
    errors, fast, slopes = {n: [] for n in (2, 4, 8, 16)}, [], {n: [] for n in (2, 4, 8, 16)}
    for i in range(total):
        rng = data.keyed_rng(7, i)
        speed = int(rng.integers(1, 3))
        clip = film(SQUARES, [0], [(0, speed)], 16, rng, sides=(12, 12), jitter=jitter, ground=GROUND)
        places = centres(masks(clip.frames, "red"))[:, 1]
        fast.append(speed == 2)
        for n in errors:
            t = np.arange(n) - (n - 1) / 2
            slopes[n].append(t @ places[:n] / (t @ t))
            errors[n].append(slopes[n][-1] - speed)
    right = {}
    for n in errors:
        deviation = np.sqrt(jitter * (jitter + 1) / 3 * 12 / (n * (n**2 - 1)))
        assert np.std(errors[n]) == pytest.approx(deviation, rel=0.15)
        right[n] = np.mean((np.array(slopes[n]) > 1.5) == np.array(fast))
        expected = 0.5 + 0.5 * math.erf(0.5 / deviation / np.sqrt(2))
        # Two frames move by whole pixels, so the normal law is rough there: 3 in 100 more are allowed for.
        assert abs(right[n] - expected) < 0.03 + 4 * np.sqrt(expected * (1 - expected) / total), (n, right[n], expected)
    assert right[2] < right[4] < right[8] < right[16] and 0.85 < right[8] < 0.95 and right[16] > 0.99


# --- the same again ---


@pytest.mark.parametrize("task", clips.TASKS)
def test_a_generator_decides_every_byte(task, things):
    def example(i):
        clip, question, answer = make(task, *things, 3, data.keyed_rng(8, i), jitter=1)
        return clip.frames.tobytes(), clip.velocities.tolist(), clip.indices.tolist(), question, answer

    six = [example(i) for i in range(6)]
    assert [example(i) for i in range(4)] == six[:4] and len({each[0] for each in six}) == 6


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"indices": [0, 1, 2]}, "Expected 1 to 2 integers"),
        ({"indices": []}, "Expected 1 to 2 integers"),
        ({"indices": [3]}, "There are 3 kinds"),
        ({"velocities": [0, 1]}, r"one velocity \(down, right\) of whole pixels a thing, got \[0, 1\]"),
        ({"velocities": [(0, 0.5)]}, "of whole pixels"),
        ({"velocities": [(1, 0), (1, 0)]}, "one velocity"),
        ({"velocities": [(1, 1)]}, "Things move along one axis"),
        ({"indices": [0, 1], "velocities": [(1, 0), (0, 1)]}, "two along the same one"),
        ({"frames": 1}, "frames is 1; expected 2 to 16"),
        ({"frames": 17}, "frames is 17"),
        ({"jitter": -1}, "jitter is -1"),
        ({"jitter": 9}, "jitter is 9"),
        ({"indices": [0, 1], "velocities": [(1, 0), (1, 0)], "jitter": 5}, "jitter is 5, the largest side 24"),
        ({"sides": (4, 9)}, r"sides are \(4, 9\)"),
        ({"ground": np.zeros((32, 32, 3), np.uint8)}, "The ground is"),
    ],
)
def test_film_refuses(arguments, message):
    arguments = {"indices": [0], "velocities": [(0, 1)], "frames": 4} | arguments
    with pytest.raises(ValueError, match=message) as error:
        film(SQUARES, rng=np.random.default_rng(0), **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "cutouts", "names", "message"),
    [
        ("velocity", SQUARES, NAMES, "no task 'velocity'.*direction, moves, speed, faster"),
        ("moves", SQUARES, ["red", "red", "blue"], "Expected different names"),
        ("moves", SQUARES, NAMES[:2], "one a cut-out and at least 2"),
        ("moves", SQUARES[:1], NAMES[:1], "at least 2"),
    ],
)
def test_make_refuses(task, cutouts, names, message):
    with pytest.raises(ValueError, match=message):
        make(task, cutouts, names, 4, np.random.default_rng(0))
