"""kitlib.data.files: the committed files and their checksums, atomic writing, names by recipe, keyed generators."""

import contextlib
import errno
import gzip
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest

from kitlib import data
from kitlib.data import files, images

FOLDER = data.data_folder()


NOTICES = (
    "Zalando SE", "SinaSR-6", "Permission is hereby granted", 'PROVIDED "AS IS"', "COCO", "agrees to",
    "WordNet 3.0 Copyright 2006 by Princeton University", 'DATABASE IS PROVIDED "AS IS"', "Unicode, Inc.",
    "Copyright Twitter, Inc and other contributors", "Apache License 2.0", "CC BY 4.0", "Victor Zhou",
    "THE DATA FILES AND SOFTWARE ARE PROVIDED", "SPDX-License-Identifier: Unicode-3.0",
)  # fmt: skip


@pytest.mark.parametrize("folder", [".", "results", "checkpoints"])
def test_checksums_and_licences_cover_exactly_the_files_which_are_small(folder):
    listed = dict(reversed(line.split()) for line in (FOLDER / folder / "checksums.txt").read_text().splitlines())
    there = {path.name for path in (FOLDER / folder).iterdir() if path.is_file() and path.suffix != ".py"}
    assert set(listed) == there - {"LICENSES", "checksums.txt"}
    for name, sha256 in listed.items():
        assert hashlib.sha256((FOLDER / folder / name).read_bytes()).hexdigest() == sha256, name
    sizes = [(FOLDER / folder / name).stat().st_size for name in listed]
    if folder == "checkpoints":
        assert max(sizes) < 12_000_000
    elif folder == ".":
        assert {f"{name}.npz" for name in images.COMMITTED} < set(listed) and sum(sizes) < 18_000_000
        licences = (FOLDER / "LICENSES").read_text()
        assert all(text in licences for text in (*listed, *NOTICES))


def test_data_folder_is_that_of_an_installed_wheel_or_of_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match="install the kit again"):
        data.data_folder()
    for folder in (tmp_path / "data", tmp_path / "kitlib" / "_data"):
        files.write_bytes(folder / "checksums.txt", b"")
        assert data.data_folder() == folder


def test_read_checked_gives_the_bytes_of_an_unchanged_file_only(commit, tmp_path):
    commit(b"abc", "x.bin")
    assert files.read_checked(tmp_path, "x.bin") == b"abc"
    (tmp_path / "x.bin").write_bytes(b"abd")
    with pytest.raises(ValueError, match=r"x\.bin is damaged or was changed: its sha256 is .*expected ba7816bf8f01"):
        files.read_checked(tmp_path, "x.bin")
    (tmp_path / "y.bin").write_bytes(b"abc")
    with pytest.raises(ValueError, match=r"y\.bin is damaged .*expected a line in checksums\.txt"):
        files.read_checked(tmp_path, "y.bin")
    with pytest.raises(FileNotFoundError, match=r"z\.bin is missing"):
        files.read_checked(tmp_path, "z.bin")
    (tmp_path / "checksums.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"checksums\.txt is missing"):
        files.read_checked(tmp_path, "x.bin")


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with files.replacing(path) as partial:
        partial.write_text("ne")
        assert path.read_text() == "old"
        assert partial.parent == tmp_path and partial.suffix == ".csv" and partial.name.startswith(".a.csv.")
        with files.replacing(path) as other:  # a second writer at the same time has another temporary file
            assert other != partial
            other.write_text("other")
        assert path.read_text() == "other"
        partial.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_content_and_name_are_on_the_disk_when_the_block_ends(tmp_path, monkeypatch):
    """The content before it gets its name, the name afterwards: what a power cut leaves is the old file or the new."""
    path, seen = tmp_path / "a.txt", []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda opened: (seen.append(os.fstat(opened).st_ino), fsync(opened)))
    monkeypatch.setattr(os, "replace", lambda *paths: (seen.append("named"), replace(*paths)))
    files.write_text(path, "text")
    assert seen == [path.stat().st_ino, "named", tmp_path.stat().st_ino]


