"""kitlib.synthetic.scenes: cut-outs, exact boxes, answers recomputed in another way, balance, and errors."""

import itertools
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from scipy import ndimage

from kitlib import data
from kitlib.data import captioned
from kitlib.metrics import detection as detection_metrics
from kitlib.multimodal import boxes
from kitlib.synthetic import scenes
from kitlib.synthetic.scenes import Scene, ask, compose, contents, cut_outs, objects, scaled

BACKGROUNDS = [np.full((64, 64, 3), colour, np.uint8) for colour in ((255, 0, 255), (0, 255, 0))]


@pytest.fixture(scope="module")
def train_objects():
    return objects("train")


@pytest.fixture(scope="module")
def many(train_objects):
    """300 scenes with their questions, and 100 of four different kinds, which allow relations."""
    (cutouts, names), out = train_objects, []
    for i in range(400):
        rng = data.keyed_rng(1, i)
        indices, subject = contents(len(names), rng) if i < 300 else (rng.permutation(len(names))[:4], 0)
        scene = compose(cutouts, indices, (10, 24) if i < 300 else (10, 16), rng)
        out.append((scene, subject, ask(scene, names, subject, rng)))
    return out


def pixels(scene):
    """int[n, 4] of the boxes."""
    return np.rint(scene.boxes * 64).astype(int)


def test_white_is_removed_outside_of_the_object_only_and_a_rim_that_is_half_white_becomes_half_transparent():
    picture = np.full((1, 32, 32, 3), 255, np.uint8)
    picture[0, 8:24, 8:24] = (200, 30, 30)
    picture[0, 12:20, 12:20] = 255  # an eye
    cutout = cut_outs(picture)[0]
    np.testing.assert_array_equal(cutout[..., 3], np.pad(np.full((16, 16), 255), 8))
    np.testing.assert_array_equal(cutout[8:24, 8:24, :3], picture[0, 8:24, 8:24])
    picture[0, 8:24, 8:24] = (255 + np.array([55, 105, 5])) / 2
    picture[0, 9:23, 9:23] = (55, 105, 5)
    cutout = cut_outs(picture)[0]
    assert cutout[8, 8:24].tolist()[1:-1] == [pytest.approx([55, 105, 5, 128], abs=1)] * 14
    assert (cutout[9:23, 9:23] == (55, 105, 5, 255)).all()


def test_the_flood_is_scipys_part_that_holds_the_border():
    images = captioned.emoji("train").images[:25]
    for picture, cutout in zip(images, cut_outs(images), strict=True):
        parts, _ = ndimage.label(np.pad((picture >= 250).all(-1), 1, constant_values=True))
        outside = (parts == parts[0, 0])[1:-1, 1:-1]
        assert (cutout[..., 3][outside] == 0).all()
        # Pixels whose eight neighbours belong to the object are opaque and of the same colour.
        deep = ndimage.binary_erosion(~outside, np.ones((3, 3)), border_value=1)
        assert (cutout[deep][:, 3] == 255).all()
        np.testing.assert_array_equal(cutout[deep][:, :3], picture[deep])


def test_all_emoji_can_be_cut_out_and_look_as_before_on_white_and_nearly_all_can_be_scaled():
    images = captioned.emoji("train").images
    cutouts = cut_outs(images)
    alpha = cutouts[..., 3:].astype(float) / 255
    error = np.abs(alpha * cutouts[..., :3] + (1 - alpha) * 255 - images).mean((1, 2, 3))
    assert error.mean() < 1.5 and error.max() < 6
    failed = 0
    for cutout in cutouts:
        try:
            scaled(cutout, 8)
        except ValueError:
            failed += 1
    assert failed <= 3  # "dotted line face"


