"""kitlib.models.checkpoint: numbers are kept to half a unit of float16; a refused save leaves the old file."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from kitlib.models import checkpoint
from kitlib.models.checkpoint import CheckpointError

PARAMS = {"a": {"kernel": jnp.linspace(-3.0, 3.0, 12).reshape(3, 4), "bias": jnp.zeros(4)}, "b": jnp.array([6e4, 1e-3])}


@pytest.fixture
def path(tmp_path):
    checkpoint.save(tmp_path / "model.safetensors", PARAMS)
    return tmp_path / "model.safetensors"


def test_loaded_parameters_are_those_that_were_saved(path):
    """And those that are found by name by any reader of the format; saving and loading them again changes nothing."""
    loaded = checkpoint.load(path, PARAMS)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2**-11), loaded, PARAMS)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("float32")}
    found = safetensors.numpy.load_file(path)
    assert {name: array.shape for name, array in found.items()} == {"a/bias": (4,), "a/kernel": (3, 4), "b": (2,)}
    assert {array.dtype for array in found.values()} == {np.dtype(np.float16)}
    before = path.read_bytes()
    checkpoint.save(path, loaded)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("value", [7e4, np.inf, np.nan])
def test_numbers_that_float16_cannot_hold_are_refused_and_the_old_file_stays(path, value):
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"a/bias holds .*, which float16 cannot"):
        checkpoint.save(path, {**PARAMS, "a": {**PARAMS["a"], "bias": jnp.array([1.0, value])}})
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_leaves_that_do_not_fit_are_named(path):
    for expected, reason in (
        ({"a": PARAMS["a"], "c": PARAMS["b"]}, "missing: c; extra: b"),
        ({**PARAMS, "b": jnp.zeros(3)}, r"misshapen: b is \(2,\), expected \(3,\)"),
    ):
        with pytest.raises(CheckpointError, match=rf"model\.safetensors does not fit .*{reason}"):
            checkpoint.load(path, expected)


def test_a_changed_number_is_noticed(path):
    """The last byte of the file is in the last array; the format itself would not notice."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    safetensors.numpy.load_file(path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not hold the numbers that were saved"):
        checkpoint.load(path, PARAMS)
