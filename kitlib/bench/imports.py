"""`kit bench import`: the time of processes that only import a module."""

import functools
import statistics
import subprocess
import sys

from kitlib.bench import timing


def main() -> None:
    """Prints the wall-clock seconds of whole processes that only import, next to Flax and Optax alone."""
    lines = {
        "flax.linen + optax": "import flax.linen, optax",
        "kitlib": "import kitlib",
        "kitlib, its model and training": "from kitlib.models import vit; from kitlib.training import classification",
        "... and its data pipeline (Grain)": "from kitlib.training import loop; from kitlib.data import image_batches",
    }
    calls = {
        k: functools.partial(subprocess.run, [sys.executable, "-c", line], check=True) for k, line in lines.items()
    }
    seconds = {k: statistics.median(v) for k, v in timing.interleaved(calls).items()}
    print(f"\n{'import':36}{'s':>6}{'ratio':>8}")
    for name, s in seconds.items():
        print(f"{name:36}{s:6.2f}{s / seconds['flax.linen + optax']:8.2f}")
