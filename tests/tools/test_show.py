"""kitlib.tools.show: `kit show`, the page and its refusals."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from kitlib.data import captioned
from kitlib.multimodal import showcase, stages
from kitlib.tools import show

REAL = stages.released
MODEL = SimpleNamespace(config=SimpleNamespace(tower=SimpleNamespace(image_size=(64, 64))))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two pictures; the model calls everything a cat."""
    monkeypatch.setattr(stages, "released", lambda: (MODEL, {}))

    def ask_about(model, params, image, *, question):
        captions = dict.fromkeys(captioned.LANGUAGES, "<cat>") | {"th": "แมว"}
        box = np.array([[0.1, 0.1, 0.5, 0.5]])
        return showcase.Seen(image, captions, box, ["cat"], "1", question, "blue" if question else "")

    monkeypatch.setattr(showcase, "ask_about", ask_about)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (10, 10), "red").save(tmp_path / name)
    return [str(tmp_path / name) for name in ("a.png", "b.png")]


def test_the_page_has_every_picture_and_every_answer(files, tmp_path, capsys):
    assert show.main(tuple(files), "what color is it?", tmp_path / "new" / "page.html") == 0
    page = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 2 and page.count("<th>") == 1 + 16 + 2
    assert page.count("แมว") == 2 and "&lt;cat&gt;" in page and "<cat>" not in page
    assert page.count(">blue<") == 2 and "what color is it?" in page
    assert "http" not in page  # no network
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{files[0]}: <cat>, boxes: 1, how many: 1, what color is it? blue" and len(lines) == 3


def test_without_a_question_there_is_no_row_for_it(files, tmp_path, capsys):
    show.main((files[0],), out=tmp_path / "page.html")
    assert capsys.readouterr().out.startswith(f"{files[0]}: <cat>, boxes: 1, how many: 1\n")
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("<th>") == 1 + 16 + 1


def test_a_question_in_the_words_of_a_row_has_a_row_of_its_own(files, tmp_path):
    show.main((files[0],), "how many?", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<th>") == 1 + 16 + 2 and ">1<" in page and ">blue<" in page


def test_damaged_weights_end_it_with_a_sentence(files, tmp_path, monkeypatch):
    (tmp_path / "palix_s.safetensors").write_bytes(b"x" * 100)
    monkeypatch.setattr(stages, "released_file", lambda: tmp_path / "palix_s.safetensors")
    monkeypatch.setattr(stages, "released", REAL)
    with pytest.raises(SystemExit, match=r"kit show: .*palix_s\.safetensors"):
        show.main((files[0],), out=tmp_path / "page.html")


@pytest.mark.parametrize("out", ["page.png", "folder.html"])
def test_the_page_has_a_name_of_a_page(files, tmp_path, out, monkeypatch):
    (tmp_path / "folder.html").mkdir()
    monkeypatch.setattr(stages, "released", lambda: pytest.fail("nothing is computed before"))
    with pytest.raises(SystemExit, match=r"kit show: the page cannot be .*ends in \.html"):
        show.main(tuple(files), out=tmp_path / out)


def test_bad_files_are_refused_before_anything_is_written(files, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"x")
    with pytest.raises(SystemExit, match=r"kit show: .*bad\.png is not a picture"):
        show.main((files[0], str(tmp_path / "bad.png")), out=tmp_path / "page.html")
    with pytest.raises(SystemExit, match=r"kit show: .*none\.png is missing"):
        show.main((str(tmp_path / "none.png"),), out=tmp_path / "page.html")
    with pytest.raises(SystemExit, match="which pictures"):
        show.main(())
    assert not (tmp_path / "page.html").exists()
