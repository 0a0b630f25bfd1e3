"""Deep stacks that compile in constant time: equal blocks are stacked on a leading axis, and one is scanned.

    config = config.replace(scan=True, remat="full")
    params = stack(params, config)              # encoderblock_0 ... encoderblock_47 -> encoderblock_0_to_47
    params = unstack(params)                    # and back, to the names of the reference checkpoints

Unrolled, XLA compiles every block: minutes for 48 of them. Scanned, it compiles a loop whose body is the shortest
*period* of blocks that repeats: one block of a dense ViT, (dense, MoE) of a V-MoE with experts in every other block. A
stack may need several loops: in "last-2" of 12 blocks, eight dense blocks precede two times (dense, MoE). The loop over
blocks 8 to 11 is called encoderblock_8_to_11, and inside it encoderblock_8 has the parameters of blocks 8 and 10.

Rematerialisation trades work for memory: the backward pass computes a block again from its input. "full" keeps only
the inputs of the blocks, "dots" also the results of products with weights (not those of attention or experts). What has
travelled between devices is always kept.

Built in notebooks/16_from_laptop_to_pod.ipynb.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from kitlib.configs import PaLIXConfig, T5Config, ViTConfig
from kitlib.moe.dispatch import EXCHANGED


class Segment(NamedTuple):
    """Blocks first ... first + period * repeats - 1 of a stack: a period of blocks, repeated."""

    first: int
    period: int
    repeats: int

    @property
    def last(self) -> int:
        return self.first + self.period * self.repeats - 1


def segments(kinds: Sequence) -> list[Segment]:
    """Cuts a stack into segments, so that as few blocks as possible are compiled; among these, as few segments.

    kinds: one value per block; blocks of equal value have the same program and parameters of the same shapes.
    """
    best = [(0, 0, None)]  # for the first n blocks: (blocks compiled, segments, the last segment)
    for end in range(1, len(kinds) + 1):
        options = []
        for first in range(end):
            for period in range(1, end - first + 1):
                repeats, rest = divmod(end - first, period)
                if not rest and all(kinds[i] == kinds[i - period] for i in range(first + period, end)):
                    compiled, count, _ = best[first]
                    options.append((compiled + period, count + 1, Segment(first, period, repeats)))
                    break  # a longer period of the same blocks compiles more
        best.append(min(options, key=lambda option: option[:2]))
    found, end = [], len(kinds)
    while end:
        found.append(best[end][2])
        end = found[-1].first
    return found[::-1]


def stacks(config: ViTConfig | T5Config | PaLIXConfig) -> dict[str, list[Segment]]:
    """{"Transformer/encoderblock": segments, ...} of every scanned stack of a model; {} if none is."""
    if isinstance(config, PaLIXConfig):
        parts = {"tower": config.tower, "text": config.text}
        return {f"{part}/{name}": s for part, c in parts.items() for name, s in stacks(c).items()}
    if not config.scan:
        return {}
    if isinstance(config, ViTConfig):
        return {"Transformer/encoderblock": vit_segments(config)}
    return {f"{stack}/layers": t5_segments(config, stack == "decoder") for stack in ("encoder", "decoder")}


def vit_segments(c: ViTConfig) -> list[Segment]:
    """The segments of a ViT; single blocks unless it is scanned."""
    ensembled = c.batch_ensemble.blocks if c.batch_ensemble else ()
    return _segments([(i in c.moe_blocks, i == c.tiled_block, i in ensembled) for i in range(c.depth)], c.scan)


def t5_segments(c: T5Config, decoder: bool) -> list[Segment]:
    """The segments of the encoder or decoder of a T5; single layers unless it is scanned."""
    depth, moe = (c.num_decoder_layers, c.decoder_moe_layers) if decoder else (c.num_encoder_layers, c.moe_layers)
    return _segments([i in moe for i in range(depth)], c.scan)


def _segments(kinds: list, scan: bool) -> list[Segment]:
    return segments(kinds) if scan else [Segment(i, 1, 1) for i in range(len(kinds))]


# ---------------------------------------------------------------------------------------------- parameters


def stack(params: dict, config: ViTConfig | T5Config | PaLIXConfig) -> dict:
    """Parameters by block -> the parameters of the scanned model of this configuration: blocks of a segment stacked."""
    flat = flatten_dict(params, sep="/")
    for prefix, found in stacks(config).items():
        for first, period, repeats in found:
            if repeats == 1:
                continue
            for i in range(first, first + period):
                head = f"{prefix}_{i}/"
                for name in [name for name in flat if name.startswith(head)]:
                    rest = name.removeprefix(head)
                    rows = [flat.pop(f"{prefix}_{i + r * period}/{rest}") for r in range(repeats)]
                    outer = f"{prefix}_{first}_to_{first + period * repeats - 1}"
                    flat[f"{outer}/{prefix.split('/')[-1]}_{i}/{rest}"] = jnp.stack(rows)
    return unflatten_dict(flat, sep="/")


def unstack(params: dict) -> dict:
    """The inverse of `stack`: the names say which blocks they hold."""
    flat, found = {}, flatten_dict(params, sep="/")
    for name, leaf in found.items():
        match = re.fullmatch(r"(.*_)(\d+)_to_(\d+)/\w+_(\d+)/(.*)", name)
        if not match:
            flat[name] = leaf
            continue
        head, first, last, i, rest = match[1], int(match[2]), int(match[3]), int(match[4]), match[5]
        period = (last - first + 1) // leaf.shape[0]
        flat |= {f"{head}{i + r * period}/{rest}": leaf[r] for r in range(leaf.shape[0])}
    return unflatten_dict(flat, sep="/")


# ---------------------------------------------------------------------------------------------- Linen


def scanned(period, segment: Segment, num_broadcast: int, num_scanned: int = 0):
    """`nn.scan` of a module class whose call is (x, *scanned, *broadcast) -> (x, intermediates)."""
    return nn.scan(
        period,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True, "drop_path": True, "router": True},
        in_axes=(0,) * num_scanned + (nn.broadcast,) * num_broadcast,
        length=segment.repeats,
    )


def rematerialised(block, remat: str, train_argument: int, scan: bool):
    """A module class whose backward pass computes it again, as the policy says; "none": the class itself.

    train_argument: the position of `train` among the arguments of its call, self included.
    """
    if remat == "none":
        return block
    policies, keep = jax.checkpoint_policies, jax.checkpoint_policies.save_only_these_names(EXCHANGED)
    if remat == "dots":
        keep = policies.save_from_both_policies(keep, policies.dots_with_no_batch_dims_saveable)
    # In a scan, the loop already keeps XLA from undoing the rematerialisation.
    return nn.remat(block, prevent_cse=not scan, static_argnums=(train_argument,), policy=keep)


def by_block(segment: Segment, stacked: tuple[dict, ...]) -> list[dict]:
    """The intermediates of every block of a scanned segment, from one stacked tree per block of the period."""
    # block first + r * period + j is entry j of repeat r
    return [jax.tree.map(lambda a, r=r: a[r], out) for r in range(segment.repeats) for out in stacked]
