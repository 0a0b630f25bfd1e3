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


@pytest.mark.parametrize(("question", "rows", "more"), [("", 1, ""), ("how many?", 2, ", how many? blue")])
def test_no_question_and_one_in_the_words_of_a_row(files, tmp_path, capsys, question, rows, more):
    show.main((files[0],), question, tmp_path / "page.html")
    assert capsys.readouterr().out.startswith(f"{files[0]}: <cat>, boxes: 1, how many: 1{more}\n")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<th>") == 1 + 16 + rows and ">1<" in page and (">blue<" in page) == bool(question)


def test_what_is_refused_before_anything_is_written(files, tmp_path, monkeypatch):
    (tmp_path / "bad.png").write_bytes(b"x")
    (tmp_path / "palix_s.safetensors").write_bytes(b"x" * 100)
    (tmp_path / "folder.html").mkdir()
    for names, out, message in (
        ([files[0], str(tmp_path / "bad.png")], "page.html", r"bad\.png is not a picture"),
        ([str(tmp_path / "none.png")], "page.html", r"none\.png is missing"),
        ([], "page.html", "which pictures"),
        (files, "page.png", r"the page cannot be .*ends in \.html"),
        (files, "folder.html", r"the page cannot be .*ends in \.html"),
    ):
        with pytest.raises(SystemExit, match=f"kit show: .*{message}"):
            show.main(tuple(names), out=tmp_path / out)
    monkeypatch.setattr(stages, "released_file", lambda: tmp_path / "palix_s.safetensors")
    monkeypatch.setattr(stages, "released", REAL)
    with pytest.raises(SystemExit, match=r"kit show: .*palix_s\.safetensors"):
        show.main((files[0],), out=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists() and not (tmp_path / "page.png").exists()
