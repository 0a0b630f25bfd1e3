"""kitlib.synthetic.video: motion measured in the pixels; one frame does not show it, and more frames show it better."""

import math
import re
from collections import Counter

import numpy as np
import pytest

from kitlib import data
from kitlib.synthetic import scenes
from kitlib.synthetic.video import DIRECTIONS, QUESTION_KINDS, SPEEDS, draw_question, render

BACKGROUND = np.full((64, 64, 3), 128, np.uint8)
COLOURS = {"red": (250, 0, 0), "blue": (0, 0, 250), "lime": (100, 250, 0)}
NAMES = list(COLOURS)
SQUARES = np.array([np.full((24, 24, 4), (*colour, 255), np.uint8) for colour in COLOURS.values()])


OBJECTS = scenes.objects("train")


def masks(frames, name):
    """Where each frame shows this square: bool[n, 64, 64]."""
    return (frames == np.array(COLOURS[name])).all(-1)


def shift(before, after):
    """(down, right) that turns one picture into the other on the torus, by circular cross-correlation."""
    spectra = np.conj(np.fft.fft2(before, axes=(0, 1))) * np.fft.fft2(after, axes=(0, 1))
    peak = np.fft.ifft2(spectra, axes=(0, 1)).real.reshape(64, 64, -1).sum(-1).argmax()
    return [(int(d) + 32) % 64 - 32 for d in np.unravel_index(peak, (64, 64))]


def centres(found):
    """float[n, 2], the centres of masks bool[n, 64, 64] by the circular mean, followed across the border."""
    angle = np.exp(2j * np.pi * np.arange(64) / 64)
    sums = np.stack([found.sum(2) @ angle, found.sum(1) @ angle], axis=-1)
    return np.unwrap(np.angle(sums), axis=0) * 64 / (2 * np.pi)


@pytest.mark.parametrize("speed", SPEEDS.values())
@pytest.mark.parametrize("way", DIRECTIONS)
def test_every_step_is_the_velocity(way, speed):
    velocity = speed * np.array(DIRECTIONS[way])
    for seed in range(6):
        video = render(OBJECTS[0], [seed * 7], [velocity], 16, data.keyed_rng(0, seed), background=BACKGROUND)
        assert video.frames.shape == (16, 64, 64, 3) and video.frames.dtype == np.uint8
        for t, frame in enumerate(video.frames):
            np.testing.assert_array_equal(frame, np.roll(video.frames[0], t * velocity, (0, 1)))
        assert video.velocities.tolist() == [velocity.tolist()] and video.indices.tolist() == [seed * 7]


def test_the_centres_are_those_of_the_pixels():
    """A pixel is a square with its index at its upper left, so its own centre lies half a pixel further."""
    for seed in range(6):
        video = render(SQUARES, [0, 1], [(0, 2), (0, -9)], 8, data.keyed_rng(5, seed), jitter=3, sides=(12, 20))
        assert video.centres.shape == (8, 2, 2) and (video.centres >= 0).all() and (video.centres < 64).all()
        for k, name in enumerate(NAMES[:2]):
            apart = centres(masks(video.frames, name)) + 0.5 - video.centres[:, k]
            np.testing.assert_allclose((apart + 32) % 64 - 32, 0, atol=1e-6)


