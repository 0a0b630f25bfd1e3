"""kitlib.data.image_batches: contents and order of batches, exact resume, shards, augmentation and bad input."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from resuming import check_exact_resume, same

from kitlib import data
from kitlib.data import image_batches
from kitlib.data.image_batches import batches
from kitlib.data.images import Records


def set_of(images):
    return data.from_arrays(images, np.arange(len(images)) % 5, name="numbered", class_names=list("abcde"))


def numbered(n, size=(28, 28), channels=1):
    """n pictures; picture i is filled with the value i and has label i % 5."""
    return set_of(np.ones((n, *size, channels), np.uint8) * np.arange(n, dtype=np.uint8)[:, None, None, None])


def noise(n, size=(28, 28), channels=1):
    return set_of(np.random.default_rng(0).integers(0, 256, (n, *size, channels), np.uint8))


def ids(batch):
    """The indices of the pictures of `numbered` in a batch."""
    return np.rint((batch["image"][:, 0, 0, 0] + 1) * 127.5).astype(int).tolist()


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def test_batch_holds_the_pictures_in_minus_one_to_one():
    images = np.zeros((2, 28, 28, 1), np.uint8)
    images[0], images[1, 3, 4] = 255, 51
    source = data.from_arrays(images, [3, 1], name="two", class_names=list("abcd"))
    (batch,) = batches(source, 2, train=False)
    assert batch["image"].dtype == np.float32 and batch["image"].shape == (2, 28, 28, 1)
    assert batch["label"].dtype == np.int32 and batch["label"].tolist() == [3, 1]
    assert (batch["image"][0] == 1.0).all() and batch["image"][1, 0, 0, 0] == -1.0
    np.testing.assert_allclose(batch["image"][1, 3, 4, 0], 51 / 127.5 - 1, rtol=1e-6)


def test_evaluation_keeps_the_order_ends_with_the_rest_and_resumes():
    whole, resumed = (batches(numbered(10), 4, train=False) for _ in range(2))
    first, state = next(whole), whole.get_state()
    got = [first, *whole]
    assert [ids(batch) for batch in got] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [batch["label"].tolist() for batch in got] == [[0, 1, 2, 3], [4, 0, 1, 2], [3, 4]]
    resumed.set_state(state)
    assert [ids(batch) for batch in resumed] == [[4, 5, 6, 7], [8, 9]]
    assert [ids(batch) for batch in batches(numbered(10), 64, train=False, num_epochs=2)] == [list(range(10))] * 2


def test_each_epoch_shows_each_record_once_in_a_new_order():
    found = list(batches(numbered(12), 4, num_epochs=3))
    got = [ids(batch) for batch in found]
    assert all([i % 5 for i in ids(batch)] == batch["label"].tolist() for batch in found)  # pictures keep their labels
    epochs = [flat(got[i : i + 3]) for i in (0, 3, 6)]
    assert len(got) == 9 and all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, list(range(12))]}) == 4  # shuffled, and again in each epoch
    got = [
        ids(batch) for batch in batches(numbered(10), 4, num_epochs=8)
    ]  # without the incomplete batch, which differs
    assert [len(batch) for batch in got] == [4] * 16
    left_out = [frozenset(range(10)) - set(got[i] + got[i + 1]) for i in range(0, 16, 2)]
    assert len(set(left_out)) > 1 and set().union(*got) == set(range(10))


def test_seed_decides():
    first, again, other = (
        list(itertools.islice(batches(noise(40), 8, seed=seed, augment="crop_flip"), 3)) for seed in (1, 1, 2)
    )
    assert all(map(same, first, again)) and not any(map(same, first, other))


@pytest.mark.parametrize("augment", image_batches.AUGMENTS)
@pytest.mark.parametrize("stop", [0, 2, 5, 7])  # an epoch has five batches: start, middle, border, second epoch
def test_resume_continues_with_the_very_next_batch(augment, stop):
    check_exact_resume(lambda: batches(noise(23), 4, seed=3, augment=augment), stop)


def test_shards_are_disjoint_and_together_the_whole():
    source = numbered(24)
    shards = [[ids(b) for b in batches(source, 2, shard_index=i, shard_count=3, num_epochs=2)] for i in range(3)]
    for epoch in (slice(0, 4), slice(4, 8)):
        seen = [flat(shard[epoch]) for shard in shards]
        assert sorted(flat(seen)) == list(range(24))
    assert set(flat(shards[0][:4])) != set(flat(shards[0][4:]))  # records move between hosts from epoch to epoch
    source = numbered(11)  # uneven shards: the same number of training batches, and every record in evaluation
    assert [len(list(batches(source, 2, shard_index=i, shard_count=3, num_epochs=1))) for i in range(3)] == [1, 1, 1]
    evaluation = [ids(b) for i in range(3) for b in batches(source, 2, train=False, shard_index=i, shard_count=3)]
    assert sorted(flat(evaluation)) == list(range(11))
    source = set_of(np.full((16, 28, 28, 1), 255, np.uint8))  # all white: two crops differ only in their black padding
    a, b = (next(batches(source, 8, augment="crop_flip", shard_index=i, shard_count=2)) for i in range(2))
    assert not same(a, b)


def test_flip_mirrors_half_of_the_pictures_and_changes_nothing_else():
    images = np.arange(2000 * 2 * 3 * 1, dtype=np.uint32).reshape(2000, 2, 3, 1)
    out = image_batches.flip(images, np.random.default_rng(0))
    kept = (out == images).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(out[~kept], images[~kept][:, :, ::-1])
    assert 1000 - 90 < kept.sum() < 1000 + 90  # 2,000 fair coins: 4 standard deviations are 89


@pytest.mark.parametrize(("size", "pad"), [((28, 28), 2), ((32, 32), 4), ((28, 40), 2)])
def test_crop_flip_gives_a_shifted_part_flipped_half_of_the_time(size, pad):
    image = np.random.default_rng(1).integers(1, 256, (*size, 3), np.uint8)
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    parts = {}
    for dy, dx in itertools.product(range(2 * pad + 1), repeat=2):
        part = padded[dy : dy + size[0], dx : dx + size[1]]
        parts[part.tobytes()], parts[part[:, ::-1].tobytes()] = (dy, dx, False), (dy, dx, True)
    out = image_batches.crop_flip(np.broadcast_to(image, (2000, *image.shape)), np.random.default_rng(0))
    found = [parts[picture.tobytes()] for picture in out]  # KeyError: not a part of the padded picture
    assert {f[:2] for f in found} == {f[:2] for f in parts.values()}  # every offset occurs, the two ends too
    assert 0.45 < np.mean([f[2] for f in found]) < 0.55


def test_inception_crops_cover_the_stated_areas_and_aspects():
    rng = np.random.default_rng(0)
    boxes = np.array([image_batches._random_box((200, 300, 3), rng) for _ in range(3000)])
    left, top, right, bottom = boxes.T
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 300 and bottom.max() <= 200
    area, aspect = (right - left) * (bottom - top) / 60_000, (right - left) / (bottom - top)
    assert 0.045 < area.min() < 0.08 and area.max() > 0.7
    assert 0.73 < aspect.min() < 0.8 and 1.25 < aspect.max() < 1.36
    assert np.array_equal(boxes, np.rint(boxes))
    left, top, right, bottom = image_batches._random_box((1, 100, 3), rng)  # extreme: the centre
    assert (top, bottom) == (0, 1) and 49 < left < right < 51


def test_inception_keeps_the_content():
    """Of a picture that is white on the left and black on the right, a crop is so, too, or is mirrored."""
    images = np.zeros((64, 40, 40, 3), np.uint8)
    images[:, :, :20] = 255
    out = image_batches.inception(images, np.random.default_rng(0), 16, 16).astype(int)
    assert out.shape == (64, 16, 16, 3)
    slope = out[:, :, 0].mean((1, 2)) - out[:, :, -1].mean((1, 2))
    assert (slope > 100).sum() > 10 and (slope < -100).sum() > 10
    assert (np.abs(np.diff(out, axis=1)) <= 1).all()  # all rows are equal


def test_stretch_keeps_all_of_the_picture():
    """Halves stay halves: of 4 x 8 the left is black, the right white, and so are those of 2 x 2."""
    wide = np.repeat(np.array([0, 255], np.uint8), 4)[None, None, :, None] * np.ones((1, 4, 1, 3), np.uint8)
    # Each of the two pixels averages 2 rows and, tapering off, up to 8 columns: 4 on its own side, at most 2 beyond.
    small = image_batches.stretch(wide, 2, 2)[0, :, :, 0].astype(int)
    assert (small[0] == small[1]).all() and small[0, 0] < 64 and small[0].sum() in (254, 255, 256)
    np.testing.assert_array_equal(image_batches.stretch(wide, 4, 8), wide)
    square = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3)).astype(np.uint8)
    np.testing.assert_array_equal(image_batches.stretch(square, 5, 5), image_batches.resize_and_crop(square, 5, 5))


def test_resize_and_crop_is_resizing_the_short_side_and_cropping_the_centre():
    image = np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)
    resized = np.asarray(Image.fromarray(image).resize((18, 12), Image.Resampling.BILINEAR)).astype(int)
    difference = image_batches.resize_and_crop([image], 12, 12)[0] - resized[:, 3:15]
    assert np.abs(difference).max() <= 1  # Pillow rounds the two in a different order
    assert image_batches.resize_and_crop(image[None], 24, 36).base is image  # it has this size already


@pytest.mark.parametrize("augment", image_batches.AUGMENTS)
def test_image_size_sets_the_size_of_the_batch(augment):
    for source in (noise(8), noise(8, (20, 44), 3)):
        batch = next(batches(source, 4, image_size=32, augment=augment))
        assert batch["image"].shape == (4, 32, 32, source.image_shape[-1])
    batch = next(batches(noise(8, (20, 44), 3), 4, augment=augment))
    assert batch["image"].shape == (4, 20, 44, 3)


def read_one_by_one(sizes):
    """A Source over records of these sizes that are not in memory, as those of TFDS."""
    records = [{"image": np.full((*size, 3), 20 * key, np.uint8), "label": key} for key, size in enumerate(sizes)]
    store = Records(SimpleNamespace(__getitems__=lambda keys: [records[key] for key in keys]), False)
    return data.Source("files", tuple(map(str, range(len(sizes)))), (None, None, 3), store, range(len(sizes)))


@pytest.mark.parametrize("augment", image_batches.AUGMENTS)
def test_pictures_of_different_sizes(augment):
    source = read_one_by_one([(40, 60), (64, 32), (50, 50), (33, 80), (90, 41), (32, 32)])
    got = list(batches(source, 2, image_size=32, augment=augment, num_epochs=2))
    assert len(got) == 6 and all(batch["image"].shape == (2, 32, 32, 3) for batch in got)
    for batch in got:  # the centre shows which picture it is, padded or not
        np.testing.assert_allclose(batch["image"][:, 16, 16, 0], 20 * batch["label"] / 127.5 - 1, atol=1e-6)
    # Many reader threads keep the order.
    check_exact_resume(lambda: batches(source, 2, image_size=32, augment=augment, seed=5), 4)


@pytest.mark.parametrize(("kwargs", "message"), [
    ({"batch_size": 13}, r"batch_size is 13, but a shard of numbered has only 12 records"),
    ({"batch_size": 5, "shard_count": 3}, r"has only 4 records \(12 over 3 shards\)"),
    ({"shard_index": 2, "shard_count": 2}, "shard_index is 2; expected a whole number from 0 to 1"),
    ({"shard_count": 13}, "12 records for 13 shards"),
    ({"augment": "crop_flip", "train": False}, "evaluate on the pictures as they are"),
    ({"source": np.zeros((4, 28, 28, 1), np.uint8)}, "source is a ndarray; expected a Source"),
    ({"source": read_one_by_one([(3, 4), (4, 3)]), "batch_size": 2}, "differ in size: pass image_size"),
    ({"source": numbered(4, channels=4), "image_size": 32}, "has 4 channels; resizing needs 1"),
    ({"source": numbered(4)[:0], "train": False}, "0 records for 1 shards"),
])  # fmt: skip
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises((ValueError, TypeError), match=message):
        batches(**{"source": numbered(12), "batch_size": 4, **kwargs})


def rows_and_number(rows, position):
    return {"rows": rows, "number": np.array(position)}


def test_an_epoch_has_each_row_once_and_drops_the_rest():
    iterator = image_batches.shuffled_batches(11, 3, rows_and_number, seed=5)
    epochs = [[next(iterator) for _ in range(3)] for _ in range(2)]
    assert [int(batch["number"]) for epoch in epochs for batch in epoch] == list(range(6))
    seen = [np.concatenate([batch["rows"] for batch in epoch]) for epoch in epochs]
    for rows in seen:
        assert len(set(rows.tolist())) == 9 and set(rows.tolist()) <= set(range(11))
    assert not np.array_equal(*seen)


def test_it_goes_on_and_depends_on_the_seed():
    check_exact_resume(lambda: image_batches.shuffled_batches(8, 4, rows_and_number, seed=0), 1)
    firsts = [next(image_batches.shuffled_batches(100, 50, rows_and_number, seed=seed))["rows"] for seed in (0, 1)]
    assert not np.array_equal(*firsts)


@pytest.mark.parametrize("size", [0, 9])
def test_wrong_sizes(size):
    with pytest.raises(ValueError, match=f"batch_size .* is {size}; expected a whole number from 1 to 8"):
        image_batches.shuffled_batches(8, size, rows_and_number)
