"""kitlib.multimodal.visual_tokens: codes and their images, k-means by its definition, sizes of masks, errors."""

import numpy as np
import pytest

from kitlib.data import keyed_rng
from kitlib.multimodal.visual_tokens import cut, decode, encode, hide, learn, mask


@pytest.fixture(scope="module")
def images():
    """Smooth images: sums of two waves in each colour, 6 of 32 x 48."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :48, :1, :1][:2] / 16
    waves = [np.sin(y * a + x * b + c) for a, b, c in rng.uniform(-3, 3, (2, 3, 6, 3))]  # each [32, 48, 6, 3]
    return np.rint(128 + 60 * sum(waves)).astype(np.uint8).transpose(2, 0, 1, 3)


@pytest.fixture(scope="module")
def patches(images):
    return cut(images, 8).reshape(-1, 8, 8, 3)


@pytest.fixture(scope="module")
def codebook(patches):
    return learn(patches, 16, keyed_rng(0))


def by_hand(patch, codebook):
    """The nearest entry in whole numbers."""
    return int(np.square(codebook.astype(np.int64) - patch.astype(np.int64)).sum((1, 2, 3)).argmin())


def test_patches_are_the_squares_of_the_image(images):
    cells = cut(images, 8)
    assert cells.shape == (6, 4, 6, 8, 8, 3)
    for n, i, j in np.ndindex(6, 4, 6):
        np.testing.assert_array_equal(cells[n, i, j], images[n, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8])


def test_codes_are_the_nearest_entries(images, codebook):
    codes = encode(images, codebook)
    assert codes.shape == (6, 4, 6) and codes.dtype == np.int64
    cells = cut(images, 8)
    assert [by_hand(cells[at], codebook) for at in np.ndindex(codes.shape)] == codes.reshape(-1).tolist()


def test_decoded_images_have_the_same_codes(images, codebook):
    codes = encode(images, codebook)
    back = decode(codes, codebook)
    assert back.shape == images.shape and back.dtype == np.uint8
    np.testing.assert_array_equal(encode(back, codebook), codes)
    np.testing.assert_array_equal(decode(encode(back, codebook), codebook), back)
    every, twice = np.arange(16).reshape(1, 2, 8), np.concatenate([codebook, codebook])
    np.testing.assert_array_equal(encode(decode(every, codebook), codebook), every)  # all entries differ
    np.testing.assert_array_equal(encode(images, twice), codes)  # of equal entries the first


def test_decoding_puts_entries_side_by_side():
    codebook = np.stack([np.full((2, 2, 3), value, np.uint8) for value in (10, 20, 30)])
    codebook[0, 0, 1] = 99  # the upper right pixel
    back = decode([[[0, 1], [2, 0]]], codebook)
    assert back[0, :, :, 0].tolist() == [[10, 99, 20, 20], [10, 10, 20, 20], [30, 30, 10, 99], [30, 30, 10, 10]]


def test_the_codebook_is_a_fixed_point_of_k_means(patches, codebook):
    """Assigning and averaging once more moves no entry by more than the rounding to whole numbers."""
    codes = np.array([by_hand(patch, codebook) for patch in patches])
    assert set(codes) == set(range(16))
    assert np.abs([patches[codes == k].mean(0) for k in range(16)] - codebook.astype(float)).max() <= 1.0


def test_the_generator_decides_the_codebook(patches):
    first, again, other = (learn(patches, 8, keyed_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_one_entry_is_the_mean_and_as_many_as_patches_are_the_patches(patches):
    np.testing.assert_array_equal(learn(patches, 1, keyed_rng(0))[0], np.rint(patches.mean(0)))
    some = patches[:10]
    found = learn(np.concatenate([some, some[:5]]), 10, keyed_rng(0))
    assert {entry.tobytes() for entry in found} == {patch.tobytes() for patch in some}


@pytest.mark.parametrize(
    ("grid", "share", "wanted"),
    [((8, 8), 0.25, 16), ((4, 6), 0.3, 7), ((8, 8), 0.001, 1), ((8, 8), 0.999, 63), ((1, 2), 0.5, 1)],
)
def test_masks_hide_a_fixed_number_of_cells(grid, share, wanted):
    for seed in range(20):
        hidden = mask(grid, share, keyed_rng(seed))
        assert hidden.shape == grid and hidden.dtype == bool and hidden.sum() == wanted


def test_masks_are_rectangles_not_single_cells():
    """Beside a hidden cell of 16 random ones in 64, another is hidden with a chance of 15/63; here far more often."""
    together, blocks = [], []
    for seed in range(200):
        hidden = mask((8, 8), 0.25, keyed_rng(seed))
        pairs = [hidden[1:] & hidden[:-1], hidden[:, 1:] & hidden[:, :-1]]
        together.append(sum(pair.sum() for pair in pairs) / 16)  # random cells: 112 pairs * 16/64 * 15/63 / 16 = 0.42
        full = hidden[1:, 1:] & hidden[1:, :-1] & hidden[:-1, 1:] & hidden[:-1, :-1]  # squares of 2 x 2 cells
        padded = np.pad(full, 1)
        blocks.append((hidden & (padded[1:, 1:] | padded[1:, :-1] | padded[:-1, 1:] | padded[:-1, :-1])).sum() / 16)
    # Sides are at least 2, so only what was cut off at the end may be thinner than a square.
    assert np.mean(together) > 1.2 and np.mean(blocks) > 0.9


def test_every_cell_is_hidden_now_and_then():
    counts = sum(mask((8, 8), 0.25, keyed_rng(1, i)).astype(int) for i in range(400))
    assert counts.min() > 10 and counts.max() < 250
    assert len({mask((8, 8), 0.25, keyed_rng(i)).tobytes() for i in range(9)}) == 9


def test_hidden_pixels_are_grey_and_others_untouched(images):
    hidden = mask((4, 6), 0.4, keyed_rng(0))
    before = images[0].copy()
    seen = hide(images[0], hidden)
    np.testing.assert_array_equal(images[0], before)
    for i, j in np.ndindex(4, 6):
        cell = np.s_[8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
        assert (seen[cell] == 128).all() if hidden[i, j] else (seen[cell] == images[0][cell]).all()
    assert (hide(images[0], hidden, grey=7)[:8, :8] == 7).all() == hidden[0, 0]


FLAT, RNG, TWO = np.zeros((2, 8, 8, 3), np.uint8), keyed_rng(0), np.zeros((2, 2), bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cut(FLAT[0], 4), r"images are uint8\[8, 8, 3\]"),
        (lambda: cut(FLAT, 3), "do not fill images of 8 x 8"),
        (lambda: cut(FLAT, 0), "Patches of 0 pixels"),
        (lambda: learn(FLAT[:, :4], 1, RNG), r"patches are uint8\[2, 4, 8, 3\]"),
        (lambda: learn(FLAT, 0, RNG), "got 0 entries for 2"),
        (lambda: learn(FLAT, 2, RNG), "only 1 different patches for 2 entries"),
        (lambda: encode(FLAT, FLAT.astype(float)), "codebook is float64"),
        (lambda: decode([[[0.0]]], FLAT), "codes are float64"),
        (lambda: decode([[[2]]], FLAT), "in 0 ... 1, got 2 to 2"),
        (lambda: mask((1, 1), 0.5, RNG), "2 cells or more"),
        (lambda: mask((8, 8), 1.0, RNG), r"a share in \(0, 1\)"),
        (lambda: hide(FLAT, TWO), r"got uint8\[2, 8, 8, 3\]"),
        (lambda: hide(FLAT[0], np.zeros((3, 2), bool)), "does not divide"),
        (lambda: hide(FLAT[0], TWO[:0]), r"A grid of \[0, 2\] cells"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
