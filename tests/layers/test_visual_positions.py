"""kitlib.models.palix: row + column + image, counted from the last image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitlib.models.palix import VisualPositions, positions


def test_positions_by_hand():
    """Two rows (10, 20), three columns (1, 2, 3), two images (100, 200), of width 1: patches are row by row."""
    found = positions(jnp.array([[10.0], [20.0]]), jnp.array([[1.0], [2.0], [3.0]]), jnp.array([[100.0], [200.0]]))
    np.testing.assert_array_equal(found[..., 0], [[111, 112, 113, 121, 122, 123], [211, 212, 213, 221, 222, 223]])


def layer():
    module = VisualPositions((2, 3), max_images=4, width=8)
    tokens = jax.random.normal(jax.random.key(0), (5, 3, 6, 8))  # B = 5, n = 3, k = 6, D = 8
    return module, module.init(jax.random.key(1), tokens)["params"], tokens


def test_what_is_added_is_the_same_for_every_example():
    module, params, tokens = layer()
    added = module.apply({"params": params}, tokens) - tokens
    np.testing.assert_allclose(added, np.broadcast_to(added[:1], added.shape), atol=1e-6)
    for i in range(3):
        for row in range(2):
            for column in range(3):
                want = params["row_embedding"][row] + params["column_embedding"][column]
                want = want + params["image_embedding"][2 - i]  # the last of three images has number 0
                np.testing.assert_allclose(added[0, i, 3 * row + column], want, atol=1e-6)


def test_texts_get_the_vectors_of_their_images():
    module, params, _ = layer()
    found = module.apply({"params": params}, 3, method="of_images")
    np.testing.assert_array_equal(found, params["image_embedding"][jnp.array([2, 1, 0])])
    with pytest.raises(ValueError, match=r"1 to \d+ images or frames \(max_images\), got 99"):
        module.apply({"params": params}, 99, method="of_images")


def test_padding_in_front_changes_nothing():
    module, params, tokens = layer()
    padded = jnp.concatenate([jnp.ones((5, 1, 6, 8)), tokens], axis=1)
    found = module.apply({"params": params}, padded)[:, 1:]
    np.testing.assert_array_equal(found, module.apply({"params": params}, tokens))
    assert module.apply({"params": params}, tokens.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_no_two_patches_or_images_have_the_same_position():
    module, params, tokens = layer()
    added = (module.apply({"params": params}, tokens) - tokens)[0].reshape(-1, 8)
    assert len(np.unique(np.round(added, 4), axis=0)) == 3 * 6


def test_they_start_as_long_as_normalised_tokens():
    """Each vector is N(0, 1) per component: of 10,000 components the variance is 1 to 5 %."""
    params = VisualPositions((50, 50), 100, 100).init(jax.random.key(0), jnp.zeros((1, 1, 2500, 100)))["params"]
    assert set(params) == {"row_embedding", "column_embedding", "image_embedding"}
    assert abs(float(jnp.var(params["image_embedding"])) - 1) < 0.05
