"""PaLI-X (2305.18565): pictures and text in, text out; every task is a prompt.

    model = palix.PaLIX(configs.palix("S"))
    params = palix.init_params(model)
    logits, out = model.apply({"params": params}, images, prompts, decoder_tokens)   # float32[B, M, V]
    inputs = {"images": images, "tokens": prompts}
    answers, log_probs = decode.greedy(model, params, inputs, max_length=16)

A ViT sees every picture by itself. None of its patches is pooled: one linear map takes them to the width of the text
model, and n pictures of k patches are n * k *visual tokens*, in front of the prompt's tokens in the encoder, where all
see all. Frames of a video and exemplars of a few-shot prompt are pictures like any other. The decoder writes the
answer. Only the tower knows where a patch is; the encoder's relative positions hardly tell patches apart.

Few-shot, every picture has a text of its own. Which one, only positions can tell, and those of T5 end at a distance of
128 tokens: behind four pictures of 64 patches, no text would know its picture. So there positions count as if each
picture stood right before its text, and every text took the same room. That is ours: the paper does not say how
positions go on over pictures.

Built in notebooks/13_pali_x.ipynb, few-shot prompts in notebooks/15_shots_and_frames.ipynb.
"""

import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kitlib.configs import PaLIXConfig
from kitlib.t5 import PAD, T5, check_tokens, shift_right, token_loss
from kitlib.vit import ViT

ROOM = 28  # tokens of a few-shot text, at most: the next picture's place depends on neither the text nor its padding

# ---------------------------------------------------------------------------------------------- who sees whom


