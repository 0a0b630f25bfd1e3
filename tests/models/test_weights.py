"""kitlib.models.weights: numbers are kept to half a unit of float16; a refused save leaves the old file as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from kitlib.models import weights
from kitlib.models.checkpoint import CheckpointError

PARAMS = {"a": {"kernel": jnp.linspace(-3.0, 3.0, 12).reshape(3, 4), "bias": jnp.zeros(4)}, "b": jnp.array([6e4, 1e-3])}


def test_loaded_parameters_are_those_that_were_saved(tmp_path):
    weights.save(tmp_path / "model.safetensors", PARAMS)
    loaded = weights.load(tmp_path / "model.safetensors", PARAMS)
    assert jax.tree.structure(loaded) == jax.tree.structure(PARAMS)
    for got, want in zip(jax.tree.leaves(loaded), jax.tree.leaves(PARAMS), strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=2**-11)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_saving_and_loading_again_changes_nothing(tmp_path):
    weights.save(tmp_path / "one.safetensors", PARAMS)
    once = weights.load(tmp_path / "one.safetensors", PARAMS)
    weights.save(tmp_path / "two.safetensors", once)
    jax.tree.map(np.testing.assert_array_equal, weights.load(tmp_path / "two.safetensors", PARAMS), once)
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


@pytest.mark.parametrize("value", [7e4, np.inf, np.nan])
def test_numbers_that_float16_cannot_hold_are_refused_and_the_old_file_stays(tmp_path, value):
    path = tmp_path / "model.safetensors"
    weights.save(path, PARAMS)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"a/bias holds .*, which float16 cannot"):
        weights.save(path, {**PARAMS, "a": {**PARAMS["a"], "bias": jnp.array([1.0, value])}})
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_leaves_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    weights.save(path, PARAMS)
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not fit .*missing: c; extra: b"):
        weights.load(path, {"a": PARAMS["a"], "c": PARAMS["b"]})
    with pytest.raises(CheckpointError, match=r"misshapen: b is \(2,\), expected \(3,\)"):
        weights.load(path, {**PARAMS, "b": jnp.zeros(3)})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        weights.load(path, PARAMS)
    with pytest.raises(CheckpointError, match="There is no checkpoint file"):
        weights.load(tmp_path / "other.safetensors", PARAMS)


def test_a_changed_number_is_noticed(tmp_path):
    """The last byte of the file is in the last array; the format itself would not notice."""
    path = tmp_path / "model.safetensors"
    weights.save(path, PARAMS)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    safetensors.numpy.load_file(path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not hold the numbers that were saved"):
        weights.load(path, PARAMS)


def test_any_reader_of_the_format_finds_the_parameters_by_name(tmp_path):
    weights.save(tmp_path / "model.safetensors", PARAMS)
    found = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert {name: (array.shape, array.dtype) for name, array in found.items()} == {
        "a/bias": ((4,), np.float16), "a/kernel": ((3, 4), np.float16), "b": ((2,), np.float16)
    }  # fmt: skip
