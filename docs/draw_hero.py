"""Draws hero.png, the figure at the top of README.md: upcycling as a drawing, as a measurement, and what a tower sees.

kit weights fetch dinov2-s14
python docs/draw_hero.py
"""

from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cbook import get_sample_data
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from kitlib.data import download
from kitlib.models import dinov2
from kitlib.models.vit import ViT
from kitlib.studies.tables import read_table
from kitlib.tools import plots

BLUE, ORANGE, GREEN = "C0", "C1", "C2"


def surgery(ax) -> None:
    """A dense block becomes one with experts: copies of its MLP, and a router."""

    def box(x, y, text, color, width=2.0, height=0.8):
        ax.add_patch(
            FancyBboxPatch(
                (x, y), width, height, boxstyle="round,pad=0.08", facecolor=color, alpha=0.25, edgecolor="0.2"
            )
        )
        ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)

    box(0.0, 0.2, "attention", "0.6")
    box(0.0, 1.9, "MLP", BLUE)
    box(4.4, 0.2, "attention", "0.6", width=3.2)
    box(4.4, 1.5, "router", ORANGE, width=3.2, height=0.5)
    for i in range(4):
        box(4.4 + 0.86 * i, 2.5, "MLP", BLUE, width=0.62, height=0.7)
    ax.annotate(
        "", (4.2, 1.6), (2.2, 1.6), arrowprops={"arrowstyle": "simple", "color": "0.2", "shrinkA": 0, "shrinkB": 0}
    )
    ax.text(3.2, 1.8, "copy", ha="center", fontsize=9)
    for x in (1.0, 6.0):
        ax.plot((x, x), (-0.1, 0.12), color="0.2", lw=1)
        ax.plot((x, x), (1.08, 1.42 if x > 1 else 1.82), color="0.2", lw=1)
    for i in range(4):
        ax.plot((6.0, 4.71 + 0.86 * i), (2.08, 2.42), color="0.2", lw=0.6)
    ax.text(1.0, 3.4, "trained block", ha="center", fontsize=9)
    ax.text(6.0, 3.7, "the same with experts", ha="center", fontsize=9)
    ax.set(xlim=(-0.3, 8.2), ylim=(-0.1, 4.1), title="sparse upcycling")
    ax.axis("off")


def measurement(ax) -> None:
    """Loss against extra cost on recall, ten seeds."""
    table = read_table("upcycling", "recall_curves")
    shown = table[table["arm"].isin(("dense", "upcycled", "scratch")) & (table["extra_cost"] <= 1.05)]
    plots.study_curves(ax, shown, "extra_cost", "loss", xlabel="extra training, in parents", ylabel="loss")
    ax.legend().remove()
    for text, x, y in (("dense goes on", 0.55, 1.47), ("upcycled", 0.2, 0.92), ("mixture from scratch", 0.3, 1.9)):
        ax.text(x, y, text, fontsize=9)
    ax.set(ylim=(0.6, 2.3), title="measured on a T5 that learns names: ten seeds")


def tower(axes) -> None:
    """A photograph (of Grace Hopper, U.S. Navy, public domain) and the patches of a real DINOv2 in three colours."""
    config, params = dinov2.load(download.weights_file("dinov2-s14"), (448, 448))
    with Image.open(get_sample_data("grace_hopper.jpg")) as file:
        photo = np.asarray(file.crop((0, 0, 512, 512)).resize((448, 448), Image.Resampling.BICUBIC))
    _, out = jax.jit(ViT(config).apply)({"params": params}, dinov2.normalize(photo[None]))
    patches = np.asarray(out["block09"]["+mlp"][0, 1:])
    axes[0].imshow(photo)
    axes[1].imshow(plots.three_colours(patches).reshape(*config.grid, 3))
    for ax, title in zip(axes, ("a photograph", "what a real tower sees"), strict=True):
        ax.set_title(title)
        ax.axis("off")


def main() -> None:
    """Writes docs/hero.png."""
    plots.style()
    fig, axes = plt.subplots(1, 4, figsize=(15, 3.4), width_ratios=(1.25, 1.35, 0.85, 0.85))
    surgery(axes[0])
    measurement(axes[1])
    tower(axes[2:])
    path = Path(__file__).with_name("hero.png")
    fig.savefig(path, dpi=80)
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


if __name__ == "__main__":
    main()
