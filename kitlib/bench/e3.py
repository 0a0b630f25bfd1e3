"""`kit bench e3`: the cost of members. E3's training step next to the V-MoE's; a deep ensemble trained as one program.

E3's extra cost should equal the counted one (`flops`): everything after the tokens are copied costs M times as much.
For the timing see `timing`.
"""

import statistics

import jax

from kitlib import configs, ensembles
from kitlib.bench import timing
from kitlib.models import flops
from kitlib.models.vit import ViT

STEP, BATCH = configs.vit("VMoE-S/32"), 16
SMALL, SMALL_BATCH = configs.vit("tiny/7", image_size=(28, 28), channels=1, num_classes=10), 128


def main() -> None:
    step_table()
    together_table()


def step_table() -> None:
    """Training step with AdamW: ViT, V-MoE, E3 with either tiling; 8 experts in the last two odd blocks."""
    moe = configs.MoEConfig(num_experts=8, capacity_factor=1.0)
    odd = tuple(range(1, STEP.depth, 2))[-2:]
    vmoe = STEP.replace(moe=moe, moe_blocks=odd)
    rows = {"ViT": STEP, "V-MoE K=1": vmoe, "V-MoE K=2": vmoe.replace(moe=moe.replace(num_selected=2))}
    for m in (2, 4):
        for tiling in ("lazy", "block"):
            rows[f"E3 K=1 M={m}, {tiling}"] = vmoe.replace(e3=configs.E3Config(m, tiling))
    batch = timing.random_batch(STEP, BATCH)
    calls = {name: timing.stepper(*timing.step_and_state(ViT(config), config), batch) for name, config in rows.items()}
    seconds = {name: statistics.median(s) for name, s in timing.interleaved(calls).items()}
    counted = {name: sum(flops.vit_forward_flops(config).values()) for name, config in rows.items()}
    base = "V-MoE K=1"
    title = f"{STEP.image_size[0]} px, batch {BATCH}: training step"
    print(f"\n{title:36}{'ms':>8}{'vs V-MoE':>10}{'counted':>10}{'ratio':>8}")
    for name, s in seconds.items():
        measured, expected = s / seconds[base], counted[name] / counted[base]
        print(f"{name:36}{1e3 * s:8.0f}{measured:10.2f}{expected:10.2f}{measured / expected:8.2f}")


def together_table() -> None:
    """One step of M members of a deep ensemble, each on its own batch: one vmapped program against M separate steps."""
    step, state = timing.step_and_state(ViT(SMALL), SMALL)
    batch = timing.random_batch(SMALL, SMALL_BATCH)
    print(f"\n{'deep ensemble, tiny ViT, batch 128':36}{'ms':>8}{'vs apart':>10}")
    for m in (2, 4):
        apart = [timing.stepper(step, jax.tree.map(jax.numpy.copy, state), batch) for _ in range(m)]
        together = jax.jit(jax.vmap(step), donate_argnums=0)
        calls = {
            "one after the other": lambda apart=apart: [call() for call in apart],
            "one program": timing.stepper(together, ensembles.stack([state] * m), ensembles.stack([batch] * m)),
        }
        seconds = {name: statistics.median(s) for name, s in timing.interleaved(calls).items()}
        for name, s in seconds.items():
            print(f"{f'M={m}, {name}':36}{1e3 * s:8.1f}{s / seconds['one after the other']:10.2f}")