@pytest.mark.parametrize("failing", ["file", "folder"])
def test_a_disk_that_fails_at_the_end_is_an_error_and_a_folder_that_cannot_wait_is_none(tmp_path, monkeypatch, failing):
    path, fsync = tmp_path / "a.txt", os.fsync
    path.write_text("old\n")

    def fails(opened):
        if stat.S_ISDIR(os.fstat(opened).st_mode) == (failing == "folder"):
            raise OSError(errno.ENOSPC if failing == "file" else errno.EINVAL, "failed")
        fsync(opened)

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match=r"a\.txt cannot be written") if failing == "file" else contextlib.nullcontext():
        files.write_text(path, "new")
    assert path.read_text() == ("old\n" if failing == "file" else "new\n") and list(tmp_path.iterdir()) == [path]


class Unpicklable:
    """numpy pickles an array of objects, which fails for this one."""

    def __reduce__(self):
        raise RuntimeError("cannot be pickled")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, UnicodeEncodeError, RuntimeError])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failing_write_leaves_the_old_file_and_no_partial_file(error, old, tmp_path):
    path = tmp_path / "a"
    if old:
        path.write_bytes(old)
    with pytest.raises(error):
        if error is UnicodeEncodeError:
            files.write_text(path, "half a surrogate pair: \ud83d")
        elif error is RuntimeError:
            files.write_npz(path, {"x": np.arange(5), "y": np.array([Unpicklable()], object)})
        else:
            with files.replacing(path) as partial:
                partial.write_text("half of the n")
                raise error("stopped")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([old] if old else [])


def test_a_path_that_cannot_be_replaced_leaves_no_partial_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "folder", tmp_path / "file" / "a.txt"):
        with pytest.raises(OSError, match="cannot be written") as error:
            files.write_text(path, "text")
        assert "choose another folder" in files.sentence(error.value)  # what a command says
    with pytest.raises(FileNotFoundError):
        files.write_text(tmp_path / "none" / "a.txt", "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old\n")
    code = (
        "import sys, time; from kitlib.data import files\n"
        "with files.replacing(sys.argv[1]) as partial:\n"
        "    partial.write_text('half of the n'); print('ready', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "ready\n"
        writer.send_signal(signal.SIGKILL)
    assert path.read_text() == "old\n"
    files.write_text(path, "new")  # its partial file is not in the way
    assert path.read_text() == "new\n"


def test_two_processes_that_write_one_file_never_tear_it_and_never_fail(tmp_path):
    """Each writes a letter of its own 200,000 times, again and again; a reader sees one letter only, in full length."""
    path = tmp_path / "a.txt"
    files.write_text(path, "a" * 200_000)
    code = (
        "import sys; from kitlib.data import files\n"
        "for _ in range(300): files.write_text(sys.argv[1], 200_000 * sys.argv[2])"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), letter]) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        text = path.read_text()
        assert len(text) == 200_001 and len(set(text[:-1])) == 1
        seen.add(text[0])
    assert [writer.returncode for writer in writers] == [0, 0] and seen == {"a", "b"}
    assert list(tmp_path.iterdir()) == [path]


def test_threads_that_write_one_file_never_tear_it_and_leave_the_umask_alone(tmp_path):
    path, failed = tmp_path / "a.npz", []

    def write(value):
        try:
            for _ in range(50):
                files.write_npz(path, {"x": np.full(5_000, value)})
        except BaseException as error:
            failed.append(error)

    before = os.umask(0o027)
    try:
        threads = [threading.Thread(target=write, args=(value,)) for value in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            if path.exists():
                with np.load(path) as arrays:
                    assert len(np.unique(arrays["x"])) == 1 and arrays["x"].shape == (5_000,)
                assert stat.S_IMODE(path.stat().st_mode) == 0o640
    finally:
        after = os.umask(before)
    assert not failed and after == 0o027 and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077, 0o000])
def test_modes_follow_the_umask_which_is_not_changed_even_for_a_moment(umask, tmp_path, monkeypatch):
    """Python reads it only by changing it, and another thread's new file would then have the wrong mode."""
    before = os.umask(umask)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda mask: pytest.fail("os.umask was called"))
            files.write_text(tmp_path / "a.txt", "text")
            files.write_npz(tmp_path / "a.npz", {"x": np.arange(3)})
        (tmp_path / "b.txt").write_text("old")
        (tmp_path / "b.txt").chmod(0o400)  # the mode of the old file does not matter
        files.write_text(tmp_path / "b.txt", "new")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o666 & ~umask}


