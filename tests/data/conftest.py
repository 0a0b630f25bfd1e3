"""Fixtures that several test files of this folder need."""

import hashlib
import importlib.util
import sys

import pytest

from kitlib import data


def script(name: str):
    """A script of the data folder as a module."""
    spec = importlib.util.spec_from_file_location(name, data.data_folder() / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def make_data():
    return script("make_data")


@pytest.fixture(scope="session")
def make_pictures():
    return script_beside_others("make_pictures")


@pytest.fixture(scope="session")
def make_names():
    return script_beside_others("make_names")


@pytest.fixture(scope="session")
def make_texts():
    return script_beside_others("make_texts")


def script_beside_others(name: str):
    """A script that imports others of its folder."""
    folder = str(data.data_folder())
    sys.path.insert(0, folder)
    module = script(name)
    sys.path.remove(folder)
    return module


@pytest.fixture
def commit(tmp_path):
    """commit(content, file) makes tmp_path a data folder that holds this file with the correct checksum."""

    def write(content: bytes, file: str = "fashion_mnist.npz") -> None:
        (tmp_path / file).write_bytes(content)
        (tmp_path / "checksums.txt").write_text(f"{hashlib.sha256(content).hexdigest()}  {file}\n")

    return write
