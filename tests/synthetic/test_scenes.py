"""kitlib.synthetic.scenes: cut-outs, exact boxes, answers recomputed in another way, balance, and errors."""

import itertools
import re
from collections import Counter, deque

import numpy as np
import pytest

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
    """300 scenes with their questions."""
    cutouts, names = train_objects
    out = []
    for i in range(300):
        rng = data.keyed_rng(1, i)
        indices, subject = contents(len(names), rng)
        scene = compose(cutouts, indices, (10, 24), rng)
        out.append((scene, subject, ask(scene, names, subject, rng)))
    return out


def pixels(scene):
    """int[n, 4] of the boxes."""
    return np.rint(scene.boxes * 64).astype(int)


def flooded(picture):
    """The white pixels that are connected to the border, found pixel by pixel."""
    white = (picture >= 250).all(-1)
    height, width = white.shape
    border = [(y, x) for y in range(height) for x in range(width) if y in (0, height - 1) or x in (0, width - 1)]
    queue = deque(pixel for pixel in border if white[pixel])
    seen = set(queue)
    while queue:
        y, x = queue.popleft()
        for pixel in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= pixel[0] < height and 0 <= pixel[1] < width and white[pixel] and pixel not in seen:
                seen.add(pixel)
                queue.append(pixel)
    return np.array([[(y, x) in seen for x in range(width)] for y in range(height)])


# --- cut-outs ---


def test_white_is_removed_outside_of_the_object_only():
    picture = np.full((1, 32, 32, 3), 255, np.uint8)
    picture[0, 8:24, 8:24] = (200, 30, 30)
    picture[0, 12:20, 12:20] = 255  # an eye
    alpha = cut_outs(picture)[0, ..., 3]
    inside = np.zeros((32, 32), bool)
    inside[8:24, 8:24] = True
    assert (alpha[inside] == 255).all() and (alpha[~inside] == 0).all()
    np.testing.assert_array_equal(cut_outs(picture)[0][inside][:, :3], picture[0][inside])


def test_the_flood_agrees_with_a_slow_search():
    images = captioned.emoji("train").images[:25]
    for picture, cutout in zip(images, cut_outs(images), strict=True):
        outside = flooded(picture)
        assert (cutout[..., 3][outside] == 0).all()
        deep = ~outside  # pixels whose eight neighbours belong to the object: opaque, of the same colour
        for y, x in itertools.product((-1, 0, 1), repeat=2):
            deep &= ~np.roll(np.pad(outside, 1), (y, x), (0, 1))[1:-1, 1:-1]
        assert (cutout[deep][:, 3] == 255).all()
        np.testing.assert_array_equal(cutout[deep][:, :3], picture[deep])


def test_a_rim_pixel_that_is_half_white_becomes_half_transparent_and_pure():
    picture = np.full((1, 32, 32, 3), 255, np.uint8)
    picture[0, 8:24, 8:24] = (255 + np.array([55, 105, 5])) / 2
    picture[0, 9:23, 9:23] = (55, 105, 5)
    cutout = cut_outs(picture)[0]
    assert cutout[8, 8:24].tolist()[1:-1] == [pytest.approx([55, 105, 5, 128], abs=1)] * 14
    assert (cutout[9:23, 9:23] == (55, 105, 5, 255)).all()


def test_on_white_a_cutout_looks_as_before():
    images = captioned.emoji("train").images
    cutouts = cut_outs(images).astype(float)
    alpha = cutouts[..., 3:] / 255
    again = alpha * cutouts[..., :3] + (1 - alpha) * 255
    error = np.abs(again - images).mean((1, 2, 3))
    assert error.mean() < 1.5 and error.max() < 6


