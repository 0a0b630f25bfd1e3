"""Optimisers and schedules: one assembly around any optax core.

    tx = optim.assemble(optax.scale_by_adam(), optim.cosine(1e-3, 1000, warmup=100),
                        weight_decay=0.03, head_weight_decay=3.0, clip_norm=1.0, freeze=("embedding",))

Cores: `optax.scale_by_adam()` (AdamW), `optax.trace(0.9)` (SGD with momentum), `scale_by_adafactor()`,
`scale_by_big_vision_adafactor()`, `scale_by_muon()`. `adamw_cosine_step` is the recipe of most runs of the kit:

    tx, step = adamw_cosine_step(classification_loss, model, num_steps=800, peak=4e-3, warmup=100, weight_decay=0.1)

Built in notebooks/02_train_and_measure.ipynb.
"""

import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import keystr

from kitlib.configs.arguments import number, whole
from kitlib.training import loop

# ---------------------------------------------------------------------------------------------- schedules


def cosine(peak: float, total_steps: int, warmup: int = 0) -> optax.Schedule:
    """Linear warm-up from 0 to `peak`, then half a cosine down to 0 at `total_steps`."""
    _check(peak, total_steps, warmup)
    return optax.warmup_cosine_decay_schedule(0.0 if warmup else peak, peak, warmup, total_steps)


def linear(peak: float, total_steps: int, warmup: int = 0, end: float = 0.0) -> optax.Schedule:
    """Linear warm-up from 0 to `peak`, then a straight line to `end` at `total_steps` (V-MoE: end 1e-5)."""
    _check(peak, total_steps, warmup)
    number("end", end, 0.0)
    down = optax.linear_schedule(peak, end, total_steps - warmup)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), down], [warmup]) if warmup else down


def rsqrt(peak: float, total_steps: int, warmup: int = 0, cooldown: int = 0, timescale: int = 10_000) -> optax.Schedule:
    """Reciprocal square root with warm-up and linear cool-down (2106.04560, section 3.5).

    After the warm-up: peak * sqrt(timescale / (timescale + step - warmup)). Only the cool-down, a factor min(1, (total
    - step) / cooldown), depends on the end of training, so that a run can be extended from any step before it.
    """
    _check(peak, total_steps, warmup, cooldown)
    whole("timescale", timescale, 1)

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        rate = peak * jnp.sqrt(timescale / (timescale + jnp.maximum(step - warmup, 0.0)))
        if warmup:
            rate = rate * jnp.minimum(1.0, step / warmup)
        if cooldown:
            rate = rate * jnp.clip((total_steps - step) / cooldown, 0.0, 1.0)
        return rate

    return schedule


def _check(peak: float, total_steps: int, warmup: int, cooldown: int = 0) -> None:
    number("peak", peak, 0.0)
    ramp = whole("warmup", warmup, 0) + whole("cooldown", cooldown, 0)
    if ramp >= whole("total_steps", total_steps, 1):
        raise ValueError(
            f"Warm-up and cool-down take {ramp} steps; they must be fewer than the {total_steps} in all: shorten them "
            "(warmup, cooldown), or take more steps."
        )


# ---------------------------------------------------------------------------------------------- assembly


def assemble(
    core: optax.GradientTransformation,
    learning_rate: float | optax.Schedule,
    *,
    weight_decay: float = 0.0,
    head_weight_decay: float | None = None,
    clip_norm: float | None = None,
    freeze: tuple[str, ...] = (),
) -> optax.GradientTransformation:
    """clip -> core -> decoupled weight decay -> learning rate, for the parameters that are not frozen.

    Weight decay acts on kernels only (not on biases, norms, positions, class token) and is multiplied by the learning
    rate, as in `optax.adamw`; big_vision's `wd` is this times the peak learning rate. head_weight_decay replaces it on
    `head/kernel` (2106.04560 decays the head 100 times more than the body). freeze: regular expressions, matched at the
    start of names "a/b/c"; frozen parameters get no update, decay or optimiser state, and do not count in the clipping
    norm. Raises ValueError for a pattern that matches nothing, and for negative rates.
    """
    head_weight_decay = weight_decay if head_weight_decay is None else head_weight_decay
    if not callable(learning_rate):
        number("learning_rate", learning_rate, 0.0)
    if clip_norm is not None:
        number("clip_norm", clip_norm, above=0.0)
    number("weight_decay", weight_decay, 0.0)
    number("head_weight_decay", head_weight_decay, 0.0)
    if not isinstance(freeze, tuple | list) or not all(isinstance(pattern, str) for pattern in freeze):
        raise ValueError(f"freeze is {freeze!r}; expected a tuple of patterns, such as ('embedding',).")
    if not isinstance(core, optax.GradientTransformation):
        raise ValueError(f"core is {core!r}; expected an optax transformation, such as optax.scale_by_adam().")
    body = functools.partial(map_names, lambda name: name.endswith("kernel") and name != "head/kernel")
    head = functools.partial(map_names, lambda name: name == "head/kernel")
    tx = optax.chain(
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        core,
        optax.add_decayed_weights(weight_decay, mask=body),
        optax.add_decayed_weights(head_weight_decay, mask=head),
        optax.scale_by_learning_rate(learning_rate),
    )
    if not freeze:
        return tx
    return optax.multi_transform({"train": tx, "freeze": optax.set_to_zero()}, lambda params: _labels(params, freeze))


