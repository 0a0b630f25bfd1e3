"""`kit bench e3`: what members cost. E3's training step beside the V-MoE's, and a deep ensemble trained as one program.

E3's extra cost should be the one that counting says (`flops`): what lies behind the copying of the tokens, M times.
Run by `kit bench e3`; see kitlib/bench.py for how things are timed.
"""

import statistics

import jax

from kitlib import bench, configs, ensembles, flops
from kitlib.vit import ViT

STEP, BATCH = configs.vit("VMoE-S/32"), 16
SMALL, SMALL_BATCH = configs.vit("tiny/7", image_size=(28, 28), channels=1, num_classes=10), 128


def main() -> None:
    step_table()
    together_table()


def step_table() -> None:
    """Training step, AdamW included: ViT, V-MoE, E3 tiled at either place; E = 8 in the last two odd blocks."""
    moe = configs.MoEConfig(num_experts=8, capacity_factor=1.0)
    odd = tuple(range(1, STEP.depth, 2))[-2:]
    vmoe = STEP.replace(moe=moe, moe_blocks=odd)
    rows = {"ViT": STEP, "V-MoE K=1": vmoe, "V-MoE K=2": vmoe.replace(moe=moe.replace(num_selected=2))}
    for m in (2, 4):
        for tiling in ("lazy", "block"):
            rows[f"E3 K=1 M={m}, {tiling}"] = vmoe.replace(e3=configs.E3Config(m, tiling))
    batch = bench.random_batch(STEP, BATCH)
    calls = {name: bench.stepper(*bench.training(ViT(config), config), batch) for name, config in rows.items()}
    seconds = {name: statistics.median(s) for name, s in bench.interleaved(calls).items()}
    counted = {name: sum(flops.vit_forward_flops(config).values()) for name, config in rows.items()}
    base = "V-MoE K=1"
    title = f"{STEP.image_size[0]} px, batch {BATCH}: training step"
    print(f"\n{title:36}{'ms':>8}{'vs V-MoE':>10}{'counted':>10}{'ratio':>8}")
    for name, s in seconds.items():
        measured, closed = s / seconds[base], counted[name] / counted[base]
        print(f"{name:36}{1e3 * s:8.0f}{measured:10.2f}{closed:10.2f}{measured / closed:8.2f}")


def together_table() -> None:
    """M members of a deep ensemble, each a step on its own batch: one vmapped program against one after the other."""
    step, state = bench.training(ViT(SMALL), SMALL)
    batch = bench.random_batch(SMALL, SMALL_BATCH)
    print(f"\n{'deep ensemble, tiny ViT, batch 128':36}{'ms':>8}{'vs apart':>10}")
    for m in (2, 4):
        apart = [bench.stepper(step, jax.tree.map(jax.numpy.copy, state), batch) for _ in range(m)]
        together = jax.jit(jax.vmap(step), donate_argnums=0)
        calls = {
            "one after the other": lambda apart=apart: [call() for call in apart],
            "one program": bench.stepper(together, ensembles.stack([state] * m), ensembles.stack([batch] * m)),
        }
        seconds = {name: statistics.median(s) for name, s in bench.interleaved(calls).items()}
        for name, s in seconds.items():
            print(f"{f'M={m}, {name}':36}{1e3 * s:8.1f}{s / seconds['one after the other']:10.2f}")
