"""The encoder and the decoder of T5: layers one after the other, or as loops over equal layers (see `stacking`).

Built in notebooks/08_t5_and_upcycling.ipynb.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from kitlib.configs import T5Config
from kitlib.layers.t5_layers import FAN_IN_TRUNCATED, Layer, RelativeBias, RMSNorm, segment_mask
from kitlib.models import stacking
from kitlib.moe import MoEMlp
from kitlib.parallel import mesh


def single_layers(c: T5Config, decoder: bool, first: int, count: int) -> dict[str, Layer]:
    """Layers first ... first + count - 1 of a stack, by number, for the `setup` of a module."""
    moe, sparse = (c.decoder_moe, c.decoder_moe_layers) if decoder else (c.moe, c.moe_layers)
    make_moe = functools.partial(MoEMlp, moe, c.mlp_dim, gated=True, dtype=jnp.dtype(c.dtype), activation=c.activation)
    layer = stacking.rematerialised(Layer, c.remat, train_argument=10, scan=c.scan)
    return {str(i): layer(c, decoder, make_moe if i in sparse else None) for i in range(first, first + count)}


class Period(nn.Module):
    """The body of a loop over equal layers: x float[B, N, D] -> (x, intermediates); arguments as for `Layer`."""

    config: T5Config
    decoder: bool
    first: int
    period: int

    def setup(self):
        self.layers = single_layers(self.config, self.decoder, self.first, self.period)

    def __call__(self, x, bias, mask, valid, encoded, cross_mask, train):
        outs = []
        for layer in self.layers.values():
            x, out = layer(x, bias, mask, valid, encoded, cross_mask, None, None, 0, train)
            x = mesh.constrain(x, "tokens")
            outs.append(out)
        return x, tuple(outs)


def stack_layers(c: T5Config, decoder: bool) -> dict[str, nn.Module]:
    """The layers of a stack, by number, and where `scan` makes loops of them, by the numbers of first and last."""
    layers = {}
    for segment in stacking.t5_segments(c, decoder):
        first, period, repeats = segment
        if repeats == 1:
            layers |= single_layers(c, decoder, first, period)
        else:
            loop = stacking.scanned(Period, segment, num_broadcast=6)
            layers[f"{first}_to_{segment.last}"] = loop(c, decoder, first, period)
    return layers


def run_layers(layers: dict, c: T5Config, x, bias, mask, valid, encoded=None, cross_mask=None, *, cache=None, train):
    """x float[B, N, D] through the layers of a stack: (float[B, N, D], the intermediates of every layer).

    cache: (past, cross, position), the keys and values of every layer, for a decoder that gets its tokens one by one.
    """
    outs = []
    for segment in stacking.t5_segments(c, decoder=encoded is not None or cache is not None):
        x = mesh.constrain(x, "tokens")
        if segment.repeats > 1:
            loop = layers[f"{segment.first}_to_{segment.last}"]
            x, stacked = loop(x, bias, mask, valid, encoded, cross_mask, train)
            outs += stacking.by_block(segment, stacked)
            continue
        for i in range(segment.first, segment.last + 1):
            past, cross, position = (cache[0][i], cache[1][i], cache[2]) if cache else (None, None, 0)
            x, out = layers[str(i)](x, bias, mask, valid, encoded, cross_mask, cross, past, position, train)
            x = mesh.constrain(x, "tokens")
            outs.append(out)
    return x, outs


class Encoder(nn.Module):
    """Embeddings float[B, N, D], segments int32[B, N] -> (float[B, N, D], {"block00": {...}, ...})."""

    config: T5Config

    def setup(self):
        self.relpos_bias = RelativeBias(self.config, bidirectional=True)
        self.layers = stack_layers(self.config, decoder=False)
        self.encoder_norm = RMSNorm()
        self.drop = nn.Dropout(self.config.dropout)

    def __call__(self, x, segments, visible=None, position=None, train: bool = False):
        """visible bool[B or 1, 1, N, N]: the keys that a query may attend to within its segment; None: all of them.
        position int32[N]: the positions of the tokens, for the relative positions; None: 0, 1, 2, ..."""
        position = jnp.arange(x.shape[1]) if position is None else position
        bias = self.relpos_bias(position[None] - position[:, None])  # [1, H, N, N]
        mask = segment_mask(segments, segments)  # [B, 1, N, N]
        mask = mask if visible is None else mask & visible
        x = self.drop(x, deterministic=not train)
        x, outs = run_layers(self.layers, self.config, x, bias, mask, segments != 0, train=train)  # [B, N, D]
        out = {f"block{i:02d}": layer for i, layer in enumerate(outs)}
        return self.drop(self.encoder_norm(x), deterministic=not train), out


class Decoder(nn.Module):
    """The stack that generates text, from the encoder's output or, one token at a time, from its keys and values."""

    config: T5Config

    def setup(self):
        c = self.config
        self.relpos_bias = RelativeBias(c, bidirectional=False)
        self.layers = stack_layers(c, decoder=True)
        self.decoder_norm = RMSNorm()
        self.drop = nn.Dropout(c.dropout)
        if not c.tied:
            self.logits_dense = nn.Dense(c.vocab_size, use_bias=False, kernel_init=FAN_IN_TRUNCATED)

    def cross(self, encoded):
        """((keys, values) float[B, H, N, d], ...), one pair per layer, from encoded float[B, N, D].

        Raises ValueError for scanned layers, whose keys and values are computed in the loop.
        """
        if any(segment.repeats > 1 for segment in stacking.t5_segments(self.config, decoder=True)):
            raise ValueError(
                "A scanned T5 does not generate text one token at a time: use T5(config.replace(scan=False)) with "
                "stacking.unstack(params)."
            )
        return tuple(layer.encoder_decoder_attention.keys_values(encoded) for layer in self.layers.values())

    def __call__(self, x, relative, mask, encoded, cross_mask, valid, *, cache=None, train=False):
        """x float[B, M, D] -> (float[B, M, D], {"block_decoder00": {...}, ...}).

        relative int[M, M]: positions of keys minus positions of queries; cache: see `run_layers`; valid bool[B, M]:
        tokens that experts process.
        """
        bias = self.relpos_bias(relative)  # [1, H, M, M]
        x = self.drop(x, deterministic=not train)
        x, outs = run_layers(
            self.layers, self.config, x, bias, mask, valid, encoded, cross_mask, cache=cache, train=train
        )  # [B, M, D]
        out = {f"block_decoder{i:02d}": layer for i, layer in enumerate(outs)}
        return self.drop(self.decoder_norm(x), deterministic=not train), out