@pytest.mark.parametrize("split", scenes.EASY)
def test_easy_objects_have_their_size_touch_their_borders_and_look_different(split):
    cutouts, names = objects(split)
    assert cutouts.shape == (len(names), 32, 32, 4) and len(names) == {"train": 48, "valid": 12, "test": 20}[split]
    assert sorted(names) == sorted(
        {*names}.difference(*(scenes.EASY[other] for other in scenes.EASY if other != split))
    )
    assert all(boxes.from_text(boxes.to_text([[0, 0, 0.5, 0.5]], [name]))[1] == [name] for name in names)
    for cutout, side in itertools.product(cutouts, (8, 10, 17, 28)):
        small = scaled(cutout, side)
        mask = small[..., 3] > 0
        assert 0.7 * side <= max(mask.shape) <= side and set(np.unique(small[..., 3])) <= {0, 255}
        assert all(line.any() for line in (mask[0], mask[-1], mask[:, 0], mask[:, -1])) and mask.mean() > 0.25
    views = np.full((len(names), 64, 64, 3), 128.0)
    for view, cutout in zip(views, cutouts, strict=True):
        small = scaled(cutout, 12)
        scenes.paste(view, small, (12 - np.array(small.shape[:2])) // 2)
    for (i, a), (j, b) in itertools.combinations(enumerate(views[:, :12, :12]), 2):
        assert np.sqrt(np.mean(np.square(a - b))) > 25, (names[i], names[j])
    if split == "test":
        twins = objects("test", style="twemoji")
        assert twins[1] == names and (twins[0] != cutouts).any()


@pytest.mark.parametrize("seed", range(40))
def test_boxes_hold_exactly_the_changed_pixels(seed, train_objects):
    """The same scene on two backgrounds that differ everywhere: where the two pictures agree there is an object."""
    cutouts, names = train_objects
    indices, _ = contents(len(names), data.keyed_rng(2, seed))
    first, second = (compose(cutouts, indices, (8, 28), data.keyed_rng(3, seed), background=g) for g in BACKGROUNDS)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    seen = (first.image == second.image).all(-1)
    covered = np.zeros((64, 64), int)
    for i, (y0, x0, y1, x1) in zip(indices, pixels(first), strict=True):
        mask = seen[y0:y1, x0:x1]
        assert all(line.any() for line in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))  # tight
        covered[y0:y1, x0:x1] += 1
        # The object is of this kind: for some side, all of its pixels are visible and no others.
        sides = (scaled(cutouts[i], side) for side in range(8, 29))
        fits = [s for s in sides if s.shape[:2] == mask.shape and ((s[..., 3] > 0) == mask).all()]
        patch = first.image[y0:y1, x0:x1]
        assert any((s[mask][:, :3] == patch[mask]).all() for s in fits)
    assert covered.max() == 1 and not (seen & (covered == 0)).any()
    np.testing.assert_array_equal(first.image[~seen], BACKGROUNDS[0][~seen])
    np.testing.assert_array_equal(first.boxes * 64, pixels(first))


def test_objects_are_apart_and_inside_the_picture(many):
    for scene, _, _ in many:
        assert scene.image.shape == (64, 64, 3) and scene.image.dtype == np.uint8
        assert 1 <= len(scene.indices) <= 9 and scene.boxes.min() >= 0 and scene.boxes.max() <= 1
        for a, b in itertools.combinations(pixels(scene), 2):
            assert max(b[0] - a[2], a[0] - b[2], b[1] - a[3], a[1] - b[3]) >= 1
        assert (detection_metrics.iou(scene.boxes, scene.boxes) == np.eye(len(scene.boxes))).all()


def test_nine_large_objects_become_smaller_and_one_keeps_its_size(train_objects):
    cutouts, _ = train_objects
    ball = train_objects[1].index("soccer ball")
    for seed in range(30):
        scene = compose(cutouts, [ball] * 9, (28, 28), data.keyed_rng(0, seed))
        assert pixels(scene)[:, 2].max() <= 64 and len(scene.boxes) == 9
        heights = np.diff(pixels(scene)[:, [0, 2]])
        assert heights.min() >= 7 and heights.max() < 27
        alone = compose(cutouts, [ball], (28, 28), data.keyed_rng(0, seed))
        assert np.diff(pixels(alone)[:, [0, 2]]) >= 27


def test_objects_shrink_no_further_than_asked(train_objects, monkeypatch):
    """Nine objects of 14 pixels: where not all fit, all become 12; none is smaller, which `SMALLEST` would allow."""
    asked, scaled_before, found = [], scenes.scaled, 0
    monkeypatch.setattr(scenes, "scaled", lambda cutout, side: asked.append(side) or scaled_before(cutout, side))
    for seed in range(60):
        try:
            found += len(compose(train_objects[0], np.arange(9), (14, 14), data.keyed_rng(8, seed), smallest=12).boxes)
        except ValueError as error:
            assert "9 objects of 12 pixels found no position" in str(error)
    assert set(asked) == {12, 14} and found > 9 * 30


def test_objects_stand_out_from_every_background(train_objects):
    """Root mean square difference between an object and the background under it, in each of 600 cases."""
    for seed in range(600):
        background = scenes.random_background(data.keyed_rng(4, seed))
        before = background.copy()
        scene = compose(train_objects[0], [seed % 48], (14, 14), data.keyed_rng(5, seed), background=background)
        np.testing.assert_array_equal(background, before)
        changed = (scene.image != background).any(-1)
        assert np.sqrt(np.mean(np.square(scene.image[changed].astype(float) - background[changed]))) > 25