def test_all_emoji_can_be_cut_out_and_nearly_all_can_be_scaled():
    cutouts = cut_outs(captioned.emoji("train").images)
    failed = 0
    for cutout in cutouts:
        try:
            scaled(cutout, 8)
        except ValueError:
            failed += 1
    assert failed <= 3  # "dotted line face"


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_easy_objects_have_their_size_and_touch_their_borders(split):
    cutouts, names = objects(split)
    assert cutouts.shape == (len(names), 32, 32, 4)
    for cutout, side in itertools.product(cutouts, (8, 10, 17, 28)):
        small = scaled(cutout, side)
        mask = small[..., 3] > 0
        assert 0.7 * side <= max(mask.shape) <= side and set(np.unique(small[..., 3])) <= {0, 255}
        assert all(line.any() for line in (mask[0], mask[-1], mask[:, 0], mask[:, -1])) and mask.mean() > 0.25


def test_easy_names_are_different_and_can_be_detected():
    names = [name for split in scenes.EASY for name in scenes.EASY[split]]
    assert len(set(names)) == len(names) and [len(scenes.EASY[split]) for split in scenes.EASY] == [48, 12, 20]
    for name in names:
        assert boxes.from_text(boxes.to_text([[0, 0, 0.5, 0.5]], [name]))[1] == [name]
    twins = objects("test", style="twemoji")
    assert twins[1] == objects("test")[1] and (twins[0] != objects("test")[0]).any()


def test_easy_objects_look_different():
    for split in scenes.EASY:
        cutouts, names = objects(split)
        views = []
        for cutout in cutouts:
            view = np.full((12, 12, 3), 128.0)
            small = scaled(cutout, 12)
            y, x = np.nonzero(small[..., 3])
            corner = (12 - np.array(small.shape[:2])) // 2
            view[y + corner[0], x + corner[1]] = small[y, x, :3]
            views.append(view.ravel())
        views = np.array(views)
        for (i, a), (j, b) in itertools.combinations(enumerate(views), 2):
            assert np.sqrt(np.mean(np.square(a - b))) > 25, (names[i], names[j])


# --- scenes ---


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
    """Root mean square difference between an object and the background under it, in the worst of 600 cases."""
    cutouts, names = train_objects
    worst = 255.0
    for seed in range(600):
        background = scenes.random_background(data.keyed_rng(4, seed))
        scene = compose(cutouts, [seed % len(names)], (14, 14), data.keyed_rng(5, seed), background=background)
        changed = (scene.image != background).any(-1)
        difference = scene.image[changed].astype(float) - background[changed]
        worst = min(worst, np.sqrt(np.mean(np.square(difference))))
    assert worst > 25, worst


def test_backgrounds_are_plain_gradients_or_noisy():
    looks = Counter()
    for seed in range(600):
        background = scenes.random_background(data.keyed_rng(0, seed)).astype(float)
        assert background.std((0, 1)).max() < 30  # soft
        step = np.abs(np.diff(background, axis=0)).mean()
        looks["plain" if (background == background[0, 0]).all() else "noisy" if step > 4 else "graded"] += 1
    assert min(looks.values()) > 200 - 5 * 12 and len(looks) == 3  # 600 draws: standard deviation 11.5


# --- questions ---


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
    assert all(tasks[task] == len(many) for task in ("count", "list", "present", "which")) and tasks["compare"] > 100


def test_relations_are_asked_where_kinds_differ(train_objects):
    cutouts, names = train_objects
    found = 0
    for seed in range(100):
        rng = data.keyed_rng(6, seed)
        scene = compose(cutouts, rng.permutation(len(names))[:4], (10, 16), rng)
        asked = ask(scene, names, 0, rng)
        if "relation" in asked:
            found += 1
            assert slow_answer(asked["relation"][0], scene, names) == asked["relation"][1]
    assert found > 90


@pytest.mark.parametrize(
    ("difference", "answer"),
    [
        ((0.0, -0.2), "left of"),
        ((0.09, 0.2), "right of"),
        ((-0.3, 0.1), "above"),
        ((0.3, -0.1), "below"),
        ((0.0, 0.15), None),  # not more than the margin
        ((0.0, 0.0), None),
        ((0.1, 0.2), None),  # half as much along the other axis
        ((0.3, 0.3), None),
    ],
)
def test_relations_by_hand(difference, answer):
    assert scenes.relation(np.array(difference)) == answer


