"""PaLI-X (2305.18565): images and text in, text out; every task is a prompt.

    model = palix.PaLIX(configs.palix("S"))
    params = palix.init_params(model)
    logits, out = model.apply({"params": params}, images, prompt_tokens, decoder_tokens)   # float32[B, M, V]
    inputs = {"images": images, "prompt_tokens": prompt_tokens}
    answers, log_probs = decode.greedy(model, params, inputs, max_length=16)

A ViT, the *tower*, encodes every image independently. Its patches are not pooled: one linear map projects them to the
width of the text model, so that n images of k patches become n * k *visual tokens*. In the encoder they precede the
tokens of the prompt, and all tokens attend to all. Frames of a video and exemplars of a few-shot prompt are images like
any other. The decoder generates the answer. Where a patch is in its image is encoded by the tower only: T5's relative
positions tell near from far along the sequence, and nothing of a second dimension. That suffices in a large model. For
small ones, whose towers pass on little of it, `visual_positions`, our addition, adds learned vectors per row, column
and image after the projection.

In a few-shot prompt, every image has its own text. Only positions show which text belongs to which image, and T5's
relative positions do not distinguish distances beyond 128 tokens: after four images of 64 patches, no text could be
matched with its image. Therefore positions are counted as if each image came directly before its text, and as if all
texts had the same length. This is our choice: the paper does not specify positions across several images.

Built in notebooks/13_pali_x.ipynb, few-shot prompts in notebooks/15_shots_and_frames.ipynb.
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kitlib.configs import PaLIXConfig
from kitlib.configs.arguments import one_of
from kitlib.layers.initialize import init_params as initialize
from kitlib.models.t5 import PAD, T5, check_packing, check_tokens, shift_right, token_loss
from kitlib.models.vit import ViT

# ---------------------------------------------------------------------------------------------- visual positions


def positions(rows: jax.Array, columns: jax.Array, images: jax.Array) -> jax.Array:
    """rows float[gh, D], columns float[gw, D], images float[n, D] -> float[n, gh * gw, D]: the vector of every visual
    token, its row's, its column's and its image's, added; patches row by row."""
    grid = rows[:, None] + columns[None]  # [gh, gw, D]
    return images[:, None] + grid.reshape(-1, rows.shape[-1])[None]  # [n, k, D]


class VisualPositions(nn.Module):
    """float[B, n, k, D] -> float[B, n, k, D]: visual tokens of n images with k = rows x columns patches each.

    Images are counted from the last one, whose vector is `image_embedding[0]`: examples with fewer images are padded in
    front, and that must not change them. All vectors start from N(0, 1), about as long as the projected patches.
    """

    grid: tuple[int, int]
    max_images: int
    width: int

    def setup(self):
        normal = nn.initializers.normal(1.0)
        self.row_embedding = self.param("row_embedding", normal, (self.grid[0], self.width))
        self.column_embedding = self.param("column_embedding", normal, (self.grid[1], self.width))
        self.image_embedding = self.param("image_embedding", normal, (self.max_images, self.width))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        vectors = positions(self.row_embedding, self.column_embedding, self.of_images(tokens.shape[1]))
        return tokens + vectors.astype(tokens.dtype)[None]

    def of_images(self, n: int) -> jax.Array:
        """float[n, D]: the vectors of n images, which the texts of a few-shot prompt get, too. Raises ValueError for
        more than `max_images`."""
        if n > self.max_images:
            raise ValueError(f"Expected 1 to {self.max_images} images or frames (max_images), got {n}.")
        return self.image_embedding[:n][::-1]  # the last one is the first


# ---------------------------------------------------------------------------------------------- which token sees which

# The maximum number of tokens of a few-shot text. Every text takes as many positions, so that the position of the next
# image depends neither on the text nor on its padding.
FEW_SHOT_TEXT_LENGTH = 28


