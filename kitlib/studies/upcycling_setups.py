"""What a study of upcycling needs to know of its task, `Setup`, and two tasks for runs of a minute: a ViT on
Fashion-MNIST and a T5 on WordNet's glosses. Those of the studies, whose recipes are tuned, are in `upcycling_tasks`.

All models are small enough for two CPU cores. These two have too much data to memorise: images are cropped at random,
texts get new noise.

Used by `studies.upcycling_tasks` and by notebooks 07 and 08.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kitlib import configs, data, metrics
from kitlib.configs import T5Config, ViTConfig
from kitlib.data import denoise, image_batches, tokenizer
from kitlib.models import flops, t5
from kitlib.models.vit import ViT
from kitlib.studies.upcycling_recipes import Recipe, schedule
from kitlib.training import classification, optim
from kitlib.upcycling import surgery


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity, so that it can be the key of a cache
class Setup:
    """Everything that differs between the studies of one task and another."""

    name: str
    dense: ViTConfig | T5Config
    parent_steps: int
    optimizer: str  # a description of transform
    transform: Callable[[optax.Schedule], optax.GradientTransformation]  # the optimiser, but for the learning rate
    recipes: dict[str, Recipe]  # by the start of an arm, one of KINDS
    top_k: dict  # further fields of MoEConfig for a token-choice router
    sparse: Callable  # (dense, **fields of MoEConfig) -> configuration: the paper's recipe at kit scale
    model: Callable  # configuration -> Linen module
    loss: Callable  # model -> loss function (see `loop.make_step`)
    init: Callable  # (model, seed) -> parameters
    batches: Callable  # seed -> iterator
    evaluate: Callable  # (model, parameters) -> {"accuracy", "loss", ...}
    forward_flops: Callable  # configuration -> FLOPs per example

    @property
    def setting(self) -> str:
        peak = f"{self.optimizer}, peak {self.recipes['parent'].peak:g}, rsqrt"
        return f"{self.name}: {self.dense}, parent {self.parent_steps} steps, {peak}"

    @property
    def tx(self) -> optax.GradientTransformation:
        """The parent's optimiser. The states of all optimisers of a setup have one structure."""
        return self.optimizer_for(self.recipes["parent"])

    def optimizer_for(self, recipe: Recipe, end: int | None = None) -> optax.GradientTransformation:
        """The optimiser of an arm; end: its last step, for a recipe with a cool-down."""
        return self.transform(schedule(recipe.peak, cooldown=recipe.cooldown, **({"end": end} if end else {})))

    def relative_cost(self, config) -> float:
        """FLOPs of a model, per example, over those of the dense one."""
        return self.forward_flops(config) / self.forward_flops(self.dense)


KINDS = ("parent", "dense", "upcycled", "scratch", "deeper")


@functools.cache
def vision(num_test: int = 5000) -> Setup:
    """A ViT of 4 blocks and width 64 on the kit's 10,000 images, which random crops make too many to memorise.

    num_test: the number of test images, of 5,000.
    """
    source, test_source = data.load("fashion_mnist", "train"), data.load("fashion_mnist", "test")[:num_test]
    images, labels = test_source.arrays()
    images = image_batches.to_float(images)

    def evaluate(model, params):
        probs = metrics.softmax(classification.predict(model, params, images))
        return {"accuracy": metrics.accuracy(probs, labels), "loss": metrics.nll(probs, labels)}

    size = {"image_size": (28, 28), "channels": 1, "num_classes": 10, "depth": 4, "pool": "gap"}
    return Setup(
        name="ViT, Fashion-MNIST",
        dense=configs.vit("tiny/7", **size),
        parent_steps=800,
        optimizer="AdamW",
        transform=lambda rate: optim.assemble(optax.scale_by_adam(), rate, weight_decay=0.1, clip_norm=1.0),
        recipes=dict.fromkeys(KINDS, Recipe(2e-3)),
        top_k={},
        # In training, one batch of 128 images with 16 tokens each is one group; the test set has the same groups.
        sparse=lambda dense, **fields: surgery.vision_recipe(dense, **{"num_experts": 8, "group_size": 2048} | fields),
        model=ViT,
        loss=classification.classification_loss,
        init=lambda model, seed: classification.init_params(model, (1, 28, 28, 1), seed),
        batches=lambda seed: image_batches.batches(source, 128, seed=seed, augment="crop_flip"),
        evaluate=evaluate,
        forward_flops=lambda config: sum(flops.vit_forward_flops(config).values()),
    )


