"""kitlib.multimodal.showcase: any picture file, the chain of questions, frames where the boxes are."""

import numpy as np
import pytest
from PIL import Image

from kitlib import configs
from kitlib.data import captioned, tokenizer
from kitlib.models import palix
from kitlib.multimodal import batching, showcase
from kitlib.multimodal.prompts import without_prefix

RED = np.full((64, 64, 3), (200, 30, 30), np.uint8)


def seen(boxes) -> showcase.Seen:
    return showcase.Seen(RED, {}, np.array(boxes, float).reshape(-1, 4), ["cat"] * len(boxes), "", "", "")


def test_a_wide_picture_is_padded_and_not_stretched(tmp_path):
    """20 x 10 red pixels become 64 x 32 in the middle of 64 x 64; above and below is white."""
    Image.new("RGB", (20, 10), (200, 30, 30)).save(tmp_path / "wide.png")
    found = showcase.read_picture(tmp_path / "wide.png")
    assert found.shape == (64, 64, 3) and found.dtype == np.uint8
    assert (found[:12] > 240).all() and (found[52:] > 240).all()  # resizing blurs the border a little
    np.testing.assert_allclose(found[20:44], np.broadcast_to([200, 30, 30], (24, 64, 3)), atol=20)


@pytest.mark.parametrize("size", [(4000, 3), (3, 4000)])
def test_a_long_narrow_picture_keeps_at_least_a_pixel(tmp_path, size):
    """Its square would have a thousand times its pixels: it is shrunk before it is padded."""
    Image.new("RGB", size, (200, 30, 30)).save(tmp_path / "long.png")
    found = showcase.read_picture(tmp_path / "long.png")
    lines = (found == (200, 30, 30)).all(-1).all(int(size[0] > size[1]))
    assert lines.sum() == 1 and (found[~lines] if size[0] > size[1] else found[:, ~lines]).min() == 255


def test_a_photograph_is_turned_upright(tmp_path):
    """EXIF orientation 6: the camera was turned, so the stored top is the right side of the picture."""
    stored = Image.fromarray(np.concatenate([np.zeros((4, 8, 3)), np.full((4, 8, 3), 255)]).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    found = showcase.read_picture(tmp_path / "turned.jpg", 8)
    assert found[:, 5:].mean() < 40 and found[:, :3].mean() > 215


def test_missing_empty_and_cut_files_are_refused_by_name(tmp_path):
    path, whole = tmp_path / "odd.png", tmp_path / "whole.png"
    with pytest.raises(FileNotFoundError, match=r"odd\.png is missing: give the path"):
        showcase.read_picture(path)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(whole)
    for content in (b"", whole.read_bytes()[:-300]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"odd\.png is not a picture .*PNG, JPEG or WebP"):
            showcase.read_picture(path)


@pytest.fixture
def model():
    return palix.PaLIX(configs.palix("XS", tower={"image_size": (64, 64)}))


def writes(monkeypatch, answers) -> list:
    """The model writes `answers(examples)`; returns the examples that it is asked."""
    asked = []
    monkeypatch.setattr(showcase, "generated_texts", lambda _, __, e, **more: asked.extend(e) or answers(e))
    return asked


def test_the_name_it_gives_is_what_it_is_asked_to_find_and_to_count(monkeypatch, model):
    def answers(examples):
        if len(examples) == len(captioned.LANGUAGES):
            return [f"cat {language}" for language in captioned.LANGUAGES]
        return ["3 6 15 18 cat en ; 0 0 9 9 noise ; 7 8", "3", "blue"]

    asked = writes(monkeypatch, answers)
    found = showcase.ask_about(model, {}, RED, question="what color is it?")
    prompts = [example.prompt for example in asked]
    assert len(prompts) == 16 + 3 and all((example.images[0] == RED).all() for example in asked)
    assert prompts[1] == "Generate the alt-text in de at 0: <extra_id_0>"
    assert prompts[16] == "detect cat en" and prompts[17].endswith("how many: cat en?")
    assert without_prefix(asked[18]).prompt == "what color is it?"
    assert found.captions["de"] == "cat de" and found.names == ["cat en"]
    np.testing.assert_allclose(found.boxes, np.array([[3, 6, 15, 18]]) / 32)  # 33 bins
    assert (found.count, found.question, found.answer) == ("3", "what color is it?", "blue")


@pytest.mark.parametrize("written", ["a <extra_id_0> cat", "\N{OM SYMBOL}" * 99, "<extra_id_0>"])
def test_whatever_it_names_can_be_asked_for(monkeypatch, model, written):
    """A sentinel would stand for the answer, and a name of 99 letters in three bytes each would fill the prompt."""
    asked = writes(monkeypatch, lambda examples: [written] * len(examples))
    showcase.ask_about(model, {}, RED)
    assert "<extra" not in asked[16].prompt + asked[17].prompt and len(asked[16].prompt) > len("detect ")
    lengths = [len(batching.prompt_tokens(example, tokenizer.multilingual())[0]) for example in asked[16:]]
    assert max(lengths) <= showcase.SHAPE["prompt_length"]


def test_nothing_written_and_no_question(monkeypatch, model):
    writes(monkeypatch, lambda examples: [""] * len(examples))
    found = showcase.ask_about(model, {}, RED)
    assert found.boxes.shape == (0, 4) and found.names == [] and found.answer == ""


@pytest.mark.slow
def test_any_model_gives_texts_for_everything():
    text = {"vocab_size": tokenizer.multilingual().vocab_size}
    model = palix.PaLIX(configs.palix("XS", tower={"image_size": (64, 64)}, text=text))
    found = showcase.ask_about(model, palix.init_params(model), RED, question="what is this?")
    assert set(found.captions) == set(captioned.LANGUAGES)
    assert all(isinstance(text, str) for text in (*found.captions.values(), found.count, found.answer))


def test_bad_input_is_refused(monkeypatch, model):
    writes(monkeypatch, lambda examples: ["cat"] * len(examples))
    for image in (RED[:32], RED[..., 0], RED / 255.0, "dog.png", None):
        with pytest.raises(ValueError, match=r"expected uint8\[64, 64, 3\].*read_picture\(path, 64\)"):
            showcase.ask_about(model, {}, image)
    with pytest.raises(ValueError, match=r"The question has \d+ tokens, at most 64 fit"):
        showcase.ask_about(model, {}, RED, question="is it red? " * 40)


def test_frames_are_where_the_boxes_are():
    """64 pixels at four times the size: the box from 1/3 to 2/3 of 255 has corners at 85 and 170."""
    drawn = showcase.with_boxes(seen([[1 / 3, 1 / 3, 2 / 3, 2 / 3]]))
    assert drawn.shape == (256, 256, 3)
    for at in (85, 170):
        assert (drawn[at, 85:171] == 255).all() and (drawn[85:171, at] == 255).all()
    for at in (86, 169):
        assert (drawn[at, 86:170] == 0).all() and (drawn[86:170, at] == 0).all()
    changed = (drawn != RED[0, 0]).any(axis=-1)
    assert changed.sum() == 4 * 85 + 4 * 83 and not changed[:85].any() and not changed[87:169, 87:169].any()


def test_boxes_without_area_and_at_the_border():
    for boxes in ([], [[0.5, 0.5, 0.5, 0.5]]):
        assert (showcase.with_boxes(seen(boxes)) == RED[0, 0]).all()
    drawn = showcase.with_boxes(seen([[0, 0, 1, 1]]))
    assert (drawn[0] == 255).all() and (drawn[-1] == 255).all()