def fast_scene(kinds, rng, different=False):
    """A scene without a picture whose boxes are random points: enough for questions."""
    indices, subject = contents(kinds, rng)
    indices = rng.permutation(kinds)[:3] if different else indices
    return Scene(None, np.tile(rng.random((len(indices), 2)), 2), indices), subject


def test_answers_are_balanced():
    """Each share is within 5 standard deviations of its value by construction."""
    names, answers, first = list("abcdef"), {}, Counter()
    for seed in range(3000):
        rng = data.keyed_rng(7, seed)
        scene, subject = fast_scene(len(names), rng, different=seed % 2 == 1)
        asked = ask(scene, names, subject, rng)
        for task, (question, answer) in asked.items():
            if task != "count" or seed % 2 == 0:
                answers.setdefault(task, Counter())[answer] += 1
            if task == "present":
                answers.setdefault(question, Counter())[answer] += 1
            if task == "which":
                first[question[len("which is there: ")] == answer] += 1
    expected = {"count": 10, "present": 2, "compare": 2, "relation": 4, "which": 6}
    expected |= {f"is there: {name}?": 2 for name in names}
    for task, number in expected.items():
        total = answers[task].total()
        shares = np.array(list(answers[task].values())) / total
        assert len(shares) == number and total > 300, (task, answers[task])
        assert np.abs(shares - 1 / number).max() < 5 * np.sqrt(1 / number * (1 - 1 / number) / total), answers[task]
    assert abs(first[True] - first.total() / 2) < 5 * np.sqrt(first.total()) / 2


def test_without_an_absent_kind_or_with_one_kind_there_are_fewer_questions():
    rng = np.random.default_rng(0)
    scene = Scene(None, np.zeros((2, 4)), np.array([0, 1]))
    assert set(ask(scene, ["a", "b"], 0, rng)) == {"count", "list"}
    assert set(ask(scene, ["a", "b", "c"], 0, rng)) == {"count", "list", "present", "which"}
    more = Scene(None, np.zeros((3, 4)), np.array([0, 1, 1]))
    assert ask(more, ["B", "a"], 1, rng)["list"] == ("which are there?", "a ; B")
    assert {ask(more, ["B", "a"], 1, rng)["compare"] for _ in range(50)} == {
        ("are there more: a than B?", "yes"),
        ("are there more: B than a?", "no"),
    }
    assert ask(more, ["B", "a", "c"], 2, rng)["count"] == ("how many: c?", "0")


def test_the_number_of_the_subject_is_balanced_from_the_least_on():
    """3, 4 or 5 of the subject, each in a third of 600 scenes; never more than 5 objects in all."""
    found = [contents(7, data.keyed_rng(9, i), 5, least=3) for i in range(600)]
    counts = Counter(int((indices == subject).sum()) for indices, subject in found)
    assert set(counts) == {3, 4, 5} and all(abs(n - 200) < 60 for n in counts.values())
    assert max(len(indices) for indices, _ in found) == 5


@pytest.mark.parametrize("most", [1, 2, 5, 9])
def test_contents_have_one_to_most_objects_of_at_most_four_kinds(most):
    counts = Counter()
    for seed in range(1000):
        indices, subject = contents(12, data.keyed_rng(8, seed), most)
        assert 1 <= len(indices) <= most and len(set(indices.tolist())) <= 4 and 0 <= subject < 12
        counts[(indices == subject).sum()] += 1
    mean = 1000 / (most + 1)
    assert len(counts) == most + 1 and max(abs(n - mean) for n in counts.values()) < 5 * np.sqrt(mean)


# --- reproducible draws ---


def test_a_generator_decides_every_byte(train_objects):
    cutouts, names = train_objects

    def example(i):
        rng = data.keyed_rng(9, i)
        indices, subject = contents(len(names), rng)
        scene = compose(cutouts, indices, (10, 20), rng)
        return scene.image.tobytes(), scene.boxes.tobytes(), indices.tolist(), ask(scene, names, subject, rng)

    eight = [example(i) for i in range(8)]
    assert [example(i) for i in range(5)] == eight[:5] and len({each[0] for each in eight}) == 8


