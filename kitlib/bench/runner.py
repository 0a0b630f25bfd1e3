"""`kit bench [vit] [moe] [e3] [t5] [palix] [import]`: prints the named tables, or all of them."""

import os
import platform

import jax

from kitlib.bench import e3, imports, moe, palix, t5, vit
from kitlib.bench.timing import ROUNDS
from kitlib.configs.arguments import one_of


def main(names: tuple[str, ...] = ()) -> None:
    """Prints the named tables, or all of them."""
    tables = {"vit": vit.main, "moe": moe.main, "e3": e3.main, "t5": t5.main}
    tables |= {"palix": palix.main, "import": imports.main}
    for name in names:
        one_of("bench", name, tables, SystemExit)
    device, tunables = jax.devices()[0], os.environ.get("GLIBC_TUNABLES", "unset")
    print(f"jax {jax.__version__}, {platform.machine()}, {device.device_kind}, float32, {ROUNDS} rounds")
    print(f"GLIBC_TUNABLES: {tunables}")
    for name in names or tables:
        tables[name]()