def test_one_frame_does_not_show_the_motion():
    """The first frame is the same for every motion; the others are shifts of it, all shifts equally likely."""
    for seed in range(20):
        one = [[speed * np.array(way)] for way in DIRECTIONS.values() for speed in (0, 1, 2)]
        two = [[(0, a), (0, b)] for a in (-2, -1, 0, 1, 2) for b in (-2, 0, 1) if a or b]
        for motions in (one, two):
            videos = [render(SQUARES, range(len(v)), v, 2, data.keyed_rng(0, seed)) for v in motions]
            assert len({video.frames[0].tobytes() for video in videos}) == 1
    kwargs = {"sides": (12, 12), "background": BACKGROUND}
    for velocity in DIRECTIONS.values():
        videos = [render(SQUARES, [0], [velocity], 16, data.keyed_rng(1, i), **kwargs) for i in range(400)]
        found = np.concatenate([centres(masks(video.frames[15:], "red")) for video in videos])
        counts = np.stack([np.bincount((found[:, axis] // 8 % 8).astype(int), minlength=8) for axis in (0, 1)])
        assert np.abs(counts - 50).max() < 5 * np.sqrt(50)


@pytest.mark.parametrize("axis", [0, 1])
def test_two_objects_move_independently_and_never_meet(axis):
    for seed in range(30):
        rng, velocities = data.keyed_rng(2, seed), np.zeros((2, 2), int)
        velocities[:, axis] = rng.integers(-2, 3, 2)
        video = render(SQUARES, [2, 0], velocities, 16, rng, background=BACKGROUND)
        for name, velocity in zip(("lime", "red"), velocities, strict=True):
            found = masks(video.frames, name)
            side = math.isqrt(found[0].sum())
            assert found[0].sum() == side**2 and 12 <= side <= 24
            for t in range(16):
                np.testing.assert_array_equal(found[t], np.roll(found[0], t * velocity, (0, 1)))
        seen = masks(video.frames, "lime") | masks(video.frames, "red")
        np.testing.assert_array_equal(seen, (video.frames != BACKGROUND).any(-1))
    for _ in range(6):  # nor with jitter
        video = render(SQUARES, [0, 1], np.roll([(1, 0), (-2, 0)], axis, 1), 16, rng, sides=(24, 24), jitter=4)
        assert {masks(video.frames, name)[t].sum() for name in ("red", "blue") for t in range(16)} == {24**2}


def measured(video, name):
    """The displacement from the first frame to the second, found in the pixels."""
    return tuple(shift(*masks(video.frames, name)[:2]))


@pytest.mark.slow
@pytest.mark.parametrize("task", QUESTION_KINDS)
def test_answers_agree_with_the_pixels_and_are_balanced(task):
    answers, others, pairs = Counter(), Counter(), 0
    for i in range(600):
        video, question, answer = draw_question(task, SQUARES, NAMES, 2, data.keyed_rng(4, i))
        pairs += len(video.indices) == 2
        answers[answer] += 1
        assert len(set(video.indices.tolist())) == len(video.indices)
        if task == "faster":
            a, b = re.fullmatch("which is faster: (.+) or (.+)[?]", question).groups()
            speed = {name: np.abs(measured(video, name)).sum() for name in (a, b)}
            assert sorted(speed.values()) == [1, 2] and speed[answer] == 2
            others[answer == a] += 1
            continue
        pattern = {"direction": "which way does it move", "moves": "does it move", "speed": "how fast is it"}[task]
        name = re.fullmatch(f"{pattern}: (.+)[?]", question)[1]
        velocity = measured(video, name)
        speed = np.abs(velocity).sum()
        if task == "direction":
            assert tuple(np.sign(velocity)) == DIRECTIONS[answer]
        elif task == "moves":
            assert answer == ("yes" if speed else "no")
        else:
            assert speed == SPEEDS[answer]
        for other in {NAMES[k] for k in video.indices} - {name}:
            others[int(np.abs(measured(video, other)).sum())] += 1
    number = {"direction": 4, "moves": 2, "speed": 2, "faster": 3}[task]
    assert len(answers) == number
    for counts in (answers, others):
        mean = counts.total() / len(counts)
        assert all(abs(n - mean) < 5 * np.sqrt(mean) for n in counts.values()), counts
    assert pairs == 600 if task == "faster" else abs(pairs - 300) < 5 * 12.3 and len(others) == 3


@pytest.mark.parametrize("pace", [1, 8, 15])
def test_a_pace_multiplies_every_speed(pace):
    """The same draws at another pace: all velocities are so many times as large, and the answers stay."""
    for i in range(40):
        task = QUESTION_KINDS[i % 4]
        slow, *asked = draw_question(task, SQUARES, NAMES, 3, data.keyed_rng(5, i))
        fast, *again = draw_question(task, SQUARES, NAMES, 3, data.keyed_rng(5, i), pace=pace)
        assert asked == again and (fast.velocities == pace * slow.velocities).all()
        np.testing.assert_array_equal(fast.frames[0], slow.frames[0])
        for index, velocity in zip(fast.indices, fast.velocities, strict=True):
            assert measured(fast, NAMES[index]) == tuple(velocity.tolist())


def test_jitter_shifts_both_axes_by_at_most_its_size_and_zero_on_average():
    errors = []
    for i in range(60):
        kwargs = {"sides": (12, 12), "jitter": 3, "background": BACKGROUND}
        video = render(SQUARES, [0], [(0, 2)], 16, data.keyed_rng(5, i), **kwargs)
        assert {found.sum() for found in masks(video.frames, "red")} == {144}
        steps = np.diff(centres(masks(video.frames, "red")), axis=0) - [0, 2]
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-6)
        steps = np.rint(steps)
        assert np.abs(steps).max() <= 6
        errors.append(steps[::2])  # every second step: no two of them share a frame
    errors = np.concatenate(errors)
    # The difference of two uniform whole numbers in -3 ... 3 has variance 2 * 3 * 4 / 3 = 8.
    assert np.abs(errors.mean(0)).max() < 5 * np.sqrt(8 / len(errors)) and errors.var(0) == pytest.approx(8, rel=0.25)


def test_the_first_frames_do_not_depend_on_the_number_of_frames():
    for jitter in (0, 4):
        long = render(OBJECTS[0], [1, 2], [(2, 0), (-1, 0)], 16, data.keyed_rng(6, 0), jitter=jitter)
        for n in (2, 5, 8):
            short = render(OBJECTS[0], [1, 2], [(2, 0), (-1, 0)], n, data.keyed_rng(6, 0), jitter=jitter)
            np.testing.assert_array_equal(short.frames, long.frames[:n])


@pytest.mark.slow
def test_sixteen_frames_show_the_speed_and_fewer_show_it_less_well():
    """A straight line fitted to the first n positions, compared with the formula at the top of the module."""
    total, jitter = 500, 4
    errors, fast, slopes = {n: [] for n in (2, 4, 8, 16)}, [], {n: [] for n in (2, 4, 8, 16)}
    for i in range(total):
        rng = data.keyed_rng(7, i)
        speed = int(rng.integers(1, 3))
        video = render(SQUARES, [0], [(0, speed)], 16, rng, sides=(12, 12), jitter=jitter, background=BACKGROUND)
        positions = centres(masks(video.frames, "red"))[:, 1]
        fast.append(speed == 2)
        for n in errors:
            t = np.arange(n) - (n - 1) / 2
            slopes[n].append(t @ positions[:n] / (t @ t))
            errors[n].append(slopes[n][-1] - speed)
    right = {}
    for n in errors:
        deviation = np.sqrt(jitter * (jitter + 1) / 3 * 12 / (n * (n**2 - 1)))
        assert np.std(errors[n]) == pytest.approx(deviation, rel=0.15)
        right[n] = np.mean((np.array(slopes[n]) > 1.5) == np.array(fast))
        expected = 0.5 + 0.5 * math.erf(0.5 / deviation / np.sqrt(2))
        # Two frames differ by whole pixels, so a normal error is a rough model there: 3 in 100 more are allowed.
        assert abs(right[n] - expected) < 0.03 + 4 * np.sqrt(expected * (1 - expected) / total), (n, right[n], expected)
    assert right[2] < right[4] < right[8] < right[16] and 0.85 < right[8] < 0.95 and right[16] > 0.99


@pytest.mark.parametrize(("arguments", "message"), [
    ({"indices": [0, 1, 2]}, "Expected 1 to 2 integers"),
    ({"velocities": [(0, 0.5)]}, r"one velocity \(down, right\) per object, in whole pixels, got \[\[0.0, 0.5\]\]"),
    ({"velocities": [(1, 1)]}, "Objects move along one axis"),
    ({"indices": [0, 1], "velocities": [(1, 0), (0, 1)]}, "two along the same one"),
    ({"frames": 1}, "frames is 1; expected 2 to 16"), ({"jitter": 9}, "jitter is 9"),
    ({"indices": [0, 1], "velocities": [(1, 0), (1, 0)], "jitter": 5}, "jitter is 5, the largest side 24"),
])  # fmt: skip
def test_render_refuses(arguments, message):
    arguments = {"indices": [0], "velocities": [(0, 1)], "frames": 4} | arguments
    with pytest.raises(ValueError, match=message):
        render(SQUARES, rng=np.random.default_rng(0), **arguments)


@pytest.mark.parametrize(("task", "kinds", "names", "pace", "message"), [
    ("velocity", 3, NAMES, 1, "Unknown kind of question 'velocity'"),
    ("moves", 3, ["red", "red", "blue"], 1, "Expected different names"),
    ("moves", 3, NAMES[:2], 1, "one per cut-out and at least 2"), ("moves", 1, NAMES[:1], 1, "at least 2"),
    ("speed", 3, NAMES, 0, "pace is 0; expected 1 to 15 pixels per frame"),
    ("speed", 3, NAMES, 16, "pace is 16"),  # a fast object would move by half the torus, to the left as to the right
])  # fmt: skip
def test_draw_question_refuses(task, kinds, names, pace, message):
    with pytest.raises(ValueError, match=message):
        draw_question(task, SQUARES[:kinds], names, 4, np.random.default_rng(0), pace=pace)
