"""kitlib.multimodal.frozen_tower: what the tower says of the right image, whatever else is in the chunk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitlib import configs
from kitlib.data import image_batches, tokenizer
from kitlib.models.vit import ViT
from kitlib.multimodal import batching, frozen_tower
from kitlib.multimodal.frozen_tower import Images, Tower, seen_arrays, tower_output
from kitlib.multimodal.prompts import Example

CONFIG = configs.palix("XS").tower  # 32 pixels, 16 patches, width 64


@pytest.fixture(scope="module")
def tower():
    drawn = np.random.default_rng(0).integers(0, 256, (1, *CONFIG.image_size, 3), np.uint8)
    params = ViT(CONFIG).init(jax.random.key(0), image_batches.to_float(drawn))["params"]
    keys = iter(jax.random.split(jax.random.key(3), 100))
    return Tower(CONFIG, jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), params))


def plain(count: int) -> np.ndarray:
    """uint8[count, 32, 32, 3]: images of one grey each, with a border, so that their patches differ."""
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(32, 1).repeat(32, 2).repeat(3, 3)
    images[:, :4] = 255 - images[:, :4]
    return images


def seen_by(tower: Tower, images: np.ndarray) -> np.ndarray:
    """The slow way: every image alone."""
    apply = jax.jit(lambda image: ViT(tower.config).apply({"params": tower.params}, image)[0])
    return np.concatenate([apply(image_batches.to_float(image[None])) for image in images])


@pytest.mark.parametrize("count", [1, frozen_tower.CHUNK, frozen_tower.CHUNK + 3])
def test_the_output_is_that_of_every_image_alone(tower, count):
    """A chunk that is not full, a full one, and one more."""
    images = plain(count)
    found, one_by_one = tower_output(CONFIG, tower.params, images), seen_by(tower, images)
    assert found.dtype == np.float32 and found.shape == (count, 16, 64)
    np.testing.assert_allclose(found, one_by_one, atol=2e-5)
    half = tower.features(images)
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, one_by_one, atol=5e-3)  # float16: 11 bits


def test_no_images_have_no_output_and_images_of_another_size_are_refused(tower):
    assert tower_output(CONFIG, tower.params, Images().stacked(CONFIG)).shape == (0, 16, 64)
    with pytest.raises(ValueError, match="32"):
        tower_output(CONFIG, tower.params, np.zeros((1, 16, 16, 3), np.uint8))


def test_the_fingerprint_tells_towers_apart(tower):
    same = Tower(tower.config, jax.tree.map(np.array, tower.params))
    assert same.fingerprint == tower.fingerprint and len(tower.fingerprint) == 16
    assert Tower(tower.config.replace(num_heads=1), tower.params).fingerprint != tower.fingerprint
    other = tower.params | {"pos_embedding": jnp.asarray(tower.params["pos_embedding"]) + 1e-6}
    assert Tower(tower.config, other).fingerprint != tower.fingerprint


def test_arrays_have_the_features_of_their_own_images(tower, monkeypatch):
    """Examples about a, about b and a, and about none: features in the places of the images, zeros where there is none;
    all else is as without features. The tower sees two images."""
    a, b = plain(2)
    asked = np.stack([a]), np.stack([b, a]), np.zeros((0, 32, 32, 3), np.uint8)
    examples = [Example(images, "which?", (("a", True),), "vqa") for images in asked]
    words, lengths = tokenizer.multilingual(), {"num_images": 2, "prompt_length": 8, "target_length": 4}
    seen, real = [], frozen_tower.tower_output
    monkeypatch.setattr(frozen_tower, "tower_output", lambda *args: seen.append(len(args[2])) or real(*args))
    arrays = seen_arrays(examples, words, CONFIG, tower.params, **lengths)
    assert seen == [2] and arrays["features"].shape == (3, 2, 16, 64)
    of_a, of_b = seen_by(tower, np.stack([a, b]))
    nothing = np.zeros_like(of_a)
    np.testing.assert_allclose(arrays["features"], [[nothing, of_a], [of_b, of_a], [nothing, nothing]], atol=2e-5)
    expected = batching.to_arrays(examples, words, **lengths, image_size=32)
    assert set(arrays) - set(expected) == {"features"} and set(expected) - set(arrays) == {"images"}
    for name in set(arrays) & set(expected):
        np.testing.assert_array_equal(arrays[name], expected[name])
    with pytest.raises(ValueError, match="2 images"):
        seen_arrays(examples, words, CONFIG, tower.params, **lengths | {"num_images": 1})
