"""AdamW with a cosine schedule, compiled once per model: the recipe of most training runs of the kit.

    tx, step = adamw_cosine_step(classification_loss, model, num_steps=800, peak=4e-3, warmup=100, weight_decay=0.1)

`optim` has the parts for other recipes, `loop` the step.
"""

import functools
from collections.abc import Callable

import optax

from kitlib.training import loop, optim


@functools.cache  # compiled once for several seeds of one model
def adamw_cosine_step(
    make_loss: Callable,
    model,
    num_steps: int,
    peak: float,
    *,
    warmup: int,
    weight_decay: float = 0.0,
    freeze: tuple[str, ...] = (),
    **loss_options,
) -> tuple[optax.GradientTransformation, Callable]:
    """(optimiser, jitted step) for the loss make_loss(model, **loss_options); gradients are clipped at norm 1.

    peak: the largest learning rate, after `warmup` steps. freeze: as for `optim.assemble`.
    """
    schedule = optim.cosine(peak, num_steps, warmup)
    tx = optim.assemble(optax.scale_by_adam(), schedule, weight_decay=weight_decay, clip_norm=1.0, freeze=freeze)
    return tx, loop.make_step(make_loss(model, **loss_options), tx)