def test_what_is_written_stands_at_exactly_this_path(tmp_path):
    arrays = {"a/b": np.zeros((100, 100), np.float16), "names": np.array(["x", "yy"])}
    for name in ("a.npz", "new/folder/a.npz", "a", "a.bin"):
        files.write_npz(tmp_path / name, arrays)
        with np.load(tmp_path / name, allow_pickle=False) as read:
            np.testing.assert_equal(dict(read), arrays)
    path = tmp_path / "other" / "a.txt"
    for content in (b"\x00\xff", b"\x01"):
        files.write_bytes(path, content)
        assert path.read_bytes() == content
    for text, expected in {"a": "a\n", "a\n": "a\n", "a\n\n": "a\n\n", "": "\n", "हि🙂": "हि🙂\n"}.items():
        files.write_text(str(path), text)
        assert path.read_bytes() == expected.encode()
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"a.npz", "new/folder/a.npz", "a", "a.bin", "other/a.txt"}


def test_names_of_recipes_and_keyed_generators():
    assert files.recipe_hash("abc") == "ba7816bf8f01cfea"  # FIPS 180-4's example starts like this
    assert len({files.recipe_hash(recipe) for recipe in ("", "a", "A", "a ", "é")}) == 5
    np.testing.assert_array_equal(data.keyed_rng(3, 1, 4).random(5), data.keyed_rng(3, 1, 4).random(5))
    keys = [(3, 1, 4), (3, 4, 1), (3, 1), (3,), (1, 1, 4), (3, 1, 4, 0)]
    assert len({data.keyed_rng(*key).random() for key in keys}) == len(keys)


def test_a_checksum_is_noted_and_replaced(tmp_path):
    for content in (b"one", b"two"):
        for file in ("b.csv", "a.csv"):
            (tmp_path / file).write_bytes(content)
            files.note_checksum(tmp_path / file)
    two = hashlib.sha256(b"two").hexdigest()
    assert (tmp_path / "checksums.txt").read_text() == f"{two}  a.csv\n{two}  b.csv\n"


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000], ids=["empty", "cut", "deep"])
def test_other_content_is_refused_by_name(commit, tmp_path, content):
    commit(b"[1, 2]", "a.json")
    assert files.decoded(tmp_path, "a.json", "make_data", json.loads) == [1, 2]
    commit(content, "a.json")
    with pytest.raises(ValueError, match=r"a\.json is not a data file of the kit .*make_data\.py"):
        files.decoded(tmp_path, "a.json", "make_data", json.loads)


def test_arrays_are_read_and_others_are_refused(commit, tmp_path):
    np.savez(tmp_path / "made.npz", x=np.arange(3))
    commit((tmp_path / "made.npz").read_bytes(), "a.npz")
    assert files.decoded_arrays(tmp_path, "a.npz", "make_data", lambda arrays: arrays["x"].tolist()) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"a\.npz is not a data file of the kit"):
        files.decoded_arrays(tmp_path, "a.npz", "make_data", lambda arrays: arrays["y"])


def idx(array) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def test_read_idx(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx(array)))
    np.testing.assert_array_equal(files.read_idx(path), array)


@pytest.mark.parametrize("kind", ["cut", "cut gzip", "not gzip", "too long", "other type", "empty"])
def test_read_idx_refuses_by_name(kind, tmp_path):
    good, packed = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4)), gzip.compress
    content = {
        "cut": packed(good[:-1]), "cut gzip": packed(good)[:-9], "not gzip": good, "too long": packed(good + b"\0"),
        "other type": packed(b"\0\0\x0d" + good[3:]), "empty": packed(b""),
    }[kind]  # fmt: skip
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.gz is not a whole"):
        files.read_idx(tmp_path / "x.gz")
    with pytest.raises(FileNotFoundError, match=r"y\.gz is missing: put the original file there"):
        files.read_idx(tmp_path / "y.gz")