def sequence_order(num_images: int, num_patches: int, length: int, few_shot: bool) -> tuple[jax.Array, jax.Array]:
    """(episode, place), both int32[n * k + N], of the encoder's visual tokens and then its text.

    few_shot: there are n texts of this length, the i-th belongs to picture i, N = n * length; else one text, that of
    the last picture, N = length. episode: which picture or text; place: where a token stands if every picture comes
    right before its text, which takes `ROOM` places, however few tokens it has or is padded to.
    """
    texts = num_images if few_shot else 1
    images, words = jnp.arange(num_images * num_patches), jnp.arange(texts * length)
    episode = jnp.concatenate([images // num_patches, num_images - texts + words // length])
    within = jnp.concatenate([images % num_patches, num_patches + words % length])
    return episode, episode * (num_patches + few_shot * ROOM) + within


def visibility(kind: str, episode: jax.Array, place: jax.Array) -> jax.Array | None:
    """bool[1, 1, N, N]: which keys a query of the encoder may see (2308.06912, table 9: few-shot prompts).

    "prefix": everything (PaLI-X); "block-causal": its own exemplar and earlier ones; "causal": what stands before it.
    """
    if kind == "prefix":
        return None
    if kind == "block-causal":
        return (episode[:, None] >= episode[None])[None, None]
    if kind == "causal":
        return (place[:, None] >= place[None])[None, None]
    raise ValueError(f"Unknown visibility {kind!r}; known: prefix, block-causal, causal.")


# ---------------------------------------------------------------------------------------------- the model


class PaLIX(nn.Module):
    """(images float[B, n, height, width, C], prompts int32[B, N], decoder_tokens int32[B, M]) -> (logits, out).

    logits float32[B, M, V]. images may be [B, height, width, C], one each, or None: text only. images_valid bool[B, n]
    tells pictures from padding, where examples have fewer than n. Few-shot prompts are int32[B, n, L], a text for each
    picture, the last of them the query's; N = n * L in what follows. Prompts are padded with 0. Tokens do not attend to
    padding, and pictures do not see each other before the encoder. Texts alone may be packed, several in a row, told
    apart by segments (see `t5.T5`).

    `out` holds the text model's intermediates (see `t5.T5`), and "visual" float[B, n * k, D], "tower" (see `vit.ViT`,
    with a batch axis of B * n), "segments" int32[B, n * k + N]: 1 where the encoder has something to see.
    """

    config: PaLIXConfig
    frozen_tower: bool = False  # no gradient reaches the tower (stage 1)
    visible: str = "prefix"  # see `visibility`

    def setup(self):
        c = self.config
        self.tower = ViT(c.tower)
        self.projection = nn.Dense(c.text.width, dtype=jnp.dtype(c.text.dtype))
        self.text = T5(c.text)

    def see(self, images, train: bool = False):
        """images float[B, n, height, width, C] -> (visual tokens float[B, n * k, D], the tower's intermediates)."""
        b, n = images.shape[:2]
        patches, out = self.tower(images.reshape(b * n, *images.shape[2:]), train)
        if self.frozen_tower:
            patches = jax.lax.stop_gradient(patches)
        return self.projection(patches).reshape(b, n * patches.shape[1], -1), out

    def encode(self, images, prompts, images_valid=None, segments=None, *, train: bool = False):
        """(encoded float[B, n * k + N, D], out)."""
        few_shot, length = prompts.ndim == 3, prompts.shape[-1]
        if few_shot:
            check_few_shot(images, prompts)
            prompts = prompts.reshape(prompts.shape[0], -1)
        check_tokens(prompts)
        x, out = self.text.token_embedder(prompts), {}
        valid = (prompts != PAD).astype(jnp.int32) if segments is None else segments
        visible = place = None
        if images is not None:
            if segments is not None:
                raise ValueError("Examples with pictures are not packed: give segments for texts alone.")
            images, images_valid = check_pictures(self.config, images, images_valid, prompts.shape[0])
            visual, out["tower"] = self.see(images, train)
            k = self.config.tower.num_tokens
            x = jnp.concatenate([visual, x], axis=1)
            valid = jnp.concatenate([jnp.repeat(images_valid.astype(jnp.int32), k, axis=1), valid], axis=1)
            out["visual"] = visual
            episode, place = sequence_order(images.shape[1], k, length, few_shot)
            visible = visibility(self.visible, episode, place)
        out["segments"] = valid
        encoded, more = self.text.encode_embedded(x, valid, visible, place, train=train)
        return encoded, out | more

    def __call__(
        self, images, prompts, decoder_tokens, *, images_valid=None, segments=None, decoder_segments=None, train=False
    ):
        encoded, out = self.encode(images, prompts, images_valid, segments, train=train)
        logits, more = self.text.decode(encoded, decoder_tokens, out["segments"], decoder_segments, train=train)
        parts = [part["auxiliary_loss"] for part in (out, more, out.get("tower", {})) if "auxiliary_loss" in part]
        return logits, {**out, **more, **({"auxiliary_loss": sum(parts)} if parts else {})}

    # What `decode` needs; inputs: {"tokens", and optionally "images", "images_valid"}.

    def init_cache(self, inputs: dict, length: int):
        """All that writing `length` tokens needs to know: see `t5.T5.init_cache`."""
        encoded, out = self.encode(inputs.get("images"), inputs["tokens"], inputs.get("images_valid"))
        return self.text.cache(encoded, out["segments"] != 0, length)

    def decode_step(self, tokens, place, cache):
        return self.text.decode_step(tokens, place, cache)


def check_few_shot(images, prompts) -> None:
    """Raises ValueError for few-shot prompts int32[B, n, L] without n pictures each, or of more than `ROOM` tokens."""
    got = "none" if images is None else f"shape {images.shape}"
    if images is None or images.ndim != 5 or images.shape[1] != prompts.shape[1]:
        raise ValueError(
            f"Prompts {prompts.shape} are few-shot, [B, n, L]: they need a picture for each text, images float[B, "
            f"n={prompts.shape[1]}, height, width, C]; got {got}."
        )
    if prompts.shape[-1] > ROOM:
        raise ValueError(f"A few-shot text has room for {ROOM} tokens, padding included; got prompts {prompts.shape}.")


def check_pictures(config: PaLIXConfig, images, images_valid, batch: int):
    """(float[B, n, height, width, C], bool[B, n]) of what was given, or ValueError; the tower checks the rest."""
    images = images[:, None] if images.ndim == 4 else images
    if images.ndim != 5 or images.shape[0] != batch:
        raise ValueError(
            f"Images must be float[B, n, height, width, C] or [B, height, width, C] with B={batch} as the prompts, got "
            f"shape {images.shape}."
        )
    b, n = images.shape[:2]
    if not 1 <= n <= config.max_images:
        raise ValueError(f"An example has 1 to {config.max_images} pictures or frames (max_images), got {n}.")
    if images_valid is None:
        return images, jnp.ones((b, n), bool)
    if images_valid.shape != (b, n):
        raise ValueError(f"images_valid must be bool[B, n] = {(b, n)}, got {images_valid.shape}.")
    return images, images_valid.astype(bool)


def init_params(model: PaLIX, seed: int = 0) -> dict:
    """Initial parameters, drawn in one compiled call."""
    return _jitted_init(model)(jax.random.key(seed))


@functools.cache
def _jitted_init(model):
    # numpy's, not jnp's: made while `jax.eval_shape` looks on, those would be tracers, and the cache would keep them.
    c, tokens = model.config.tower, np.ones((1, 1), np.int32)
    images = np.zeros((1, 1, *c.image_size, c.channels), np.float32)
    return jax.jit(lambda key: model.init(key, images, tokens, tokens)["params"])


# ---------------------------------------------------------------------------------------------- the loss


def answer_loss(model: PaLIX, *, z_loss: float = 0.0) -> Callable:
    """Mean cross-entropy over the target tokens of a batch, as `collate.arrays` or `collate.packed` makes it.

    "images" float[B, n, height, width, C] and "images_valid" bool[B, n], or neither; "inputs" int32[B, N] or few-shot
    [B, n, L], "targets" int32[B, M]; "weights" float[B, M]: what a target token counts (0: coordinates of noise boxes);
    without it, padding counts nothing and all else 1. Packed texts: "inputs_segments", "targets_segments". Prompts are
    no targets. The metric is token "accuracy".
    """

    def loss_fn(params, batch, key):
        targets, segments = batch["targets"], batch.get("targets_segments")
        rngs = dict(zip(("dropout", "router", "drop_path"), jax.random.split(key, 3), strict=True))
        logits, out = model.apply(
            {"params": params},
            batch.get("images"),
            batch["inputs"],
            shift_right(targets, segments),
            images_valid=batch.get("images_valid"),
            segments=batch.get("inputs_segments"),
            decoder_segments=(targets != PAD).astype(jnp.int32) if segments is None else segments,
            train=True,
            rngs=rngs,
        )
        loss, metrics = token_loss(logits, targets, batch.get("weights", targets != PAD), z_loss=z_loss)
        if "auxiliary_loss" not in out:
            return loss, metrics
        return loss + out["auxiliary_loss"], metrics | {"auxiliary_loss": out["auxiliary_loss"]}

    return loss_fn


def loss_of_groups(loss_fn: Callable, shares: Mapping[str, float]) -> Callable:
    """The loss of a batch of groups, {name: batch} of different shapes: the mean of theirs, weighted with `shares`.

    Its metrics are those of the groups and their losses, each under "name/metric".
    """
    total = sum(shares.values())

    def of_groups(params, batch, key):
        if set(batch) != set(shares):
            raise ValueError(f"The batch has the groups {sorted(batch)}, the loss has shares for {sorted(shares)}.")
        loss, metrics = 0.0, {}
        for i, name in enumerate(sorted(batch)):
            part, found = loss_fn(params, batch[name], jax.random.fold_in(key, i))
            loss += shares[name] / total * part
            metrics |= {f"{name}/{metric}": value for metric, value in {"loss": part, **found}.items()}
        return loss, metrics

    return of_groups
