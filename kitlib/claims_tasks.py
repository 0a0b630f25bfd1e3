"""What the long studies train: a ViT on Fashion-MNIST and a T5 on WordNet's glosses, each as one object.

Both are small enough for two CPU cores, and their data large enough not to be learnt by heart: crops for the pictures,
new noise for the text. A reciprocal square root schedule knows no end, so that any run can go on.

Used by claims_upcycling and by notebooks 07 and 08.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
import optax

from kitlib import configs, data, flops, metrics, optim, pipeline, t5, text, tokenizer, train, upcycle
from kitlib.configs import T5Config, ViTConfig
from kitlib.vit import ViT


@dataclasses.dataclass(frozen=True, eq=False)  # one task is one object, and may be a key
class Task:
    """What differs between pictures and text."""

    name: str
    dense: ViTConfig | T5Config
    parent_steps: int
    optimizer: str  # what tx is, in words
    tx: optax.GradientTransformation
    restarts: bool  # does the paper start the optimiser anew after surgery?
    top_k: dict  # fields of MoEConfig that a router of token choice needs besides
    sparse: Callable  # (dense, **fields of MoEConfig) -> configuration: the paper's recipe at kit scale
    model: Callable  # configuration -> Linen module
    loss: Callable  # model -> loss function, see train.make_step
    init: Callable  # (model, seed) -> parameters
    batches: Callable  # seed -> iterator
    evaluate: Callable  # (model, parameters) -> {"accuracy", "loss"}
    forward_flops: Callable  # configuration -> of one example

    @property
    def setting(self) -> str:
        return f"{self.name}: {self.dense}, parent {self.parent_steps} steps, {self.optimizer}, rsqrt"


def schedule(peak: float) -> optax.Schedule:
    return optim.rsqrt(peak, 10**6, warmup=100, timescale=400)


@functools.cache
def vision() -> Task:
    """A ViT of 4 blocks and width 64 on the kit's 10,000 pictures, which crops make too many to learn by heart."""
    source, (images, labels) = data.load("fashion_mnist", "train"), data.load("fashion_mnist", "test").arrays()
    images = pipeline.to_float(images)

    def evaluate(model, params):
        probs = metrics.softmax(train.predict(model, params, images))
        return {"accuracy": metrics.accuracy(probs, labels), "loss": metrics.nll(probs, labels)}

    size = {"image_size": (28, 28), "channels": 1, "num_classes": 10, "depth": 4, "pool": "gap"}
    return Task(
        name="ViT, Fashion-MNIST",
        dense=configs.vit("tiny/7", **size),
        parent_steps=800,
        optimizer="AdamW, peak 0.002",
        tx=optim.assemble(optax.scale_by_adam(), schedule(2e-3), weight_decay=0.1, clip_norm=1.0),
        restarts=False,
        top_k={},
        # One batch of 128 pictures of 16 tokens is a group in training; the test set is cut likewise.
        sparse=lambda dense, **fields: upcycle.vision_recipe(dense, **{"num_experts": 8, "group_size": 2048} | fields),
        model=ViT,
        loss=train.classification_loss,
        init=lambda model, seed: train.init_params(model, (1, 28, 28, 1), seed),
        batches=lambda seed: pipeline.batches(source, 128, seed=seed, augment="crop_flip"),
        evaluate=evaluate,
        forward_flops=lambda config: sum(flops.vit_forward_flops(config).values()),
    )


@functools.cache
def language() -> Task:
    """A T5 of 3 + 3 layers and width 64: span corruption of 64 tokens of the training glosses; Adafactor, as T5 has.

    Batches are small, since a model as small as this learns more from more steps than from more tokens.
    """
    words = tokenizer.Tokenizer.load()
    stream = text.token_stream(data.glosses("train"), words)
    held_out = text.evaluation_set(text.token_stream(data.glosses("test"), words), words, 896)

    def evaluate(model, params):
        sums = np.sum([_scores(model)(params, *part) for part in _parts(held_out, 64)], axis=0)
        return {"accuracy": float(sums[0] / sums[2]), "loss": float(sums[1] / sums[2])}

    return Task(
        name="T5, WordNet glosses, span corruption",
        dense=configs.t5("tiny", num_encoder_layers=3, num_decoder_layers=3, mlp_dim=256),
        parent_steps=1600,
        optimizer="Adafactor, peak 0.05",
        tx=optim.assemble(optim.scale_by_adafactor(), schedule(0.05)),
        restarts=True,
        top_k={"importance_weight": 0.0, "load_weight": 0.0, "balance_weight": 0.01},  # as in the decoder: no noise
        sparse=lambda dense, **fields: upcycle.language_recipe(dense, **{"num_experts": 8} | fields),
        model=t5.T5,
        loss=t5.seq2seq_loss,
        init=t5.init_params,
        batches=lambda seed: text.batches(stream, words, 16, seed=seed),
        evaluate=evaluate,
        forward_flops=lambda config: sum(flops.t5_forward_flops(config, 64, held_out["targets"].shape[1]).values()),
    )


def _parts(examples: dict, size: int):
    inputs, targets = examples["inputs"], examples["targets"]
    return [(inputs[i : i + size], targets[i : i + size]) for i in range(0, len(inputs), size)]


@functools.cache
def _scores(model):
    """(parameters, inputs [B, N], targets [B, M]) -> (right tokens, summed loss, tokens)."""

    def scores(params, inputs, targets):
        real = targets != t5.PAD
        logits, _ = model.apply(
            {"params": params}, inputs, t5.shift_right(targets), decoder_segments=real.astype(np.int32)
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        right = (logits.argmax(axis=-1) == targets) & real
        return right.sum(), (losses * real).sum(), real.sum()

    return jax.jit(scores)