def test_compose_does_not_change_its_arguments(train_objects):
    background, cutouts = BACKGROUNDS[0].copy(), train_objects[0].copy()
    compose(cutouts, [0, 1], (10, 20), np.random.default_rng(0), background=background)
    np.testing.assert_array_equal(background, BACKGROUNDS[0])
    np.testing.assert_array_equal(cutouts, train_objects[0])


# --- errors ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"indices": []}, "Expected 1 to 9 integers"),
        ({"indices": [0] * 10}, "Expected 1 to 9 integers"),
        ({"indices": [0.5]}, "Expected 1 to 9 integers"),
        ({"indices": [[0]]}, "Expected 1 to 9 integers"),
        ({"indices": [0, 48]}, r"There are 48 kinds, 0 to 47, got \[0, 48\]"),
        ({"indices": [-1]}, "There are 48 kinds"),
        ({"sides": (7, 10)}, r"sides are \(7, 10\); expected \(smallest, largest\) within 8 to 28"),
        ({"sides": (10, 29)}, "sides are"),
        ({"sides": (12, 10)}, "sides are"),
        (
            {"background": np.zeros((64, 64), np.uint8)},
            r"The background is uint8\[64, 64\]; expected uint8\[64, 64, 3\]",
        ),
        ({"background": np.zeros((64, 64, 3))}, "The background is float64"),
    ],
)
def test_compose_refuses(arguments, message, train_objects):
    arguments = {"indices": [0], "sides": (8, 28)} | arguments
    with pytest.raises(ValueError, match=message):
        compose(
            train_objects[0], arguments.pop("indices"), arguments.pop("sides"), np.random.default_rng(0), **arguments
        )


def test_objects_without_a_free_position_are_refused(train_objects, monkeypatch):
    monkeypatch.setattr(scenes, "TRIES", 0)
    with pytest.raises(ValueError, match="2 objects of 8 pixels found no position: take fewer"):
        compose(train_objects[0], [0, 1], (28, 28), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cut_outs(np.zeros((32, 32, 3), np.uint8)), r"uint8\[32, 32, 3\]; expected uint8\[n, H, W, 3\]"),
        (lambda: cut_outs(np.zeros((1, 32, 32, 3))), "The pictures are float64"),
        (lambda: cut_outs(np.full((2, 9, 9, 3), 255, np.uint8)), "Picture 0 is white: there is no object"),
        (lambda: scaled(np.zeros((9, 9, 4), np.uint8), 8), "Nothing is left of the object at side 8"),
        (lambda: scaled(np.full((9, 9, 4), 255, np.uint8), 7), "side is 7 pixels; expected 8 to 28"),
        (lambda: scaled(np.full((9, 9, 4), 255, np.uint8), 29), "side is 29 pixels"),
        (lambda: contents(1, np.random.default_rng(0)), "at least 2 kinds and 1 to 9 objects, got 1 kinds"),
        (lambda: contents(5, np.random.default_rng(0), 10), "got 5 kinds, 0 to 10"),
        (lambda: contents(5, np.random.default_rng(0), 0), "got 5 kinds, 0 to 0"),
        (lambda: contents(5, np.random.default_rng(0), 3, least=4), "got 5 kinds, 4 to 3"),
        (lambda: objects("dev"), r"Unknown split of the emoji 'dev'.*Known: train, valid, test\."),
        (lambda: objects("train", style="twemoji"), "'twemoji' has no split 'train'"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "subject", "message"),
    [
        (["a", "a", "b"], 0, "Names must be different"),
        (["a", "b;c", "d"], 0, "Names must be different from each other and have no ';'"),
        (["a", "b"], 0, "There are 2 kinds"),
        (["a", "b", "c"], 3, "There are 3 kinds"),
    ],
)
def test_ask_refuses(names, subject, message):
    scene = Scene(None, np.zeros((1, 4)), np.array([2]))
    with pytest.raises(ValueError, match=message):
        ask(scene, names, subject, np.random.default_rng(0))
