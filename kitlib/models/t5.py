"""T5: an encoder-decoder for text, from token ids to logits, with every intermediate by name.

    model = t5.T5(configs.t5("tiny"))
    params = t5.init_params(model)
    logits, out = model.apply({"params": params}, encoder_tokens, decoder_tokens)
    out["block00"]["attention"]           # float32[B, H, N, N], of the encoder; the decoder's: "block_decoder00"

This is T5 (1910.10683) in version 1.1, also mT5, and UL2 with another activation. Parameter names and shapes are those
of t5x's checkpoints, so that they are loaded without renaming. A stack is layers one after the other, or loops over
equal layers (see `stacking`). `decode` generates text.

Built in notebooks/08_t5_and_upcycling.ipynb.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kitlib.configs import T5Config
from kitlib.layers.initialize import init_params as initialize
from kitlib.layers.t5_layers import FAN_IN_TRUNCATED, Layer, RelativeBias, RMSNorm, flat, segment_mask
from kitlib.models import stacking
from kitlib.moe import MoEMlp, routing
from kitlib.parallel import mesh
from kitlib.parallel.mesh import read_rows

PAD = 0  # also the token the decoder starts with

# ---------------------------------------------------------------------------------------------- the two stacks


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
            instead = "use T5(config.replace(scan=False)) with stacking.unstack(params)"
            raise ValueError(f"A scanned T5 does not generate text one token at a time: {instead}.")
        return tuple(layer.encoder_decoder_attention.keys_values(encoded) for layer in self.layers.values())

    def __call__(self, x, relative, mask, encoded, cross_mask, valid, *, cache=None, train=False):
        """x float[B, M, D] -> (float[B, M, D], {"block_decoder00": {...}, ...}).

        relative int[M, M]: positions of keys minus positions of queries; cache: see `run_layers`; valid bool[B, M]:
        tokens that experts process.
        """
        bias = self.relpos_bias(relative)  # [1, H, M, M]
        x = self.drop(x, deterministic=not train)
        more = {"cache": cache, "train": train}
        x, outs = run_layers(self.layers, self.config, x, bias, mask, valid, encoded, cross_mask, **more)  # [B, M, D]
        out = {f"block_decoder{i:02d}": layer for i, layer in enumerate(outs)}
        return self.drop(self.decoder_norm(x), deterministic=not train), out


# ---------------------------------------------------------------------------------------------- the model


class T5(nn.Module):
    """(encoder_tokens int32[B, N], decoder_tokens int32[B, M]) -> (logits float32[B, M, V], out).

    Token 0 is padding. Packing: several examples in one row are distinguished by segments int32[B, N] and int32[B, M]
    for the two stacks, 1, 2, ..., and 0 for padding; tokens do not attend to other segments. Positions are relative, so
    the result for a packed example is the same as for the example alone.

    `out` holds every intermediate: "block00", ... of the encoder ("sa", "attention", "+sa", "mlp", "+mlp"), "encoded"
    float[B, N, D], "block_decoder00", ... (also with "ca", "cross_attention", "+ca"), "decoded", "logits". A block with
    experts has "moe" (see `moe.MoEMlp`), and out["auxiliary_loss"] is the sum over all of them, which must be added to
    the loss (`seq2seq_loss` does so). Padding takes no expert's slot.
    Dropout draws from the rng "dropout", router noise from "router".
    """

    config: T5Config

    def setup(self):
        c = self.config
        dtype = jnp.dtype(c.dtype)
        self.token_embedder = nn.Embed(c.vocab_size, c.width, embedding_init=nn.initializers.normal(1.0), dtype=dtype)
        self.encoder, self.decoder = Encoder(c), Decoder(c)

    def __call__(
        self, encoder_tokens, decoder_tokens, *, encoder_segments=None, decoder_segments=None, train: bool = False
    ):
        if encoder_segments is None:
            encoder_segments = (encoder_tokens != PAD).astype(jnp.int32)
        encoded, out = self.encode(encoder_tokens, encoder_segments, train=train)
        logits, decoder_out = self.decode(encoded, decoder_tokens, encoder_segments, decoder_segments, train=train)
        losses = [x.pop("auxiliary_loss") for x in (out, decoder_out) if "auxiliary_loss" in x]
        return logits, {**out, **decoder_out, **({"auxiliary_loss": sum(losses)} if losses else {})}

    def embed(self, tokens):
        """tokens int32[B, N] -> float[B, N, D]."""
        return read_rows(self.token_embedder.embedding.astype(self.config.dtype), tokens)

    def encode(self, tokens, segments=None, *, train: bool = False):
        """tokens int32[B, N] -> (encoded float[B, N, D], out)."""
        check_tokens(tokens)
        segments = (tokens != PAD).astype(jnp.int32) if segments is None else segments
        return self.encode_embedded(self.embed(tokens), segments, train=train)

    def encode_embedded(self, x, segments, visible=None, position=None, *, train: bool = False):
        """`encode` for embeddings x float[B, N, D]: of tokens, or of visual tokens and then tokens (`palix`).

        visible and position: see `Encoder`.
        """
        encoded, out = self.encoder(x, segments, visible, position, train)
        return encoded, {**out, "encoded": encoded, **_auxiliary_loss(out)}

    def decode(self, encoded, tokens, encoder_segments, decoder_segments=None, *, train: bool = False):
        """Teacher forcing: tokens int32[B, M], the targets shifted right -> (logits float32[B, M, V], out).

        Without decoder_segments, padding matters only for experts, which do not process it: padding comes after all
        tokens of a text, so a causal decoder does not attend to it.
        """
        check_tokens(tokens)
        m = tokens.shape[1]
        relative = jnp.arange(m)[None] - jnp.arange(m)[:, None]  # [M, M]
        mask = (relative <= 0)[None, None]  # [1, 1, M, M]
        if decoder_segments is None:
            valid = _written(tokens, jnp.arange(m)[None])
            cross_mask = (encoder_segments != 0)[:, None, None]  # [B, 1, 1, N]
        else:
            valid, mask = decoder_segments != 0, mask & segment_mask(decoder_segments, decoder_segments)
            cross_mask = segment_mask(decoder_segments, encoder_segments)  # [B, 1, M, N]
        x = self.embed(tokens)  # [B, M, D]
        decoded, out = self.decoder(x, relative, mask, encoded, cross_mask, valid, train=train)  # [B, M, D]
        logits = self.logits(decoded)  # [B, M, V]
        return logits, {**out, "decoded": decoded, "logits": logits, **_auxiliary_loss(out)}

    def logits(self, decoded):
        """float[..., D] -> float32[..., V]."""
        x = decoded.astype(jnp.float32)
        if self.config.tied:
            # The entries of the table are N(0, 1): without scaling, logits would start with standard deviation sqrt(D).
            logits = flat(lambda x: x @ self.token_embedder.embedding.T, x * self.config.width**-0.5)
        else:
            logits = flat(self.decoder.logits_dense, x)
        return mesh.constrain(logits, "logits") if logits.ndim == 3 else logits

    # ------------------------------------------------------------------------------------------ one token at a time

    def for_generation(self):
        """The model that `models.decode` writes with: see `T5Config.for_generation`; the parameters are the same."""
        return self.clone(config=self.config.for_generation())

    def init_cache(self, encoder_tokens, length: int):
        """The cache for generating `length` tokens: {"self", "cross", "valid"}, every leaf with a leading B axis.

        "self": the decoder's (keys, values) float[B, H, T, d] of every layer, T = length, still zeros; "cross": those
        of the encoder's output, computed once; "valid" bool[B, N]: its real tokens.
        """
        return self.cache(self.encode(encoder_tokens)[0], encoder_tokens != PAD, length)

    def cache(self, encoded, valid, length: int):
        """`init_cache` from encoded float[B, N, D] and valid bool[B, N]."""
        c = self.config
        empty = jnp.zeros((encoded.shape[0], c.num_heads, length, c.head_dim), jnp.dtype(c.dtype))
        return {"self": ((empty, empty),) * c.num_decoder_layers, "cross": self.decoder.cross(encoded), "valid": valid}

    def decode_step(self, tokens, position, cache):
        """tokens int32[B] at `position` int32[] (0: the start token) -> (logits float32[B, V] of the next, new cache).

        The same function as `decode`, for one token after the other, provided that no expert drops a token in either.
        """
        key_position = jnp.arange(cache["self"][0][0].shape[2])[None]  # [1, T]
        x, cross_mask = self.embed(tokens[:, None]), cache["valid"][:, None, None]  # [B, 1, D], [B, 1, 1, N]
        valid = _written(tokens[:, None], position)
        decoded, out = self.decoder(
            x, key_position - position, (key_position <= position)[None, None], None, cross_mask, valid,
            cache=(cache["self"], cache["cross"], position),
        )  # fmt: skip
        past = tuple(out[f"block_decoder{i:02d}"]["keys_values"] for i in range(self.config.num_decoder_layers))
        return self.logits(decoded[:, 0]), cache | {"self": past}


def _written(tokens, position):
    """bool, of the shape of tokens: True except for padding; token 0 at position 0 is the start token."""
    return (tokens != PAD) | (position == 0)


def _auxiliary_loss(out: dict) -> dict:
    losses = [block["moe"]["auxiliary_loss"] for block in out.values() if "moe" in block]
    return {"auxiliary_loss": sum(losses)} if losses else {}


def check_tokens(tokens) -> None:
    """Raises ValueError or TypeError unless tokens is int[B, N]."""
    if tokens.ndim != 2:
        raise ValueError(f"Tokens must be int32[B, N], got shape {tokens.shape}; for one text, add the axis: [None].")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"Tokens must be integers, ids of the vocabulary, got {tokens.dtype}.")


def init_params(model: T5, seed: int = 0) -> dict:
    """Initial parameters, drawn in one compiled call."""
    tokens = np.ones((1, 1), np.int32)  # parameters do not depend on the length
    return initialize(model, tokens, tokens, seed=seed)


# ---------------------------------------------------------------------------------------------- the loss


def shift_right(targets: jax.Array, segments: jax.Array | None = None) -> jax.Array:
    """Decoder inputs int32[B, M]: each target's predecessor, 0 where an example starts."""
    shifted = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=PAD)
    if segments is None:
        return shifted
    return jnp.where(segments == jnp.pad(segments[:, :-1], ((0, 0), (1, 0))), shifted, PAD)


