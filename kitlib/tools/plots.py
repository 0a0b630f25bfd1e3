"""One style for every figure of the kit, and the figures that several notebooks share.

The colours of the palette can be told apart in grey and by colour-blind readers; lines also differ in dash and marker.
Each function draws on the axes it is given, or makes them, and returns them. Notebooks call `show`, functions do not.

Built in notebooks/02_train_and_measure.ipynb.
"""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from kitlib.metrics import Reliability, t_interval
from kitlib.studies.tables import final

MARKERS = ("o", "s", "^", "D", "v", "P")
VERDICTS = {  # marker and filling
    "seen": ("o", "0.1"),
    "reversed": ("X", "0.1"),
    "no difference": ("|", "0.1"),
    "undecided": ("s", "white"),
    "floor": ("v", "white"),
    "precondition": ("x", "0.6"),
}
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (3, 1)))


def style() -> None:
    """Sets the kit's style; every notebook calls it once. Figures are PNG of fixed size, so that outputs stay small."""
    sns.set_theme(context="notebook", style="ticks", palette="colorblind", font_scale=0.9)
    plt.rcParams.update(
        {
            "figure.dpi": 80,
            "figure.figsize": (6.4, 3.6),
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "image.cmap": "gray_r",
            "image.interpolation": "nearest",  # smoothed noise would make files large
            "legend.frameon": False,
        }
    )


def image_grid(images, titles=(), columns: int = 10, size: float = 1.1):
    """Images [n, height, width, 1 or 3] on one common range, in rows of `columns`; titles: one string per image."""
    images = np.asarray(images)
    scale = {"vmin": images.min(), "vmax": images.max()}
    rows = -(-len(images) // columns)
    height = size * (1.25 if len(titles) else 1.0)
    _, axes = plt.subplots(rows, columns, figsize=(size * columns, height * rows), squeeze=False)
    for i, ax in enumerate(axes.flat):
        ax.axis("off")
        if i < len(images):
            ax.imshow(np.squeeze(images[i], axis=-1) if images.shape[-1] == 1 else images[i], **scale)
            ax.set_title(titles[i] if len(titles) else "", fontsize=9)
    return axes


def boxes(ax, image, true=(), predicted=()):
    """The image [height, width, 3] with boxes float[n, 4] in shares of it (y0, x0, y1, x1): true ones solid, predicted
    ones dashed. Lines are black on white, so that they show on any ground."""
    height, width = np.shape(image)[:2]
    ax.imshow(image, extent=(0, width, height, 0))
    for dash, group in (("-", true), ((0, (3, 2)), predicted)):
        for y0, x0, y1, x1 in np.reshape(group, (-1, 4)) * (height, width, height, width):
            for style in ({"color": "w", "linewidth": 3.5}, {"color": "k", "linewidth": 1.3, "linestyle": dash}):
                ax.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], **style)
    ax.axis("off")
    return ax


