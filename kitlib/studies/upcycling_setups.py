"""The models and data of the upcycling studies: a ViT on Fashion-MNIST and a T5 on WordNet's glosses, one object each.

Both models are small enough for two CPU cores, and both have too much data to memorise: images are cropped at random,
texts get new noise. A reciprocal square root schedule has no end, so that any run can be continued.

Used by `studies.upcycling` and by notebooks 07 and 08.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
import optax

from kitlib import configs, data, metrics
from kitlib.configs import T5Config, ViTConfig
from kitlib.data import image_batches, text_batches, tokenizer
from kitlib.models import flops, t5
from kitlib.models.vit import ViT
from kitlib.training import classification, optim
from kitlib.upcycling import surgery


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity, so that it can be the key of a cache
class Setup:
    """Everything that differs between the studies of vision and of language."""

    name: str
    dense: ViTConfig | T5Config
    parent_steps: int
    optimizer: str  # a description of tx
    tx: optax.GradientTransformation
    restarts: bool  # whether the paper resets the optimiser's moments after surgery
    top_k: dict  # further fields of MoEConfig for a token-choice router
    sparse: Callable  # (dense, **fields of MoEConfig) -> configuration: the paper's recipe at kit scale
    model: Callable  # configuration -> Linen module
    loss: Callable  # model -> loss function (see `loop.make_step`)
    init: Callable  # (model, seed) -> parameters
    batches: Callable  # seed -> iterator
    evaluate: Callable  # (model, parameters) -> {"accuracy", "loss"}
    forward_flops: Callable  # configuration -> FLOPs per example

    @property
    def setting(self) -> str:
        return f"{self.name}: {self.dense}, parent {self.parent_steps} steps, {self.optimizer}, rsqrt"


def schedule(peak: float) -> optax.Schedule:
    """100 steps of warm-up to `peak`, then a reciprocal square root."""
    return optim.rsqrt(peak, 10**6, warmup=100, timescale=400)


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
        optimizer="AdamW, peak 0.002",
        tx=optim.assemble(optax.scale_by_adam(), schedule(2e-3), weight_decay=0.1, clip_norm=1.0),
        restarts=False,
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
    stream = text_batches.token_stream(data.glosses("train"), words)
    held_out = text_batches.evaluation_set(text_batches.token_stream(data.glosses("test"), words), words, num_test)

    def evaluate(model, params):
        sums = np.sum([_scores(model)(params, *part) for part in _parts(held_out, 64)], axis=0)
        return {"accuracy": float(sums[0] / sums[2]), "loss": float(sums[1] / sums[2])}

    return Setup(
        name="T5, WordNet glosses, span corruption",
        dense=configs.t5("tiny", num_encoder_layers=3, num_decoder_layers=3, mlp_dim=256),
        parent_steps=1600,
        optimizer="Adafactor, peak 0.05",
        tx=optim.assemble(optim.scale_by_adafactor(), schedule(0.05)),
        restarts=True,
        top_k={"importance_weight": 0.0, "load_weight": 0.0, "balance_weight": 0.01},  # as in the decoder: no noise
        sparse=lambda dense, **fields: surgery.language_recipe(dense, **{"num_experts": 8} | fields),
        model=t5.T5,
        loss=t5.seq2seq_loss,
        init=t5.init_params,
        batches=lambda seed: text_batches.batches(stream, words, 16, seed=seed),
        evaluate=evaluate,
        forward_flops=lambda config: sum(flops.t5_forward_flops(config, 64, held_out["targets"].shape[1]).values()),
    )


def _parts(examples: dict, size: int):
    inputs, targets = examples["inputs"], examples["targets"]
    return [(inputs[i : i + size], targets[i : i + size]) for i in range(0, len(inputs), size)]


@functools.cache
def _scores(model):
    """(parameters, inputs [B, N], targets [B, M]) -> (correct tokens, summed loss, tokens)."""

    def scores(params, inputs, targets):
        real = targets != t5.PAD
        logits, _ = model.apply(
            {"params": params}, inputs, t5.shift_right(targets), decoder_segments=real.astype(np.int32)
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        correct = (logits.argmax(axis=-1) == targets) & real
        return correct.sum(), (losses * real).sum(), real.sum()

    return jax.jit(scores)
