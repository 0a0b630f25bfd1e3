import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from kitlib import metrics
from kitlib.tools import plots


@pytest.fixture(autouse=True)
def clean():
    plots.style()
    yield
    plt.close("all")


def test_boxes_are_in_pixels_of_the_image_true_ones_solid():
    """Rows 0.5 to 1 of 8 are 4 to 8; columns 0.25 to 0.5 of 16 are 4 to 8."""
    _, ax = plt.subplots()
    plots.boxes(ax, np.zeros((8, 16, 3), np.uint8), true=[[0.5, 0.25, 1, 0.5]], predicted=np.zeros((0, 4)))
    white, black = ax.lines
    assert set(zip(black.get_xdata(), black.get_ydata(), strict=True)) == {(4, 4), (8, 4), (8, 8), (4, 8)}
    assert white.get_linewidth() > black.get_linewidth() and black.get_linestyle() == "-"
    plots.boxes(ax, np.zeros((8, 16, 3), np.uint8), predicted=[[0, 0, 1, 1]])
    assert ax.lines[-1].get_linestyle() != "-" and list(ax.lines[-1].get_xdata()) == [0, 16, 16, 0, 0]


def test_images_in_a_grid_and_attention_maps_that_cover_them():
    axes = plots.image_grid(np.zeros((13, 4, 4, 1)), titles=[str(i) for i in range(13)], columns=5)
    assert [len(ax.images) for ax in axes.flat] == [1] * 13 + [0] * 2 and axes[2, 2].get_title() == "12"
    images, maps = np.zeros((3, 28, 28, 1)), np.arange(3 * 16).reshape(3, 4, 4)
    images[:, 7:21, 7:21] = 1.0
    axes = plots.attention_maps(images, maps)
    (picture,), (overlay,) = axes[0, 2].images, axes[1, 2].images
    assert picture.get_extent() == overlay.get_extent() == [-0.5, 27.5, 27.5, -0.5]
    np.testing.assert_array_equal(overlay.get_array(), maps[2])
    outline = axes[1, 2].collections[0].get_paths()[0].vertices  # half-way between the pixels outside and inside
    assert (outline.min(), outline.max()) == (6.5, 20.5)


def test_curves_draw_the_mean_and_the_interval():
    values = np.array([[1.0, 2.0], [3.0, 6.0]])  # two seeds, two points
    _, ax = plt.subplots()
    plots.curves(ax, [10, 20], {"a": values, "b": values + 1}, xlabel="steps", ylabel="loss")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [2, 4])
    assert ax.lines[0].get_linestyle() != ax.lines[1].get_linestyle()  # distinguishable without colour
    band = ax.collections[0].get_paths()[0].vertices
    # The second point: mean 4, standard error 2; t with one degree of freedom is 12.7062.
    np.testing.assert_allclose([band[:, 1].min(), band[:, 1].max()], [4 - 25.4124, 4 + 25.4124], rtol=1e-5)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


def test_differences_are_paired():
    # Seeds differ by 10, arms by 1 and -2: only the pairs show it.
    base = np.array([10.0, 20.0, 30.0])
    _, ax = plt.subplots()
    plots.differences(ax, pd.DataFrame({"dense": base, "up": base + 1, "down": base - 2}), "dense", xlabel="gain")
    assert [text.get_text() for text in ax.get_yticklabels()] == ["up", "down"]
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [1, 1, 1])
    assert [container.lines[0].get_xdata()[0] for container in ax.containers] == [1, -2]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top
    arms = (("dense", 3.0), ("up", 2.5))
    rows = [(arm, seed, loss) for arm, end in arms for seed in (0, 1, 2) for loss in (9, end)]
    table = pd.DataFrame(rows, columns=["arm", "seed", "loss"])
    axes = plots.study_differences({"one": table, "two": table}, "dense", xlabel="loss minus dense")
    assert [ax.get_title() for ax in axes] == ["one", "two"]
    np.testing.assert_array_equal(axes[1].lines[0].get_xdata(), [-0.5] * 3)  # the last evaluations, not the first


def test_trials_are_points_of_which_the_best_is_black_and_the_worst_squash_no_others():
    """The largest median of a kind is 1.5: two trials that are far off are drawn there, and so is 1.8."""
    rows = [("dense", f"peak {i}", loss, i == 1) for i, loss in enumerate((1.0, 1.2, 1.5, 1.8, 100.0), 1)]
    rows += [("new", f"peak {i}, resumed", loss, i == 1) for i, loss in enumerate((0.5, 0.6, 100.0), 1)]
    _, ax = plt.subplots()
    plots.trials(ax, pd.DataFrame(rows, columns=["kind", "trial", "loss", "best"]))
    assert ax.get_legend_handles_labels()[1] == ["dense", "new"]
    assert [line.get_xdata().tolist() for line in ax.lines] == [[1, 2, 3, 4, 5], [1], [1, 2, 3], [1]]
    assert ax.lines[0].get_ydata().tolist() == [1.0, 1.2, 1.5, 1.5, 1.5]
    assert ax.lines[2].get_ydata().tolist() == [0.5, 0.6, 1.5]
    assert [line.get_color() == "0.1" for line in ax.lines] == [False, True, False, True]


