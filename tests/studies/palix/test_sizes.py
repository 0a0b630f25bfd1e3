"""kitlib.studies.palix.sizes: nine models of the same compute, and trials for each of them."""

import numpy as np
import pytest

from kitlib.models import flops
from kitlib.studies.palix import runs, sizes
from kitlib.studies.palix.sizes import STEPS, TASKS, TOWER_STEPS, WIDTHS, arm


def spent(one) -> tuple[float, float]:
    """FLOPs of stage 0 (three times the forward pass, with the 651 logits of every patch) and of the phase."""
    config = runs.config(one.tower.width, one.text_width)
    with_head = config.tower.replace(num_classes=651)
    tower = 3 * sum(flops.vit_forward_flops(with_head).values()) * runs.TOWER_BATCH * one.tower.steps
    (phase,) = one.phases
    return tower, sizes.example_flops(config, phase) * phase.rows * phase.steps


def test_all_nine_models_may_spend_the_same():
    arms = sizes.sizes().arms
    assert len(arms) == 9 and {(one.tower.width, one.text_width) for one in arms.values()} == {
        (a, b) for a in WIDTHS for b in WIDTHS
    }
    costs = np.array([spent(one) for one in arms.values()])
    np.testing.assert_allclose(costs / costs[4], 1.0, atol=0.001)
    middle = arms["tower 64, text 64"]
    assert middle.tower.steps == TOWER_STEPS and middle.phases[0].steps == STEPS


def test_the_flops_of_an_example_by_hand():
    """A model of which each part can be counted: 64 patches, prompt and target of 28 and 24 tokens; multiply-adds of
    the frozen tower count 2 FLOPs, all others 6 (forward, and backward twice as much)."""
    config, (phase,) = runs.config(64, 32), arm(64, 32).phases
    d, n, m = 32, 64 + phase.prompt_length, phase.target_length
    tower = 64 * 192 * 64 + 2 * (64 * (4 * 64**2 + 2 * 64 * 256) + 2 * 64**2 * 64)
    encoder = 2 * (n * (4 * d * d + 3 * d * 64) + 2 * n * n * d)
    decoder = 2 * (m * (6 * d * d + 3 * d * 64) + n * 2 * d * d + 2 * m * m * d + 2 * m * n * d)
    text = encoder + decoder + m * d * config.text.vocab_size
    assert sizes.example_flops(config, phase) == 2 * tower + 6 * (64 * 64 * d + text)


def test_a_trial_and_a_run(tmp_path, monkeypatch):
    """Two steps each; the mean is that of the five tasks."""
    monkeypatch.setattr(runs, "TEST_EXAMPLES", 4)
    monkeypatch.setattr(sizes, "TOWER_STEPS", 2)
    monkeypatch.setattr(sizes, "STEPS", 2)
    one = arm(64, 64, peak=1e-3, tower_peak=1e-3)
    (row,) = sizes.run(one, 0, tmp_path)
    assert row["accuracy: mean"] == pytest.approx(np.mean([row[f"accuracy: {name}"] for name in TASKS]))
    (trial,) = sizes.run_trial(one, 0, tmp_path)
    assert 5 < trial["loss"] < 15  # an untrained model's, log 4,096 and more
    (tower,) = sizes.run_tower(one, 0, tmp_path)
    assert tower["loss"] > 0