def attention_maps(images, maps, titles=(), size: float = 1.1):
    """Upper row: images [n, height, width, C]; lower row: maps [n, rows, cols] of attention, dark where it is high.

    Each map is scaled to its own maximum; a line follows the outline of the image's object (at half its range).
    """
    _, axes = plt.subplots(2, len(images), figsize=(size * len(images), 2.3 * size), squeeze=False)
    for i, (image, weights) in enumerate(zip(np.asarray(images), np.asarray(maps), strict=True)):
        height, width = image.shape[:2]
        axes[0, i].set_title(titles[i] if len(titles) else "", fontsize=9)
        axes[0, i].imshow(np.squeeze(image, axis=-1) if image.shape[-1] == 1 else image)
        axes[1, i].imshow(weights, vmin=0.0, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        level = (float(image.max()) + float(image.min())) / 2
        axes[1, i].contour(image.mean(axis=-1), levels=[level], colors="tab:orange", linewidths=0.8)
        for ax in axes[:, i]:
            ax.axis("off")
    return axes


def three_colours(patches) -> np.ndarray:
    """float[N, D] -> float[N, 3] in [0, 1]: the first three principal components of N patches, as red, green and blue
    (2304.07193, figure 1)."""
    centred = np.asarray(patches) - np.mean(patches, axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    parts = centred @ directions[:3].T
    return (parts - parts.min(axis=0)) / np.ptp(parts, axis=0)


def curves(ax, x, runs: dict[str, np.ndarray], *, xlabel: str, ylabel: str):
    """One line per name: the mean over seeds of float[seeds, points], with a band of its 95 % t-interval.

    x: float[points], or a dict with one such array per name if they differ.
    """
    for i, (name, values) in enumerate(runs.items()):
        mean, low, high = np.transpose([t_interval(column) for column in np.asarray(values).T])
        at = x[name] if isinstance(x, dict) else x
        marker = MARKERS[i % len(MARKERS)] if len(at) <= 20 else None
        (line,) = ax.plot(at, mean, linestyle=DASHES[i % len(DASHES)], marker=marker, label=name)
        ax.fill_between(at, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return ax


def study_curves(ax, table, x: str, metric: str, *, xlabel: str, ylabel: str):
    """The arms of a study (`tables.read_table`), one line per arm as in `curves`: `metric` against the column `x`."""
    runs, places = {}, {}
    for arm in table["arm"].unique():
        seeds = [rows for _, rows in table[table["arm"] == arm].groupby("seed")]
        runs[arm], places[arm] = np.array([rows[metric] for rows in seeds]), seeds[0][x].to_numpy()
    return curves(ax, places, runs, xlabel=xlabel, ylabel=ylabel)


def differences(ax, values, baseline: str, *, xlabel: str = "", title: str = ""):
    """The columns of `values` (seeds by arms, from `tables.final`) minus the column `baseline`, seed by seed: dots, and
    their mean with its 95 % t-interval; one row per arm, the first on top."""
    arms = [arm for arm in values if arm != baseline]
    for i, arm in enumerate(arms):
        gain = (values[arm] - values[baseline]).to_numpy()
        mean, low, high = t_interval(gain)
        ax.plot(gain, np.full(len(gain), i + 0.22), ".", color="0.6", markersize=5)
        ax.errorbar(mean, i, xerr=[[mean - low], [high - mean]], fmt="o", color="0.1", capsize=4, markersize=5)
    ax.axvline(0.0, color="0.4", linewidth=1)
    ax.set(yticks=range(len(arms)), yticklabels=arms, ylim=(len(arms) - 0.5, -0.5), xlabel=xlabel, title=title)
    ax.grid(axis="y", visible=False)
    ax.locator_params(axis="x", nbins=4)
    return ax


def study_differences(tables: dict, baseline: str, *, xlabel: str):
    """The final losses of several studies (`tables.read_table`, by title) minus the baseline's: one panel of
    `differences` per study. Returns the axes."""
    _, axes = plt.subplots(1, len(tables), figsize=(4.4 * len(tables), 2.9), squeeze=False)
    for ax, (title, table) in zip(axes[0], tables.items(), strict=True):
        differences(ax, final(table, "loss"), baseline, xlabel=xlabel, title=title)
    return axes[0]


def study_points(ax, table, x: str, metric: str, *, xlabel: str, ylabel: str):
    """The arms of a study (`tables.read_table`) as points: `metric`, a loss, against the column `x`, a cost that is the
    same for all seeds. Mean and 95 % t-interval over seeds; the line joins arms that no cheaper one beats."""
    arms = [(arm, rows[x].iloc[0], t_interval(rows[metric])) for arm, rows in table.groupby("arm", sort=False)]
    for i, (arm, cost, (mean, low, high)) in enumerate(arms):
        again, kind = divmod(i, len(MARKERS))  # the second six are hollow: twelve arms can be told apart in grey
        look = {"fmt": MARKERS[kind], "color": f"C{kind}", "fillstyle": "none" if again else "full"}
        ax.errorbar(cost, mean, yerr=[[mean - low], [high - mean]], **look, capsize=3, markersize=6, label=arm)
    best = np.inf
    frontier = []
    for _, cost, (mean, _, _) in sorted(arms, key=lambda arm: (arm[1], arm[2][0])):
        if mean < best:
            frontier.append((cost, best := mean))
    ax.plot(*np.transpose(frontier), color="0.6", linewidth=1, zorder=0)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return ax


def trials(ax, table):
    """The trials of every kind of model (`checks.gate`): validation loss against learning rate; the best one is black.

    Lower is better; several trials at one rate differ in something else. What is worse than half of the trials of every
    kind is drawn at the upper edge, so that the rest can be told apart.
    """
    table = table.assign(peak=table["trial"].str.extract(r"peak ([\d.]+)")[0].astype(float))
    limit = table.groupby("kind")["loss"].median().max()
    for marker, (kind, rows) in zip(MARKERS, table.groupby("kind", sort=False), strict=False):
        ax.plot(rows["peak"], rows["loss"].clip(upper=limit), marker, fillstyle="none", label=kind)
        ax.plot(rows["peak"][rows["best"]], rows["loss"][rows["best"]], marker, color="0.1")
    low, high = table["peak"].min(), table["peak"].max()
    ticks = [x for x in (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0) if 0.9 * low <= x <= 1.1 * high]
    ax.set(xscale="log", xlabel="peak of the learning rate", ylabel="validation loss", title="trials (black: the best)")
    ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
    ax.minorticks_off()
    ax.legend(fontsize=8, ncols=2)
    return ax


def study_search(found, table, steps: int, *, ylabel: str, ylim: tuple[float, float]):
    """What a gate looks at. Left: the trials (`checks.gate`). Right, from the table of curves: dense training, which
    goes on after the parent's `steps`, and a mixture from scratch. Returns the axes."""
    _, axes = plt.subplots(1, 2, figsize=(11, 3.8))
    trials(axes[0], found)
    training = table[table["arm"].isin(("parent", "dense", "scratch"))].copy()
    training.loc[training["arm"] == "dense", "extra_steps"] += steps
    study_curves(axes[1], training, "extra_steps", "loss", xlabel="steps in all", ylabel=ylabel)
    axes[1].set(ylim=ylim, title="dense is near its end, experts are not")
    return axes


def study_budget(table, panels: dict[str, str], limits):
    """What an extra budget buys: a panel for each metric, with its label and its axis' limits. Returns the axes."""
    _, axes = plt.subplots(1, len(panels), figsize=(13, 3.8))
    shown = table[table["arm"].isin(("dense", "upcycled", "scratch", "deeper"))]
    for ax, (metric, label), ylim in zip(axes, panels.items(), limits, strict=True):
        study_curves(ax, shown, "extra_cost", metric, xlabel="extra cost (parent sunk)", ylabel=label)
        ax.set(ylim=ylim)
    for ax in axes[1:]:
        ax.legend().remove()
    return axes


def verdicts(ax, table, *, xlabel: str):
    """The rows of `checks.verdicts`, each with its 95 % t-interval and the mark of its verdict. (A verdict is corrected
    for the number of questions, an interval is not.) The axis is linear up to a power of ten below the largest value,
    logarithmic beyond."""
    for i, row in enumerate(table.to_dict("records")):
        error = [[row["gain"] - row["low"]], [row["high"] - row["gain"]]]
        mark, face = VERDICTS[next(word for word in VERDICTS if row["verdict"].startswith(word))]
        size = 12 if mark == "|" else 6  # a bar has to stand out from the caps of the intervals
        ax.errorbar(row["gain"], i, xerr=error, fmt=mark, color="0.1", mfc=face, capsize=3, markersize=size)
    ax.axvline(0, color="0.4", linewidth=1)
    ax.set(yticks=range(len(table)), yticklabels=table["claim"], ylim=(len(table) - 0.5, -0.5), xlabel=xlabel)
    ax.set_xscale("symlog", linthresh=10.0 ** (np.floor(np.log10(table["gain"].abs().max())) - 1))
    for word, (mark, face) in VERDICTS.items():
        if table["verdict"].str.startswith(word).any():
            ax.plot([], [], linestyle="", marker=mark, color="0.1", mfc=face, label=word)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.0 + 1.6 / len(table)), ncols=5, fontsize=8, handletextpad=0.1)
    return ax


def reliability_diagram(ax, r: Reliability, title: str = ""):
    """Accuracy against confidence, one bar per bin; the gaps between the two are hatched. The line is perfect."""
    filled = r.count > 0
    left, width = r.edges[:-1][filled], np.diff(r.edges)[filled]
    accuracy, gap = r.accuracy[filled], (r.confidence - r.accuracy)[filled]
    ax.bar(left, accuracy, width, align="edge", color="0.85", edgecolor="0.4")
    for name, sign, hatch, color in (("overconfident", 1, "///", "tab:red"), ("underconfident", -1, "...", "tab:blue")):
        heights = np.where(sign * gap > 0, gap, 0.0)
        style = {"hatch": hatch, "edgecolor": color, "linewidth": 0.5, "label": name}
        ax.bar(left, heights, width, bottom=accuracy, align="edge", fill=False, **style)
    ax.plot([0, 1], [0, 1], color="0.2", linestyle="--", label="perfect")
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", title=title)
    ax.legend(loc="upper left")
    return ax
