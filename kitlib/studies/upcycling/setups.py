"""The tasks of upcycling: what a study needs to know of each, `Setup`, and five that two CPU cores can train.

`vision` and `language` are for runs of a minute, in notebooks 07 and 08: they have too much data to memorise, as images
are cropped at random and texts get new noise. Studies have tasks with tuned recipes (`recipes`): `recall` of names and
missing bytes (`text`) by a T5, and `pictures` of objects, named by a ViT. Whether upcycling can be judged on them their
gates say (`gates`).
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
from kitlib.data import denoise, image_batches, keyed_rng, texts, tokenizer
from kitlib.ensembles import uncertainty
from kitlib.models import flops, t5
from kitlib.models.vit import ViT
from kitlib.studies.upcycling.recipes import Recipe, chosen, schedule
from kitlib.synthetic import named_pictures
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
    recipe: Callable[[str], Recipe]  # by the kind of an arm: "parent", "dense", "upcycled", "scratch", "deeper", "E3"
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
        peak = f"{self.optimizer}, peak {self.recipe('parent').peak:g}, rsqrt"
        return f"{self.name}: {self.dense}, parent {self.parent_steps} steps, {peak}"

    @property
    def tx(self) -> optax.GradientTransformation:
        """The parent's optimiser. The states of all optimisers of a setup have one structure."""
        return self.optimizer_for(self.recipe("parent"))

    def optimizer_for(self, recipe: Recipe, end: int | None = None) -> optax.GradientTransformation:
        """The optimiser of an arm; end: its last step, for a recipe with a cool-down."""
        return self.transform(schedule(recipe.peak, cooldown=recipe.cooldown, **({"end": end} if end else {})))

    def relative_cost(self, config) -> float:
        """FLOPs of a model, per example, over those of the dense one."""
        return self.forward_flops(config) / self.forward_flops(self.dense)


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
        recipe=lambda kind: Recipe(2e-3),
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
        recipe=lambda kind: Recipe(0.05),
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


# ---------------------------------------------------------------------------------------------- with tuned recipes


@functools.cache
def recall(split: str = "test") -> Setup:
    """A T5 of 2 + 2 layers and width 32 learns names by heart; experts in the second layer of both stacks.

    split: of what is taught, the 4,096 facts on which models are compared ("test"), or 4,096 others, by which recipes
    are chosen ("valid"). Measured are loss per letter and exact recall, and both on facts that were never taught.
    """
    taught, words = texts.facts("taught"), texts.vocabulary()
    asked = {"": taught[:4096] if split == "test" else taught[4096:8192], "held_out_": texts.facts("held_out")}

    def evaluate(model, params):
        row = {}
        for prefix, facts in asked.items():
            scores = np.concatenate([t5_scores(model)(params, *part) for part in parts(vars(facts), 1024)], axis=1)
            _, loss, count, faultless = scores.sum(axis=1)
            row |= {f"{prefix}accuracy": float(faultless / len(facts)), f"{prefix}loss": float(loss / count)}
        return row

    return _tuned_t5(
        "T5, recall of names in 35 languages", words.size, 32, 4, 4000, 256, "recall", evaluate,
        lambda seed: texts.batches(taught, 256, seed=seed), (taught.inputs.shape[1], taught.targets.shape[1]),
    )  # fmt: skip


# Windows of 36 bytes, the second half of which is one missing span: UL2's S, a language model with a prefix. (With
# spans of a word, 15 % of the text, a T5 of this size has not learned after 2,400 steps to use what surrounds them: 2.5
# nats a byte.)
SPANS = denoise.Denoiser("", 0.5, 16)
VALID = 2000  # texts of either kind that recipes are chosen by
WINDOWS = 2048  # that are scored


@functools.cache
def text(split: str = "test") -> Setup:
    """A T5 of 2 + 2 layers and width 32 fills in missing bytes: 86,000 glosses, and messages in 96 languages.

    split: the texts on which models are compared ("test"), or others by which recipes are chosen ("valid"); neither is
    trained on. Loss and accuracy count bytes of texts, not sentinels and ends, which are easy; loss is also measured on
    glosses and messages alone. Both kinds are mixed as in training: a router would drop tokens of a batch of one kind.
    """
    words = tokenizer.ByteTokenizer()
    length = {"inputs_length": 20, "denoisers": (SPANS,)}

    @functools.cache  # read when they are needed, not when studies are listed
    def streams() -> dict[str, dict[str, np.ndarray]]:
        """By kind of text: what is trained on, and what is asked."""
        glosses, messages = [*data.glosses("train"), *data.glosses("more")], [text for _, text in texts.messages()]
        asked = {"gloss": glosses[:VALID], "message": messages[:VALID]}
        if split == "test":
            asked = {"gloss": data.glosses("test"), "message": [text for _, text in texts.messages("test")]}
        taught = {"gloss": glosses[VALID:], "message": messages[VALID:]}
        return {
            kind: {"taught": denoise.token_stream(taught[kind], words)}
            | {"asked": denoise.token_stream(asked[kind], words)}
            for kind in taught
        }

    @functools.cache
    def taught() -> np.ndarray:
        return np.concatenate([stream["taught"] for stream in streams().values()])

    @functools.cache
    def held_out() -> dict[str, np.ndarray]:
        found = []
        for kind, stream in streams().items():
            count = round(WINDOWS * len(stream["taught"]) / len(taught()))
            part = denoise.evaluation_set(stream["asked"], words, count, **length)
            found.append(part | {"kind": np.full(count, kind)})
        order = keyed_rng(0, 0).permutation(sum(len(part["kind"]) for part in found))
        return {name: np.concatenate([part[name] for part in found])[order] for name in found[0]}

    def evaluate(model, params):
        examples = held_out()
        scores = t5_scores(model, words)
        correct, loss, count, _ = np.concatenate([scores(params, *part) for part in parts(examples, 128)], axis=1)
        row = {"accuracy": float(correct.sum() / count.sum()), "loss": float(loss.sum() / count.sum())}
        of = {kind: examples["kind"] == kind for kind in streams()}
        return row | {f"{kind}_loss": float(loss[rows].sum() / count[rows].sum()) for kind, rows in of.items()}

    return _tuned_t5(
        "T5, one missing span of bytes, glosses and messages in 96 languages", words.vocab_size, 32, 2, 3000, 128,
        "text", evaluate, lambda seed: denoise.batches(taught(), words, 128, seed=seed, **length),
        (20, denoise.Recipe(words, 20, (SPANS,)).targets_length),
    )  # fmt: skip