def token_loss(logits, targets, weights, *, z_loss: float = 0.0) -> tuple[jax.Array, dict]:
    """Mean cross-entropy over target tokens and {"accuracy"}: logits float32[B, M, V], targets int32[B, M].

    weights [B, M], bool or float: the weight of each token in the mean. If all weights are 0, the loss is 0.
    """
    weights = weights / jnp.maximum(weights.sum(), 1e-9)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    # A sum over the vocabulary with one term, not an index: on a mesh, each device has a slice of the vocabulary, and
    # only one number per token is added up between devices.
    is_target = jnp.arange(logits.shape[-1])[None, None] == targets[..., None]
    target = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)  # the logits of the targets, [B, M]
    losses = jnp.where((targets >= 0) & (targets < logits.shape[-1]), log_z - target, jnp.nan)
    if z_loss:
        losses += z_loss * jnp.square(log_z)
    return jnp.sum(weights * losses), {"accuracy": jnp.sum(weights * (target >= logits.max(axis=-1)))}


def check_packing(targets_segments, inputs_segments) -> None:
    """Raises ValueError if only one side of a batch is packed: targets would attend to the texts of others."""
    if (targets_segments is None) != (inputs_segments is None):
        raise ValueError("A packed batch has segments for inputs and for targets; got those of one side alone.")