def map_names(fn, params):
    """The tree of fn(name), with the name "a/b/c" of each leaf of params."""
    return jax.tree_util.tree_map_with_path(lambda path, _: fn(keystr(path, simple=True, separator="/")), params)


def _labels(params, freeze: tuple[str, ...]):
    names = jax.tree.leaves(map_names(str, params))
    for pattern in freeze:
        if not any(re.match(pattern, name) for name in names):
            raise ValueError(f"freeze pattern {pattern!r} matches no parameter; there are {', '.join(names[:8])}, ...")
    return map_names(lambda name: "freeze" if any(re.match(p, name) for p in freeze) else "train", params)


# ---------------------------------------------------------------------------------------------- two Adafactors


def scale_by_adafactor() -> optax.GradientTransformation:
    """Adafactor as in T5X (1804.04235): second moments factored for dimensions of at least 128, decay 1 - t^-0.8,
    updates clipped to root-mean-square 1 and multiplied by the root-mean-square of the parameter (at least 1e-3)."""
    return optax.chain(
        optax.scale_by_factored_rms(factored=True, decay_rate=0.8, min_dim_size_to_factor=128, epsilon=1e-30),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(1e-3),
    )


def scale_by_big_vision_adafactor(momentum: float = 0.9) -> optax.GradientTransformation:
    """Adafactor as changed in "Scaling Vision Transformers" (2106.04560, section 3.4 and big_vision's code).

    Factored for dimensions of at least 32, decay min(0.999, 1 - t^-0.8), no clipping, no scaling by the parameter, and
    a first moment in bfloat16: it needs the memory of SGD with half-precision momentum and has the quality of Adam.
    """
    return optax.chain(
        optax.scale_by_factored_rms(
            factored=True,
            decay_rate=0.8,
            min_dim_size_to_factor=32,
            epsilon=1e-30,
            decay_rate_fn=lambda step, rate: jnp.minimum(0.999, 1.0 - (step + 1.0) ** -rate),
        ),
        optax.ema(number("momentum", momentum, 0.0, below=1.0), debias=False, accumulator_dtype=jnp.bfloat16),
    )


# ---------------------------------------------------------------------------------------------- Muon


def scale_by_muon(ratio: float = 10.0) -> optax.GradientTransformation:
    """Muon (Jordan et al., 2024; optax's) for the matrices of the blocks, Adam for all other parameters; both with
    Nesterov's momentum.

    Adam sees a matrix as a list of numbers. Muon sees a linear map: it replaces the matrix's momentum by the nearest
    one whose singular values are all close to 1, so that directions that the gradient shows rarely move as far as the
    others. Its rate is `ratio` times Adam's. Matrices are the kernels in "encoderblock_*" (ViT) and "layers_*" (T5),
    attention with its heads joined; of blocks in a loop (`models.stacking`), the kernel of each block. Experts count as
    other parameters, as do patch embedding, positions, tables of tokens, heads, norms and biases.
    """
    rates = {"learning_rate": number("ratio", ratio, 0.0), "adam_learning_rate": 1.0}
    muon = optax.contrib.muon(**rates, muon_weight_dimension_numbers=_matrices)
    return optax.chain(muon, optax.scale(-1.0))  # optax's descends; a core goes up, the learning rate descends


def _matrices(params):
    """Per parameter, which of its axes are inputs and which outputs of a matrix; None for all but the matrices."""

    def of(path, x):
        names = [entry.key for entry in path]
        if names[-1] != "kernel" or not any(re.match(r"encoderblock_\d+$|layers_\d+$", name) for name in names):
            return None
        first = int(any(re.search(r"_\d+_to_\d+$", name) for name in names))  # axis 0 counts the blocks of a loop
        axes = tuple(range(first, x.ndim))
        # Attention of a ViT has [D, heads, head_dim] for queries, keys and values.
        if len(axes) == 2 or (len(axes) == 3 and names[-2] in ("query", "key", "value")):
            return optax.contrib.MuonDimensionNumbers(axes[:1], axes[1:])
        if len(axes) == 3 and names[-2] == "out":  # [heads, head_dim, D]
            return optax.contrib.MuonDimensionNumbers(axes[:2], axes[2:])
        return None

    return jax.tree_util.tree_map_with_path(of, params)


# Cores by name, for runs and tables.
CORES = {
    "adamw": optax.scale_by_adam,
    "adafactor": scale_by_adafactor,
    "adafactor-momentum": scale_by_big_vision_adafactor,
}

# ---------------------------------------------------------------------------------------------- the recipe


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
    schedule = cosine(peak, num_steps, warmup)
    tx = assemble(optax.scale_by_adam(), schedule, weight_decay=weight_decay, clip_norm=1.0, freeze=freeze)
    return tx, loop.make_step(make_loss(model, **loss_options), tx)
