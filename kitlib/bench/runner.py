"""`kit bench [vit] [moe] [e3] [t5] [palix] [import]`: prints the named tables, or all of them."""

import functools
import os
import platform
import subprocess
import sys

import jax

from kitlib.bench import models, moe, timing
from kitlib.configs.arguments import one_of


def import_table() -> None:
    """Prints the wall-clock seconds of whole processes that only import, next to Flax and Optax alone."""
    lines = {
        "flax.linen + optax": "import flax.linen, optax",
        "kitlib": "import kitlib",
        "kitlib, its model and training": "from kitlib.models import vit; from kitlib.training import classification",
        "... and its data pipeline (Grain)": "from kitlib.training import loop; from kitlib.data import image_batches",
    }
    run = functools.partial(subprocess.run, check=True)
    seconds = timing.medians({k: functools.partial(run, [sys.executable, "-c", line]) for k, line in lines.items()})
    print(f"\n{'import':36}{'s':>6}{'ratio':>8}")
    for name, s in seconds.items():
        print(f"{name:36}{s:6.2f}{s / seconds['flax.linen + optax']:8.2f}")


TABLES = {
    "vit": (models.vit_table,),
    "moe": (moe.layer_table, moe.parts_table, moe.step_table, moe.step_parts_table),
    "e3": (moe.members_table, moe.together_table),
    "t5": (models.t5_tables,),
    "palix": (models.palix_table,),
    "import": (import_table,),
}


def main(names: tuple[str, ...] = ()) -> None:
    """Prints the named tables, or all of them."""
    for name in names:
        one_of("bench", name, TABLES, SystemExit)
    device, tunables = jax.devices()[0], os.environ.get("GLIBC_TUNABLES", "unset")
    print(f"jax {jax.__version__}, {platform.machine()}, {device.device_kind}, float32, {timing.ROUNDS} rounds")
    print(f"GLIBC_TUNABLES: {tunables}")
    for name in names or TABLES:
        for table in TABLES[name]:
            table()