def test_backgrounds_are_plain_gradients_or_noisy():
    looks = Counter()
    for seed in range(600):
        background = scenes.random_background(data.keyed_rng(0, seed)).astype(float)
        assert background.std((0, 1)).max() < 30  # soft
        step = np.abs(np.diff(background, axis=0)).mean()
        looks["plain" if (background == background[0, 0]).all() else "noisy" if step > 4 else "graded"] += 1
    assert min(looks.values()) > 200 - 5 * 12 and len(looks) == 3  # 600 draws: standard deviation 11.5


def slow_answer(question, scene, names):
    """The correct answer from boxes and indices alone, computed in another way than the module does."""
    seen = [names[i] for i in scene.indices]
    if question == "which are there?":
        return " ; ".join(name for name in sorted(names, key=str.lower) if name in seen)
    if match := re.fullmatch("how many: (.+)[?]", question):
        return str(seen.count(match[1]))
    if match := re.fullmatch("is there: (.+)[?]", question):
        return "yes" if match[1] in seen else "no"
    if match := re.fullmatch("which is there: (.+) or (.+)[?]", question):
        (answer,) = [name for name in match.groups() if name in seen]
        return answer
    if match := re.fullmatch("are there more: (.+) than (.+)[?]", question):
        assert set(match.groups()) <= set(seen)
        return "yes" if seen.count(match[1]) > seen.count(match[2]) else "no"
    a, b = re.fullmatch("where is: (.+), seen from: (.+)[?]", question).groups()
    assert seen.count(a) == seen.count(b) == 1
    (ay, ax), (by, bx) = ((box[0] + box[2], box[1] + box[3]) for box in pixels(scene)[[seen.index(a), seen.index(b)]])
    true = {  # centres in half pixels: a picture has 128 per side
        "left of": bx - ax > 0.15 * 128 and 2 * abs(ay - by) < bx - ax,
        "right of": ax - bx > 0.15 * 128 and 2 * abs(ay - by) < ax - bx,
        "above": by - ay > 0.15 * 128 and 2 * abs(ax - bx) < by - ay,
        "below": ay - by > 0.15 * 128 and 2 * abs(ax - bx) < ay - by,
    }
    assert sum(true.values()) == 1
    return max(true, key=true.get)


def test_answers_are_true(many, train_objects):
    tasks = Counter()
    for scene, subject, asked in many:
        assert set(asked) <= {"count", "present", "which", "list", "relation", "compare"}
        for task, (question, answer) in asked.items():
            assert type(question) is type(answer) is str and answer == slow_answer(question, scene, train_objects[1])
            tasks[task] += 1
        assert asked["count"][0] == f"how many: {train_objects[1][subject]}?"
        counts = Counter(scene.indices.tolist())
        assert ("compare" in asked) == (len(set(counts.values())) > 1)
    assert all(tasks[task] == len(many) for task in ("count", "list", "present", "which"))
    assert tasks["compare"] > 100 and sum("relation" in asked for *_, asked in many[300:]) > 90


@pytest.mark.parametrize(("difference", "answer"), [
    ((0.0, -0.2), "left of"), ((0.09, 0.2), "right of"), ((-0.3, 0.1), "above"), ((0.3, -0.1), "below"),
    ((0.0, 0.15), None), ((0.0, 0.0), None),  # not more than the margin
    ((0.1, 0.2), None), ((0.3, 0.3), None),  # half as much along the other axis
])  # fmt: skip
def test_relations_by_hand(difference, answer):
    assert scenes.relation(np.array(difference)) == answer


def test_answers_are_balanced():
    """Each share is within 5 standard deviations of its value by construction. The scenes have no picture, and their
    boxes are random points: enough for questions."""
    names, answers = list("abcdef"), defaultdict(Counter)
    for seed in range(3000):
        rng = data.keyed_rng(7, seed)
        indices, subject = contents(len(names), rng)
        indices = rng.permutation(len(names))[:3] if seed % 2 else indices
        scene = Scene(None, np.tile(rng.random((len(indices), 2)), 2), indices)
        for task, (question, answer) in ask(scene, names, subject, rng).items():
            if task != "count" or seed % 2 == 0:
                answers[task][answer] += 1
            if task == "present":
                answers[question][answer] += 1
            if task == "which":
                answers["first"][question[len("which is there: ")] == answer] += 1
    expected = {"count": 10, "present": 2, "compare": 2, "relation": 4, "which": 6, "first": 2}
    for task, number in (expected | {f"is there: {name}?": 2 for name in names}).items():
        total = answers[task].total()
        shares = np.array(list(answers[task].values())) / total
        assert len(shares) == number and total > 300, (task, answers[task])
        assert np.abs(shares - 1 / number).max() < 5 * np.sqrt(1 / number * (1 - 1 / number) / total), answers[task]