def test_study_points_join_what_no_cheaper_arm_beats():
    rows = [("b", 0, 2, 4.0), ("b", 1, 2, 6.0), ("a", 0, 1, 7.0), ("a", 1, 1, 7.0), ("c", 0, 3, 6.0), ("c", 1, 3, 6.0)]
    rows += [("d", 0, 3, 1.0), ("d", 1, 3, 1.0)]
    _, ax = plt.subplots()
    table = pd.DataFrame(rows, columns=["arm", "seed", "cost", "loss"])
    plots.study_points(ax, table, "cost", "loss", xlabel="cost", ylabel="loss")
    assert ax.get_legend_handles_labels()[1] == ["b", "a", "c", "d"]
    first = ax.containers[0]
    assert (first[0].get_xdata()[0], first[0].get_ydata()[0]) == (2, 5.0)  # the mean of 4 and 6 ...
    # ... and its interval: the standard error is 1, and t with one degree of freedom 12.7062.
    np.testing.assert_allclose(first[2][0].get_segments()[0][:, 1], [5 - 12.7062, 5 + 12.7062], rtol=1e-5)
    frontier = ax.lines[-1]
    np.testing.assert_array_equal(frontier.get_xdata(), [1, 2, 3])  # a, b, d: c costs more than b and is worse
    np.testing.assert_array_equal(frontier.get_ydata(), [7, 5, 1])


def study(**arms) -> pd.DataFrame:
    """Two seeds of arms whose loss at step t is given, costing one parent for 10 steps; metric "more" is twice that."""
    points = [(arm, seed, t, x) for arm, values in arms.items() for seed in range(2) for t, x in values.items()]
    rows = [(arm, seed, t, t / 10, x, 2 * x) for arm, seed, t, x in points]
    return pd.DataFrame(rows, columns=["arm", "seed", "extra_steps", "extra_cost", "loss", "more"])


def test_what_a_gate_looks_at_and_what_a_budget_buys():
    arms = {"parent": {0: 3.0, 10: 1.0}, "dense": {0: 1.0, 10: 0.9}, "scratch": {0: 3.0, 20: 0.5}, "upcycled": {0: 1.0}}
    table = study(**arms)
    found = pd.DataFrame([("dense", "peak 0.1", 1.0, True)], columns=["kind", "trial", "loss", "best"])
    left, right = plots.study_search(found, table, 10, ylabel="loss", ylim=(0, 4))
    assert left.get_ylabel() == "validation loss" and right.get_ylim() == (0, 4)
    lines = {line.get_label(): line.get_xdata().tolist() for line in right.lines}
    assert lines == {"parent": [0, 10], "dense": [10, 20], "scratch": [0, 20]}  # dense goes on where the parent ends
    axes = plots.study_budget(table, {"loss": "a", "more": "b"}, [(0, 3), None])
    assert [ax.get_ylabel() for ax in axes] == ["a", "b"] and axes[0].get_ylim() == (0, 3)
    assert {line.get_label() for line in axes[1].lines} == {"dense", "scratch", "upcycled"}  # not the parent
    assert axes[0].get_legend() and not axes[1].get_legend()


def test_every_verdict_has_a_mark():
    rows = [
        ("a", 0.5, 0.4, 0.7, "seen"), ("b", 0.0, -0.1, 0.1, "undecided (needs about 9 seeds)"),
        ("c", -0.3, -0.4, -0.2, "reversed"), ("d", 0.0, -0.1, 0.1, "no difference above 0.2"),
        ("e", 0.1, -0.1, 0.3, "floor"), ("f", 0.2, 0.1, 0.3, "precondition not met"),
    ]  # fmt: skip
    _, ax = plt.subplots()
    table = pd.DataFrame(rows, columns=["claim", "gain", "low", "high", "verdict"])
    plots.verdicts(ax, table, xlabel="loss saved")
    points = [container.lines[0] for container in ax.containers]
    assert [point.get_xdata()[0] for point in points] == [0.5, 0.0, -0.3, 0.0, 0.1, 0.2]
    assert [point.get_marker() for point in points] == ["o", "s", "X", "|", "v", "x"]
    bars = [container.lines[2][0].get_segments()[0][:, 0] for container in ax.containers]
    np.testing.assert_allclose(bars[:3], [[0.4, 0.7], [-0.1, 0.1], [-0.4, -0.2]])
    assert [text.get_text() for text in ax.get_yticklabels()] == list("abcdef")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(plots.VERDICTS)


def test_reliability_diagram_bars_are_the_accuracy():
    # Bins (0.4, 0.6] and (0.6, 0.8] and (0.8, 1]: right with 0.6, wrong with 0.8 (overconfident), right with 0.9.
    probs, labels = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]]), np.array([0, 1, 0])
    _, ax = plt.subplots()
    plots.reliability_diagram(ax, metrics.reliability(probs, labels, bins=5), "title")
    bars, over, under = (ax.patches[3 * i : 3 * i + 3] for i in range(3))
    np.testing.assert_allclose([bar.get_height() for bar in bars], [1, 0, 1])
    np.testing.assert_allclose([bar.get_height() for bar in over], [0, 0.8, 0], atol=1e-12)
    np.testing.assert_allclose([bar.get_height() for bar in under], [-0.4, 0, -0.1], atol=1e-12)


def test_three_colours_are_principal_components():
    """Patches that vary along three axes, most along the second: each colour is one axis, scaled to its own range."""
    rng = np.random.default_rng(0)
    axes = np.array([3.0, 9.0, 1.0]) * rng.uniform(-1, 1, (200, 3))
    colours = plots.three_colours(np.concatenate([axes, np.zeros((200, 4))], axis=1))
    assert colours.shape == (200, 3)
    assert colours.min(axis=0).tolist() == [0] * 3 and colours.max(axis=0).tolist() == [1] * 3
    for colour, axis in zip(colours.T, (1, 0, 2), strict=True):
        assert abs(np.corrcoef(colour, axes[:, axis])[0, 1]) > 0.95
