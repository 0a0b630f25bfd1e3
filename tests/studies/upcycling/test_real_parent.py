"""kitlib.studies.upcycling.real_parent with a small random parent in place of the real one, and made pictures."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from trees import random_params

from kitlib import configs, data
from kitlib.data import download
from kitlib.models import dinov2, vit
from kitlib.models.vit import UpperViT, ViT
from kitlib.studies.upcycling import real_parent
from kitlib.studies.upcycling.real_parent import RealArm
from kitlib.upcycling import surgery

pytestmark = pytest.mark.slow


def small_config(image_size=(56, 56), **changes):
    fields = {"num_classes": 0, "layer_scale": 0.5, "activation": "gelu_exact"} | changes
    return configs.vit("S/14", image_size=image_size, **fields).replace(width=24, mlp_dim=48, num_heads=2)


@pytest.fixture
def parent(monkeypatch, tmp_path):
    """(config, params) of the small parent; features of 70 made pictures are in tmp_path."""
    config = small_config(num_classes=10)
    params = random_params(config, spread=0.2)
    fake = types.SimpleNamespace(
        config=small_config, load=lambda path, size, **changes: (config, params), normalize=dinov2.normalize
    )
    monkeypatch.setattr(real_parent, "dinov2", fake)
    monkeypatch.setattr(download, "weights_file", lambda name: tmp_path / "weights")
    images = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), np.uint8)
    labels = np.arange(70) % 10
    source = data.from_arrays(images, labels, name="cifar10", class_names=[f"c{i}" for i in range(10)])
    monkeypatch.setattr(data, "load", lambda name, split, full: source)
    splits = {"train": ("train", 0, 40), "valid": ("train", 40, 60), "test": ("test", 0, 30)}
    for name, value in {"SPLITS": splits, "STEPS": 4, "BATCH": 8}.items():
        monkeypatch.setattr(real_parent, name, value)
    real_parent.cached_features.cache_clear()
    real_parent.prepare(0, tmp_path)
    yield config, params
    real_parent.cached_features.cache_clear()


def test_features_are_what_enters_the_upper_blocks(parent, tmp_path):
    config, params = parent
    found = real_parent.cached_features(tmp_path)
    for split, n in (("train", 40), ("valid", 20), ("test", 30)):
        assert (found[split].shape, found[f"{split}_labels"].shape) == ((n, 17, 24), (n,))
    order = np.random.default_rng(0).permutation(70)
    images, labels = data.load("cifar10", "train", full=True).take(order[40:60])
    np.testing.assert_array_equal(found["valid_labels"], labels)
    big = jax.image.resize(dinov2.normalize(images), (20, 56, 56, 3), "bilinear")
    _, out = ViT(config).apply({"params": params}, big)
    np.testing.assert_allclose(found["valid"], out["block09"]["+mlp"], rtol=2e-3, atol=2e-3)  # kept in 16 bits
    (path,) = tmp_path.glob("features-*.npz")
    before = path.stat().st_mtime_ns
    real_parent.prepare(1, tmp_path)  # another seed uses the same file
    assert path.stat().st_mtime_ns == before


def logits_of(arm: RealArm, tokens):
    model = UpperViT(vit.upper_config(arm.config, real_parent.FIRST))
    return np.asarray(model.apply({"params": real_parent.start(arm, 0)}, tokens)[0])


def test_step_0(parent, tmp_path):
    """With capacity for all tokens the upcycled model is the dense one; an E3 has two members; new blocks are new."""
    tokens = real_parent.cached_features(tmp_path)["test"][:8].astype(np.float32)
    dense = logits_of(RealArm("dense", 1e-3), tokens)
    assert dense.shape == (8, 10)
    full = RealArm("upcycled", 1e-3, capacity=float(real_parent.EXPERTS))
    np.testing.assert_allclose(logits_of(full, tokens), dense, atol=1e-4)
    assert np.abs(logits_of(RealArm("upcycled", 1e-3), tokens) - dense).max() > 1e-4
    assert logits_of(RealArm("E3", 1e-3), tokens).shape == (2, 8, 10)
    assert not logits_of(RealArm("new mixture", 1e-3), tokens).any()  # a zero head
    for kind in real_parent.KINDS:
        layers = surgery.moe_layers(RealArm(kind, 1e-3).config)
        assert list(layers) == ([] if "dense" in kind else [f"Transformer/encoderblock_{i}" for i in (10, 11)])


@pytest.mark.parametrize("kind", ["dense", "upcycled", "E3", "new mixture"])
def test_rows_end_at_their_cost(kind, parent, tmp_path):
    arm = dataclasses.replace(real_parent.curves().arms[kind], peak=1e-2)
    rows = real_parent.run_arm(arm, 0, tmp_path, split="valid")
    assert rows[0]["extra_steps"] == 0 and rows[-1]["extra_cost"] >= 1.0
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert rows[-1]["loss"] != rows[0]["loss"]
    np.testing.assert_equal(real_parent.run_arm(arm, 0, tmp_path, split="valid"), rows)


def test_costs():
    """C = 1 costs what the dense blocks cost, and the router; an E3 of two members costs more than its V-MoE."""
    cost = {
        kind: real_parent.relative_cost(arm.config) for kind, arm in real_parent.curves().arms.items() if arm.cost == 1
    }
    assert cost["dense"] == 1.0 and 1.0 < cost["upcycled"] < 1.01
    assert cost["E3"] > 1.2 * cost["top-1"]
    twice = real_parent.relative_cost(RealArm("upcycled", 1e-3, capacity=2.0).config)
    assert twice == pytest.approx(1.0 + 2 * 384 * 1536 / (4 * 384**2 + 2 * 384 * 1536 + 2 * 17 * 384), rel=0.01)