def sequence_order(num_images: int, num_patches: int, length: int, few_shot: bool) -> tuple[jax.Array, jax.Array]:
    """(episode, position), both int32[n * k + N], of the encoder's visual tokens, followed by its text tokens.

    few_shot: there are n texts of this length, the i-th belongs to image i, and N = n * length. Otherwise there is one
    text, which belongs to the last image, and N = length. episode: the number of the image, or of the image that a text
    belongs to. position: as if every image came directly before its text; few-shot, every text takes
    `FEW_SHOT_TEXT_LENGTH` positions, for any length and padding.
    """
    texts = num_images if few_shot else 1
    image_index, text_index = jnp.arange(num_images * num_patches), jnp.arange(texts * length)
    episode = jnp.concatenate([image_index // num_patches, num_images - texts + text_index // length])
    within = jnp.concatenate([image_index % num_patches, num_patches + text_index % length])
    return episode, episode * (num_patches + few_shot * FEW_SHOT_TEXT_LENGTH) + within


def visibility(kind: str, episode: jax.Array, position: jax.Array) -> jax.Array | None:
    """bool[1, 1, N, N]: the keys that a query of the encoder may attend to (2308.06912, table 9: few-shot prompts).

    "prefix": all (PaLI-X), returned as None; "block-causal": its own exemplar and earlier ones; "causal": itself and
    all tokens before it.
    """
    one_of("visibility", kind, ("prefix", "block-causal", "causal"))
    if kind == "prefix":
        return None
    order = episode if kind == "block-causal" else position
    return (order[:, None] >= order[None])[None, None]


# ---------------------------------------------------------------------------------------------- the model


class PaLIX(nn.Module):
    """(images float[B, n, height, width, C], prompt_tokens int32[B, N], decoder_tokens int32[B, M]) -> (logits, out).

    logits float32[B, M, V]. images may be [B, height, width, C], one image per example, or None: text only.
    features float[B, n, k, D_v], instead of images: the tower's output, computed before.
    images_valid bool[B, n] is False for padding, if examples have fewer than n images. Few-shot prompts are
    int32[B, n, L], one text per image, of which the last is the query; then N = n * L below. Prompts are padded with 0.
    Tokens do not attend to padding, and images do not attend to each other before the encoder. Texts without images may
    be packed, several per row, and distinguished by segments (see `t5.T5`).

    `out` holds the intermediates of the text model (see `t5.T5`), and "visual" float[B, n * k, D], "tower" (see
    `vit.ViT`, with a batch axis of B * n), "segments" int32[B, n * k + N]: 0 for padding, else 1, or as given.
    """

    config: PaLIXConfig
    frozen_tower: bool = False  # no gradient reaches the tower (stage 1)
    visible: str = "prefix"  # see `visibility`

    def setup(self):
        c = self.config
        self.tower = ViT(c.tower)
        self.projection = self.connector()
        if c.visual_positions:
            self.positions = VisualPositions(c.tower.grid, c.max_images, c.text.width)
        self.text = T5(c.text)

    def connector(self) -> nn.Module:
        """What maps features of the tower to the width of the text model: one linear layer."""
        return nn.Dense(self.config.text.width, dtype=jnp.dtype(self.config.text.dtype))

    def see(self, images, train: bool = False):
        """images float[B, n, height, width, C] -> (features float[B, n, k, D_v], the tower's intermediates)."""
        b, n = images.shape[:2]
        patches, out = self.tower(images.reshape(b * n, *images.shape[2:]), train)  # [B * n, k, D_v]
        if self.frozen_tower:
            patches, out = jax.lax.stop_gradient((patches, out))  # the auxiliary loss of a sparse tower, too
        return patches.reshape(b, n, *patches.shape[1:]), out

    def project(self, features):
        """features float[B, n, k, D_v] -> visual tokens float[B, n * k, D]."""
        tokens = self.projection(features)  # [B, n, k, D]
        if self.config.visual_positions:
            tokens = self.positions(tokens)
        return tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])

    def encode(self, images, prompt_tokens, images_valid=None, segments=None, *, features=None, train: bool = False):
        """(encoded float[B, n * k + N, D], out), from the arguments of the model."""
        few_shot, length = prompt_tokens.ndim == 3, prompt_tokens.shape[-1]
        if few_shot:
            check_few_shot(images, features, prompt_tokens)
            prompt_tokens = prompt_tokens.reshape(prompt_tokens.shape[0], -1)  # [B, n * L]
        check_tokens(prompt_tokens)
        x, out = self.text.embed(prompt_tokens), {}  # [B, N, D]
        if few_shot and self.config.visual_positions:
            own = self.positions.of_images(prompt_tokens.shape[1] // length)  # [n, D]
            x = x + jnp.repeat(own, length, axis=0).astype(x.dtype)[None]  # every text gets its image's vector
        valid = (prompt_tokens != PAD).astype(jnp.int32) if segments is None else segments  # [B, N]
        visible = position = None
        if images is not None or features is not None:
            if segments is not None:
                raise ValueError("Examples with pictures are not packed: give segments for texts alone.")
            if features is None:
                images, images_valid = check_pictures(self.config, images, images_valid, prompt_tokens.shape[0])
                features, out["tower"] = self.see(images, train)  # [B, n, k, D_v]
            else:
                images_valid = check_features(self.config, features, images_valid, prompt_tokens.shape[0])
            visual = self.project(features)  # [B, n * k, D]
            k = self.config.tower.num_tokens
            x = jnp.concatenate([visual, x], axis=1)  # [B, n * k + N, D]
            visual_valid = jnp.repeat(images_valid.astype(jnp.int32), k, axis=1)  # [B, n * k]
            valid = jnp.concatenate([visual_valid, valid], axis=1)  # [B, n * k + N]
            out["visual"] = visual
            episode, position = sequence_order(features.shape[1], k, length, few_shot)  # [n * k + N] both
            visible = visibility(self.visible, episode, position)  # [1, 1, n * k + N, n * k + N] or None
        out["segments"] = valid
        encoded, more = self.text.encode_embedded(x, valid, visible, position, train=train)  # [B, n * k + N, D]
        return encoded, out | more

    def __call__(self, images, prompt_tokens, decoder_tokens, *, decoder_segments=None, train=False, **inputs):
        """inputs: `images_valid`, `segments` and `features`, see `encode`."""
        encoded, out = self.encode(images, prompt_tokens, **inputs, train=train)  # [B, n * k + N, D]
        logits, more = self.text.decode(encoded, decoder_tokens, out["segments"], decoder_segments, train=train)
        parts = [part["auxiliary_loss"] for part in (out, more, out.get("tower", {})) if "auxiliary_loss" in part]
        return logits, {**out, **more, **({"auxiliary_loss": sum(parts)} if parts else {})}

    # The methods for `decode`; inputs: {"prompt_tokens", and optionally "images" or "features", "images_valid"}.

    def for_generation(self):
        """See `t5.T5.for_generation`; the tower stays as it is."""
        return self.clone(config=self.config.replace(text=self.config.text.for_generation()))

    def init_cache(self, inputs: dict, length: int):
        """The cache for generating `length` tokens: see `t5.T5.init_cache`."""
        images, valid, features = (inputs.get(name) for name in ("images", "images_valid", "features"))
        encoded, out = self.encode(images, inputs["prompt_tokens"], valid, features=features)
        return self.text.cache(encoded, out["segments"] != 0, length)

    def decode_step(self, tokens, position, cache):
        """See `t5.T5.decode_step`."""
        return self.text.decode_step(tokens, position, cache)


def check_few_shot(images, features, prompt_tokens) -> None:
    """Raises ValueError unless prompts int32[B, n, L] have n images or features, and L <= `FEW_SHOT_TEXT_LENGTH`."""
    seen, ndim = (images, 5) if features is None else (features, 4)
    if seen is None or seen.ndim != ndim or seen.shape[1] != prompt_tokens.shape[1]:
        got = "none" if seen is None else f"shape {seen.shape}"
        raise ValueError(
            f"Prompts {prompt_tokens.shape} are few-shot, [B, n, L]: they need one image per text, images "
            f"float[B, n={prompt_tokens.shape[1]}, height, width, C]; got {got}."
        )
    if prompt_tokens.shape[-1] > FEW_SHOT_TEXT_LENGTH:
        raise ValueError(
            f"A few-shot text has at most {FEW_SHOT_TEXT_LENGTH} tokens, padding included; got prompts "
            f"{prompt_tokens.shape}: shorten the longest text, or pad less."
        )


def check_pictures(config: PaLIXConfig, images, images_valid, batch: int):
    """(images float[B, n, height, width, C], images_valid bool[B, n]). Raises ValueError if these do not fit; the tower
    checks dtype and image size."""
    images = images[:, None] if images.ndim == 4 else images
    if images.ndim != 5 or images.shape[0] != batch:
        expected = f"float[B, n, height, width, C] or [B, height, width, C] with B={batch} as the prompts"
        raise ValueError(f"Images must be {expected}, got shape {images.shape}.")
    return images, _check_valid(config, images_valid, images.shape[:2])


def check_features(config: PaLIXConfig, features, images_valid, batch: int):
    """images_valid bool[B, n]. Raises ValueError unless features float[B, n, k, D_v] are the output of this tower."""
    k, width = config.tower.num_tokens, config.tower.width
    if features.ndim != 4 or features.shape[0] != batch or features.shape[2:] != (k, width):
        expected = f"float[B={batch}, n, k={k}, D_v={width}], the output of the tower for n images per prompt"
        raise ValueError(f"Features must be {expected}, got shape {features.shape}.")
    return _check_valid(config, images_valid, features.shape[:2])


def _check_valid(config: PaLIXConfig, images_valid, shape: tuple[int, int]):
    if not 1 <= shape[1] <= config.max_images:
        raise ValueError(f"An example has 1 to {config.max_images} images or frames (max_images), got {shape[1]}.")
    if images_valid is None:
        return jnp.ones(shape, bool)
    if images_valid.shape != shape:
        raise ValueError(f"images_valid must be bool[B, n] = {shape}, got {images_valid.shape}.")
    return images_valid.astype(bool)


def init_params(model: PaLIX, seed: int = 0) -> dict:
    """Initial parameters, drawn in one compiled call."""
    c, tokens = model.config.tower, np.ones((1, 1), np.int32)
    return initialize(model, np.zeros((1, 1, *c.image_size, c.channels), np.float32), tokens, tokens, seed=seed)


# ---------------------------------------------------------------------------------------------- the loss


def answer_loss(model: PaLIX, *, z_loss: float = 0.0, train: bool = True) -> Callable:
    """Mean cross-entropy over the target tokens of a batch from `batching.to_arrays` or `batching.pack`.

    "images" float[B, n, height, width, C] or "features" float[B, n, k, D_v], the tower's output, and "images_valid"
    bool[B, n], or neither; "prompt_tokens" int32[B, N], few-shot [B, n, L]; "targets" int32[B, M]; "weights" float[B,
    M], the weights of the target tokens in the mean (0 for coordinates of noise boxes), by default 0 for padding and 1
    for all else. Packed texts also have "prompt_segments" and "target_segments". Prompts carry no loss. The metric is
    token "accuracy". train: as for `t5.seq2seq_loss`.
    """

    def loss_fn(params, batch, key):
        targets, segments = batch["targets"], batch.get("target_segments")
        check_packing(segments, batch.get("prompt_segments"))
        rngs = dict(zip(("dropout", "router", "drop_path"), jax.random.split(key, 3), strict=True))
        logits, out = model.apply(
            {"params": params},
            batch.get("images"),
            batch["prompt_tokens"],
            shift_right(targets, segments),
            images_valid=batch.get("images_valid"),
            features=batch.get("features"),
            segments=batch.get("prompt_segments"),
            decoder_segments=(targets != PAD).astype(jnp.int32) if segments is None else segments,
            train=train,
            rngs=rngs,
        )
        loss, metrics = token_loss(logits, targets, batch.get("weights", targets != PAD), z_loss=z_loss)
        if "auxiliary_loss" not in out:
            return loss, metrics
        return loss + out["auxiliary_loss"], metrics | {"auxiliary_loss": out["auxiliary_loss"]}

    return loss_fn


def loss_of_groups(loss_fn: Callable, shares: Mapping[str, float]) -> Callable:
    """The loss of a batch of groups, {name: batch} of different shapes: the mean of the losses, weighted by `shares`.

    The metrics are the metrics of each group and its loss, under "name/metric". Raises ValueError unless batch and
    shares have the same groups.
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