def _tuned_t5(name, vocab_size, width, heads, steps, batch_size, task, evaluate, batches, lengths) -> Setup:
    """A T5 of 2 + 2 layers with experts in the second of both; task: whose recipes; lengths: of inputs and targets, to
    count FLOPs."""
    sizes = {"width": width, "mlp_dim": 4 * width, "num_encoder_layers": 2, "num_decoder_layers": 2}
    return Setup(
        name=name,
        dense=configs.t5("tiny", vocab_size=vocab_size, num_heads=heads, head_dim=width // heads, **sizes),
        parent_steps=steps,
        optimizer=f"Adam, batches of {batch_size}",
        transform=lambda rate: optim.assemble(optax.scale_by_adam(), rate, clip_norm=1.0),
        recipe=functools.partial(chosen, task),
        top_k={"importance_weight": 0.0, "load_weight": 0.0, "balance_weight": 0.01},
        sparse=_sparse_t5,
        model=t5.T5,
        loss=t5.seq2seq_loss,
        init=t5.init_params,
        batches=batches,
        evaluate=evaluate,
        forward_flops=lambda config: sum(flops.t5_forward_flops(config, *lengths).values()),
    )


def _sparse_t5(dense, capacity_factor=2.0, renormalize=False, num_experts=16, **fields):
    """The paper's recipe, but in the decoder, where a token chooses, C is the number K of its choices."""
    fields |= {"num_experts": num_experts, "capacity_factor": capacity_factor, "renormalize": renormalize}
    config = surgery.language_recipe(dense, **fields)
    return config.replace(decoder_moe=config.decoder_moe.replace(num_selected=max(1, int(capacity_factor))))


@functools.cache
def pictures(split: str = "test", width: int = 16) -> Setup:
    """A ViT of 4 blocks sees an object and a language and says what the object's name begins with; experts in the last
    two blocks.

    split: of what is taught, the 4,096 questions on which models are compared ("test"), or 4,096 others, by which
    recipes are chosen ("valid"), in new pictures. Measured are loss and accuracy, and both on pairs of object
    and language that were never taught, and on objects that were never seen.
    """
    taught = named_pictures.questions("taught")

    @functools.cache  # drawn when they are needed, not when studies are listed
    def asked() -> dict[str, tuple]:
        known = taught[:4096] if split == "test" else taught[4096:8192]
        others = {f"{other}_": named_pictures.questions(other) for other in ("held_out", "novel")}
        rng = keyed_rng(0, int(split == "test"))
        return {
            prefix: (image_batches.to_float(named_pictures.pictures(questions, rng)), questions.labels)
            for prefix, questions in ({"": known} | others).items()
        }

    def evaluate(model, params):
        row = {}
        for prefix, (images, labels) in asked().items():
            probs = metrics.softmax(classification.predict(model, params, images, batch_size=256))
            if classification.has_members(model):
                probs = uncertainty.combine(probs)
            row |= {f"{prefix}accuracy": metrics.accuracy(probs, labels), f"{prefix}loss": metrics.nll(probs, labels)}
        return row

    size = {"width": width, "mlp_dim": 4 * width, "depth": 4, "num_heads": width // 8}
    size |= {"image_size": named_pictures.SIZE, "pool": "gap"}
    return Setup(
        name="ViT, pictures of things, to be named in 27 languages",
        dense=configs.vit("tiny/12", num_classes=len(named_pictures.LETTERS), **size),
        parent_steps=6000,
        optimizer="Adam, batches of 256",
        transform=lambda rate: optim.assemble(optax.scale_by_adam(), rate, clip_norm=1.0),
        recipe=functools.partial(chosen, "pictures" if width == 16 else f"pictures{width}"),
        top_k={},
        sparse=_sparse_vit,
        model=ViT,
        loss=classification.classification_loss,
        init=lambda model, seed: classification.init_params(model, (1, *named_pictures.SIZE, 3), seed),
        batches=lambda seed: named_pictures.batches(taught, 256, seed=seed),
        evaluate=evaluate,
        forward_flops=lambda config: sum(flops.vit_forward_flops(config).values()),
    )


def _sparse_vit(dense, capacity_factor=2.0, renormalize=False, num_experts=16, **fields):
    """The recipe of the paper's vision models, C = 2; one batch of 256 pictures with 6 tokens each is one group."""
    fields |= {"num_experts": num_experts, "capacity_factor": capacity_factor, "renormalize": renormalize}
    return surgery.vision_recipe(dense, **{"group_size": 1536} | fields)
