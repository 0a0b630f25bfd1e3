"""kitlib.multimodal.probes: what can be read from features whose content is known, and from the released model's."""

from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
import pytest

from kitlib import configs
from kitlib.data import captioned, tokenizer
from kitlib.models import palix
from kitlib.multimodal import batching, probes, stages
from kitlib.multimodal.ocr_pretraining import letters
from kitlib.multimodal.tasks import kit_tasks

pytestmark = pytest.mark.slow


def seen(features):
    """In place of a `Tower`: features that are a function of the image."""
    return SimpleNamespace(config=configs.palix("S").tower, features=features)


def test_a_probe_answers_what_is_linear():
    """Three classes along three axes: new points get their axis, though class 2 of four never occurs."""
    axes = np.eye(3)[[0, 1, 2] * 20] + np.random.default_rng(0).normal(0, 0.05, (60, 3))
    labels = np.array([0, 1, 3] * 20)
    answers = probes.answers_of(axes[:30], labels[:30], axes[30:], classes=4)
    assert (answers == labels[30:]).all()


def test_a_tower_that_shows_nothing_names_and_reads_nothing():
    """All patches have the same vector, so a probe answers with one class."""
    nothing = seen(lambda images: np.zeros((len(images), 64, 4), np.float16))
    table = probes.named_by_style(nothing, views=1)
    assert list(table["style"]) == list(captioned.EMOJI_STYLES) and not table.set_index("style")["taught"]["twemoji"]
    assert (table["right"] < 0.02).all() and (table["low"] <= table["right"]).all()
    read = probes.read_by_size(nothing, words=60, tested=20)
    assert (read["letters"] < 0.3).all() and (read["words"] < 0.1).all() and (read["n"] > 5).all()


def test_letters_that_the_features_spell_are_read(monkeypatch):
    """Features with a one at the letter's number, put where the letter is: the probe reads nearly all of them.

    Of letters that share a patch only one can be right, and of a letter that no training word has, none: so words are
    drawn in sizes of at least a patch per letter.
    """
    spelled, shown = probes.rendered_text.spelled, {}

    def remembered(*args):
        image, text, boxes = spelled(*args)
        shown[image.tobytes()] = text, boxes
        return image, text, boxes

    def known(images):
        out = np.zeros((len(images), 64, len(letters())), np.float16)
        for i, image in enumerate(images):
            text, boxes = shown[image.tobytes()]
            y, x = ((boxes[:, :2] + boxes[:, 2:]) * 4).astype(int).clip(0, 7).T
            out[i, y * 8 + x, [letters().index(letter) for letter in text]] = 1
        return out

    monkeypatch.setattr(probes.rendered_text, "spelled", remembered)
    monkeypatch.setattr(probes, "SIZES", (16, 20))
    table = probes.read_by_size(seen(known), words=1500, tested=60)
    assert (table["letters"] > 0.85).all() and (table["words"] > 0.6).all()


def small(positions: bool):
    tower = {"image_size": (64, 64), "depth": 1}
    text = {"vocab_size": tokenizer.multilingual().vocab_size, "num_encoder_layers": 1, "num_decoder_layers": 1}
    model = palix.PaLIX(configs.palix("XS", tower=tower, text=text, visual_positions=positions))
    return model, palix.init_params(model)


def test_rows_and_columns_after_the_projection_can_be_read_from_the_encoder():
    """With the tower's own positions set to zero, its output does not tell a patch; N(0, 1) tables after it do."""
    shares, asked = {}, kit_tasks()["finding"].examples(60)
    for positions in (True, False):
        model, params = small(positions)
        tower = params["tower"] | {"pos_embedding": np.zeros_like(params["tower"]["pos_embedding"])}
        shares[positions] = probes.position_accuracy(model, params | {"tower": tower}, asked, fitted=40)
    assert shares[True]["tower"] == shares[False]["tower"] < 0.15
    assert shares[True]["encoder"] > 0.9 > 0.3 > shares[False]["encoder"]
    with pytest.raises(ValueError, match="41 examples; expected at least 42"):
        probes.position_accuracy(model, params, asked[:41], fitted=40)


@pytest.fixture(scope="module")
def released() -> batching.Tower:
    model, params = stages.released()
    return batching.Tower(model.config.tower, jax.device_get(params["tower"]))


def test_the_released_tower_names_things_in_taught_styles_and_half_in_the_held_out_one(released):
    table = probes.named_by_style(released)
    stored = pd.read_csv(stages.released_file().with_name("palix_s_styles.csv"), comment="#")
    pd.testing.assert_frame_equal(table, stored, atol=0.01)  # another processor may round a few of 834 differently
    right = table.set_index("style")["right"]
    assert (right.drop("twemoji") > 0.75).all() and 0.4 < right["twemoji"] < right.drop("twemoji").min()


def test_the_released_tower_reads_large_letters(released):
    table = probes.read_by_size(released).set_index("pixels")
    assert table.loc[16, "letters"] > 0.6 and table.loc[16, "words"] > 0.3
    assert table.loc[10, "letters"] < table.loc[16, "letters"]