def test_without_an_absent_kind_or_with_one_kind_there_are_fewer_questions():
    rng = np.random.default_rng(0)
    scene = Scene(None, np.zeros((2, 4)), np.array([0, 1]))
    assert set(ask(scene, ["a", "b"], 0, rng)) == {"count", "list"}
    assert set(ask(scene, ["a", "b", "c"], 0, rng)) == {"count", "list", "present", "which"}
    more = Scene(None, np.zeros((3, 4)), np.array([0, 1, 1]))
    assert ask(more, ["B", "a"], 1, rng)["list"] == ("which are there?", "a ; B")
    compared = {ask(more, ["B", "a"], 1, rng)["compare"] for _ in range(50)}
    assert compared == {("are there more: a than B?", "yes"), ("are there more: B than a?", "no")}
    assert ask(more, ["B", "a", "c"], 2, rng)["count"] == ("how many: c?", "0")


@pytest.mark.parametrize(("least", "most"), [(0, 1), (0, 2), (0, 5), (0, 9), (3, 5)])
def test_contents_have_one_to_most_objects_of_at_most_four_kinds_and_as_often_each_number_of_the_subject(least, most):
    counts = Counter()
    for seed in range(1000):
        indices, subject = contents(12, data.keyed_rng(8, seed), most, least)
        assert 1 <= len(indices) <= most and len(set(indices.tolist())) <= 4 and 0 <= subject < 12
        counts[int((indices == subject).sum())] += 1
    mean = 1000 / (most + 1 - least)
    assert set(counts) == {*range(least, most + 1)}
    assert max(abs(n - mean) for n in counts.values()) < 5 * np.sqrt(mean)


def test_a_generator_decides_every_byte(train_objects):
    cutouts, names = train_objects
    before = cutouts.copy()

    def example(i):
        rng = data.keyed_rng(9, i)
        indices, subject = contents(len(names), rng)
        scene = compose(cutouts, indices, (10, 20), rng)
        return scene.image.tobytes(), scene.boxes.tobytes(), indices.tolist(), ask(scene, names, subject, rng)

    eight = [example(i) for i in range(8)]
    assert [example(i) for i in range(5)] == eight[:5] and len({each[0] for each in eight}) == 8
    np.testing.assert_array_equal(cutouts, before)


RNG, WHITE = np.random.default_rng(0), np.full((9, 9, 4), 255, np.uint8)
ONE = Scene(None, np.zeros((1, 4)), np.array([2]))


@pytest.mark.parametrize(("call", "message"), [
    (lambda c: compose(c, [], (8, 28), RNG), "Expected 1 to 9 integers"),
    (lambda c: compose(c, [0] * 10, (8, 28), RNG), "Expected 1 to 9 integers"),
    (lambda c: compose(c, [0.5], (8, 28), RNG), "Expected 1 to 9 integers"),
    (lambda c: compose(c, [0, 48], (8, 28), RNG), r"There are 48 kinds, 0 to 47, got \[0, 48\]"),
    (lambda c: compose(c, [0], (7, 10), RNG), r"sides are \(7, 10\); expected \(smallest, largest\) within 8 to 28"),
    (lambda c: compose(c, [0], (12, 10), RNG), "sides are"),
    (lambda c: compose(c, [0], (8, 28), RNG, background=WHITE), r"background is uint8\[9, 9, 4\]; expected uint8"),
    (lambda c: cut_outs(WHITE), r"uint8\[9, 9, 4\]; expected uint8\[n, H, W, 3\]"),
    (lambda c: cut_outs(np.full((2, 9, 9, 3), 255, np.uint8)), "Picture 0 is white: there is no object"),
    (lambda c: scaled(0 * WHITE, 8), "Nothing is left of the object at side 8"),
    (lambda c: scaled(WHITE, 29), "side is 29 pixels; expected 8 to 28"),
    (lambda c: contents(1, RNG), "at least 2 kinds and 1 to 9 objects, got 1 kinds"),
    (lambda c: contents(5, RNG, 3, least=4), "got 5 kinds, 4 to 3"),
    (lambda c: ask(ONE, ["a", "a", "b"], 0, RNG), "Names must be different"),
    (lambda c: ask(ONE, ["a", "b;c", "d"], 0, RNG), "Names must be different from each other and have no ';'"),
    (lambda c: ask(ONE, ["a", "b", "c"], 3, RNG), "There are 3 kinds"),
])  # fmt: skip
def test_bad_arguments_are_refused(call, message, train_objects):
    with pytest.raises(ValueError, match=message):
        call(train_objects[0])
