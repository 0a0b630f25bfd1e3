"""kitlib.studies.upcycling.real_probes: what the probes are fitted to, on made features whose answers are known."""

import numpy as np
import pytest

from kitlib.data import files
from kitlib.studies.upcycling import real_probes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Features of 10 classes: "block01" is the class as a unit vector, "pixels" says nothing about it."""
    monkeypatch.setattr(real_probes, "SIZES", {"train": 300, "valid": 100, "test": 100})
    monkeypatch.setattr(real_probes, "PROBED", 200)
    rng, arrays = np.random.default_rng(0), {}
    for split, size in real_probes.SIZES.items():
        labels = np.arange(size, dtype=np.int32) % 10
        arrays |= {f"{split}_labels": labels, f"{split}_block01": np.eye(10, dtype=np.float16)[labels]}
        arrays |= {f"{split}_pixels": rng.normal(size=(size, 10)).astype(np.float16)}
    files.write_npz(real_probes.features_file(tmp_path), arrays)
    return tmp_path


def test_probes_of_features_that_know_everything_and_nothing(folder, monkeypatch):
    (row,) = real_probes.run_arm("block01", 0, folder)
    assert row | {"l2": 1.0} == dict.fromkeys(("accuracy", "shots_1", "shots_5", "shots_10", "l2"), 1.0)
    (row,) = real_probes.run_arm("pixels", 0, folder)
    assert all(row[name] < 0.3 for name in ("accuracy", "shots_1", "shots_5", "shots_10"))
    assert row["l2"] in real_probes.L2
    rows = [real_probes.run_arm("pixels", seed, folder)[0] for seed in (0, 1)]
    assert rows[0] == row != rows[1]  # other pictures
    # The decay is chosen on the validation split alone: whatever the test labels are, it is the same.
    arrays = files.read_arrays(real_probes.features_file(folder))
    turned = arrays | {"test_labels": arrays["test_labels"][::-1]}
    monkeypatch.setattr(real_probes, "cached_features", lambda folder: turned)
    assert real_probes.run_arm("pixels", 0, folder)[0]["l2"] == row["l2"]
