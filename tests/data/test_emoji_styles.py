"""kitlib.data.captioned: the same things, drawn by others."""

import shutil

import numpy as np
import pytest

from kitlib.data import captioned, data_folder, files
from kitlib.multimodal.kit_data import object_rows

SOURCE = captioned.emoji("train")


COUNTS = {"noto": 1235, "flat": 409, "solid": 412, "noto_v1": 288, "twemoji": 417}


@pytest.mark.parametrize(("style", "count"), COUNTS.items())
def test_every_style_has_its_emoji(style, count):
    found = captioned.drawings(style)
    assert found.images.shape == (count, 32, 32, 3) and found.images.dtype == np.uint8
    assert len(set(found.rows.tolist())) == len(found.rows) == count
    assert (found.images.reshape(count, -1).min(axis=1) < 245).all()  # no picture is blank; the palest is a cloud
    if style == captioned.HELD_OUT:  # it has all that captions name
        assert found.rows.tolist() == object_rows("train") and style not in captioned.TAUGHT
    if style != "noto":
        assert set(found.rows.tolist()) <= set(object_rows("train"))
        assert all(len(np.unique(image.reshape(-1, 3), axis=0)) <= 64 for image in found.images)


@pytest.mark.parametrize("style", captioned.EMOJI_STYLES[1:])
def test_a_drawing_is_most_like_the_first_one_of_the_same_thing(style):
    """Of red, green and blue, and 4 x 4 regions: chance is 1 in 417. Were rows mixed up, it would be chance."""
    found = captioned.drawings(style)

    def coarse(images):
        ink = 1 - images.reshape(-1, 4, 8, 4, 8, 3).mean(axis=(2, 4)).reshape(len(images), -1) / 255
        return ink / np.linalg.norm(ink, axis=1, keepdims=True)

    rows = np.array(object_rows("train"))
    nearest = rows[(coarse(found.images) @ coarse(SOURCE.images[rows]).T).argmax(axis=1)]
    assert (nearest == found.rows).mean() > 0.2


def test_a_style_that_there_is_not_and_other_numbers_in_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"Unknown style of the drawings 'fluent'.* Known: noto, flat, solid"):
        captioned.drawings("fluent")
    for name in ("emoji.npz", "emoji_names.json.gz", "emoji_styles.npz"):
        shutil.copy(data_folder() / name, tmp_path)
    with np.load(tmp_path / "emoji_styles.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(tmp_path / "emoji_styles.npz", **arrays | {"flat_rows": arrays["flat_rows"][1:]})
    for path in tmp_path.glob("emoji*"):
        files.note_checksum(path)
    with pytest.raises(ValueError, match=r"emoji_styles\.npz is not .* \(409 pictures of 408 emoji\)"):
        captioned.drawings("flat", data_dir=tmp_path)
