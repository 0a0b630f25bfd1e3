"""Fixtures that several test files of this folder need."""

import hashlib
import importlib.util
import sys

import pytest

from kitlib import data


def script(name: str):
    """A session-wide fixture: a script of the data folder, some of which import others there, as a module."""

    @pytest.fixture(scope="session", name=name)
    def module():
        folder = data.data_folder()
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        made = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(folder))
        spec.loader.exec_module(made)
        sys.path.remove(str(folder))
        return made

    return module


make_data, make_pictures, make_names, make_texts = (script(f"make_{x}") for x in ("data", "pictures", "names", "texts"))


@pytest.fixture
def commit(tmp_path):
    """commit(content, file) makes tmp_path a data folder that holds this file with the correct checksum."""

    def write(content: bytes, file: str = "fashion_mnist.npz") -> None:
        (tmp_path / file).write_bytes(content)
        (tmp_path / "checksums.txt").write_text(f"{hashlib.sha256(content).hexdigest()}  {file}\n")

    return write