@functools.cache
def language(num_test: int = 896) -> Setup:
    """A T5 of 3 + 3 layers and width 64: span corruption of 64 tokens of the training glosses; Adafactor, as in T5.

    Batches are small, since a model of this size learns more from more steps than from more tokens.
    num_test: the number of test texts of 64 tokens.
    """
    words = tokenizer.Tokenizer.load()
    stream = denoise.token_stream(data.glosses("train"), words)
    held_out = denoise.evaluation_set(denoise.token_stream(data.glosses("test"), words), words, num_test)

    def evaluate(model, params):
        scores = np.concatenate([t5_scores(model)(params, *part) for part in parts(held_out, 64)], axis=1)
        correct, loss, count, _ = scores.sum(axis=1)
        return {"accuracy": float(correct / count), "loss": float(loss / count)}

    return Setup(
        name="T5, WordNet glosses, span corruption",
        dense=configs.t5("tiny", num_encoder_layers=3, num_decoder_layers=3, mlp_dim=256),
        parent_steps=1600,
        optimizer="Adafactor",
        transform=lambda rate: optim.assemble(optim.scale_by_adafactor(), rate),
        recipes=dict.fromkeys(KINDS, Recipe(0.05)),
        top_k={"importance_weight": 0.0, "load_weight": 0.0, "balance_weight": 0.01},  # as in the decoder: no noise
        sparse=lambda dense, **fields: surgery.language_recipe(dense, **{"num_experts": 8} | fields),
        model=t5.T5,
        loss=t5.seq2seq_loss,
        init=t5.init_params,
        batches=lambda seed: denoise.batches(stream, words, 16, seed=seed),
        evaluate=evaluate,
        forward_flops=lambda config: sum(flops.t5_forward_flops(config, 64, held_out["targets"].shape[1]).values()),
    )


def deeper(config):
    """The configuration with one more block, of a T5 in each stack."""
    if isinstance(config, ViTConfig):
        return config.replace(depth=config.depth + 1)
    more = {name: getattr(config, name) + 1 for name in ("num_encoder_layers", "num_decoder_layers")}
    return config.replace(**more)


def parts(examples: dict, size: int) -> list[tuple]:
    """The inputs and targets of {"inputs": int32[n, N], "targets": int32[n, M]}, `size` at a time."""
    inputs, targets = examples["inputs"], examples["targets"]
    return [(inputs[i : i + size], targets[i : i + size]) for i in range(0, len(inputs), size)]


@functools.cache
def t5_scores(model, words=None) -> Callable:
    """Of a T5: (parameters, inputs [B, N], targets [B, M]) -> [4, B], sums over the tokens of each example: how many
    are correct, loss, how many there are; and whether all are correct.

    words: a `ByteTokenizer`, to count bytes of texts only; None: all tokens but padding.
    """

    def scores(params, inputs, targets):
        real = targets != t5.PAD
        logits, _ = model.apply(
            {"params": params}, inputs, t5.shift_right(targets), decoder_segments=real.astype(np.int32)
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        counted = real if words is None else words.is_text(targets)
        correct = (logits.argmax(axis=-1) == targets) & counted
        sums = [values.sum(axis=-1) for values in (correct, losses * counted, counted)]
        return jnp.stack([*sums, (correct == counted).all(axis=-1)])

    return jax.jit(scores)
