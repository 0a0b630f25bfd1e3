"""`kit bench [vit] [moe] [e3] [t5] [palix] [import]`: prints the named tables, or all of them."""

import functools
import os
import platform
import statistics
import subprocess
import sys

import jax

from kitlib.bench import e3, moe, palix, t5, timing, vit
from kitlib.bench.timing import ROUNDS
from kitlib.configs.arguments import one_of


def imports() -> None:
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


def main(names: tuple[str, ...] = ()) -> None:
    """Prints the named tables, or all of them."""
    tables = {"vit": vit.main, "moe": moe.main, "e3": e3.main, "t5": t5.main}
    tables |= {"palix": palix.main, "import": imports}
    for name in names:
        one_of("bench", name, tables, SystemExit)
    device, tunables = jax.devices()[0], os.environ.get("GLIBC_TUNABLES", "unset")
    print(f"jax {jax.__version__}, {platform.machine()}, {device.device_kind}, float32, {ROUNDS} rounds")
    print(f"GLIBC_TUNABLES: {tunables}")
    for name in names or tables:
        tables[name]()
