"""One style for every figure of the kit, and the figures that several notebooks share.

Colours come from a palette that stays apart in grey and for colour-blind readers; lines differ by dash and marker too.
Every function draws on the axes it is given or made, returns them, and calls no `show`: the notebook does.

Built in notebooks/02_train_and_measure.ipynb.
"""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from kitlib.metrics import Reliability, bootstrap

MARKERS = ("o", "s", "^", "D", "v", "P")
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
            "legend.frameon": False,
        }
    )


def image_grid(images, titles=(), columns: int = 10, size: float = 1.1):
    """Pictures [n, height, width, 1 or 3], any range, in rows of `columns`; titles: one string a picture."""
    rows = -(-len(images) // columns)
    height = size * (1.25 if len(titles) else 1.0)
    _, axes = plt.subplots(rows, columns, figsize=(size * columns, height * rows), squeeze=False)
    for i, ax in enumerate(axes.flat):
        ax.axis("off")
        if i < len(images):
            ax.imshow(np.squeeze(np.asarray(images[i])))
            ax.set_title(titles[i] if len(titles) else "", fontsize=9)
    return axes


def attention_maps(images, maps, titles=(), size: float = 1.3):
    """Upper row: pictures [n, height, width, C]; lower row: the same under maps [n, rows, cols] of attention.

    Each map is stretched over its picture and scaled to its own maximum.
    """
    _, axes = plt.subplots(2, len(images), figsize=(size * len(images), 2.2 * size), squeeze=False)
    for i, (image, weights) in enumerate(zip(np.asarray(images), np.asarray(maps), strict=True)):
        extent = (0, image.shape[1], image.shape[0], 0)
        axes[0, i].set_title(titles[i] if len(titles) else "", fontsize=9)
        for ax in axes[:, i]:
            ax.imshow(np.squeeze(image), extent=extent)
            ax.axis("off")
        axes[1, i].imshow(weights, cmap="viridis", alpha=0.7, extent=extent, vmin=0.0, interpolation="bilinear")
    return axes


def curves(ax, x, runs: dict[str, np.ndarray], *, xlabel: str, ylabel: str):
    """One line a name: the mean over seeds of float[seeds, points], with a band of its 95 % bootstrap interval."""
    for i, (name, values) in enumerate(runs.items()):
        mean, low, high = np.transpose([bootstrap(column) for column in np.asarray(values).T])
        marker = MARKERS[i % len(MARKERS)] if len(x) <= 20 else None
        (line,) = ax.plot(x, mean, linestyle=DASHES[i % len(DASHES)], marker=marker, label=name)
        ax.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()
    return ax


def reliability_diagram(ax, r: Reliability, title: str = ""):
    """Accuracy against confidence, one bar a bin, its shade the share of the examples; the diagonal is perfect."""
    width = np.diff(r.edges)
    share = r.count / r.count.sum()
    shade = 0.15 + 0.85 * share / share.max()
    ax.bar(r.edges[:-1], np.nan_to_num(r.accuracy), width, align="edge", color=plt.cm.Blues(shade), edgecolor="0.3")
    gap = np.nan_to_num(r.confidence - r.accuracy)
    ax.bar(
        r.edges[:-1], gap, width, bottom=np.nan_to_num(r.accuracy), align="edge", fill=False, hatch="///",
        edgecolor="tab:red", linewidth=0.5, label="gap",
    )  # fmt: skip
    ax.plot([0, 1], [0, 1], color="0.2", linestyle="--", label="perfect")
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", title=title)
    ax.legend(loc="upper left")
    return ax