def seq2seq_loss(model: T5, *, z_loss: float = 0.0, train: bool = True) -> Callable:
    """Mean cross-entropy over the target tokens of {"inputs": int32[B, N], "targets": int32[B, M]}, padding left out.

    Packed batches also have "inputs_segments" and "targets_segments": see `T5`. The metric is token "accuracy"; a
    sparse model's auxiliary loss is added, and its routers are reported (`routing.router_metrics`).
    z_loss: weight of logsumexp(logits)^2, which keeps the logits small (mT5: 1e-4). train=False: without dropout and
    router noise, to evaluate.
    """

    def loss_fn(params, batch, key):
        targets, segments = batch["targets"], batch.get("targets_segments")
        check_packing(segments, batch.get("inputs_segments"))
        dropout_key, router_key = jax.random.split(key)
        logits, out = model.apply(
            {"params": params},
            batch["inputs"],
            shift_right(targets, segments),
            encoder_segments=batch.get("inputs_segments"),
            # Without segments, the position after the last target, which predicts padding, would take an expert's slot.
            decoder_segments=(targets != PAD).astype(jnp.int32) if segments is None else segments,
            train=train,
            rngs={"dropout": dropout_key, "router": router_key},
        )
        loss, metrics = token_loss(logits, targets, targets != PAD, z_loss=z_loss)
        if "auxiliary_loss" not in out:
            return loss, metrics
        return loss + out["auxiliary_loss"], metrics | routing.router_metrics(out)

    return loss_fn
