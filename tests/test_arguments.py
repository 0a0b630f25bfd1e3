"""Wrong arguments, made by kind, for the functions that users call most: refused in a sentence of the kit's own.

Every function stands below with one call that is right and the kind of every argument. Each argument in turn is then
replaced by all that its kind does not allow (`WRONG`): a result would be nonsense without a word, and an error of
Python, NumPy or JAX would not say what was expected. A sentence of the kit names the argument or shows the value.
Models, functions, generators and keys have no kind: whatever has the method that is called will do.
Files are in test_malformed_files.py; what is no path, pathlib itself refuses.
"""

import functools
import inspect
import traceback
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest
from trees import random_params

import kitlib
from kitlib import configs, data, ensembles, metrics, moe
from kitlib.data import denoise, image_batches, shifts
from kitlib.ensembles import uncertainty
from kitlib.layers import vit_layers
from kitlib.metrics import fewshot
from kitlib.models import checkpoint, decode, flops, t5, vit
from kitlib.moe import routing
from kitlib.multimodal import boxes
from kitlib.parallel import mesh
from kitlib.training import classification, optim
from kitlib.upcycling import surgery

NAN, INF = float("nan"), float("inf")
NOT_NUMBERS = ("3", None, [], {}, object(), 1j)
NOT_FINITE = (NAN, INF, -INF, 1e308)
NOT_WHOLE = (*NOT_NUMBERS, *NOT_FINITE, 1.5, True, [3])
NOT_NAMES = ("nonsense", "", None, 3, NAN, [], {}, b"x", object())

# What each kind does not allow.
WRONG = {
    "count": (*NOT_WHOLE, 0, -1),
    "number of": (*NOT_WHOLE, -1),  # zero is none
    "seed": (*NOT_WHOLE, -1),
    "positive": (*NOT_NUMBERS, *NOT_FINITE, True, 0.0, -1.0),
    "real": (*NOT_NUMBERS, *NOT_FINITE, True),
    "not negative": (*NOT_NUMBERS, *NOT_FINITE, True, -1e-3),
    "fraction": (*NOT_NUMBERS, *NOT_FINITE, True, -1e-3, 1.001),
    "inside": (*NOT_NUMBERS, *NOT_FINITE, True, 0.0, 1.0, -1.0, 95),  # between 0 and 1
    "flag": ("no", "", 0, 1, 2.0, None, NAN, [], object()),
    "name": NOT_NAMES,
    "end": (*NOT_WHOLE, -2),  # of a text; -1: none
    "classes": ("text", None, {}, object(), np.array([0.5, 1.0]), np.array([-1, 0]), np.array([], int)),
    "tokens": (
        "text",
        None,
        {},
        object(),
        np.ones((0, 3), int),
        np.ones((2, 3)),
        np.full((2, 3), -1),
        np.full((2, 3), 1000),
        np.ones(3, int),
    ),
    "bytes": ("text", None, {}, object(), [[1]], np.zeros((2, 14, 14, 1))),
    "tree": ({},),
    "vit": (None, "tiny/7", 3, (), configs.t5("tiny")),
    "t5": (None, "tiny", 3, (), configs.vit("tiny/7")),
    "config": (None, "tiny/7", 3, (), configs.MoEConfig()),
    "moe": (None, 8, "top_k", (), configs.E3Config()),
}


def arrays(kind: str, right: np.ndarray):
    """What is no array of this kind: not numbers, no entries, an axis missing, not finite; labels of no class."""
    yield from ("text", None, {}, object(), np.full(right.shape, "a"), right.astype(complex))
    if kind != "any shape":
        yield from (right[:0], right[0])
    if kind == "labels":
        yield from (right - right.max() - 1, right + 1000, right.astype(float), right[:, None], right[:-1])
        return
    for nonsense in (NAN, INF):
        yield np.where(np.arange(right.size).reshape(right.shape) == 1, nonsense, right)
    if kind == "probabilities":
        yield from (right - 1.0, right * 2.0, right[:-1])
    if kind == "images":
        yield from (right * 200.0, (right * 100).astype(np.uint8), right[..., 0], right[:, :-1])


class Case(NamedTuple):
    function: object
    right: dict  # arguments that are right
    kinds: dict[str, str]  # argument: a key of WRONG, or "labels", "probabilities", "images", "numbers"
    free: str = ""  # arguments without a kind


RNG = np.random.default_rng(0)
PROBS = RNG.dirichlet(np.ones(3), 8)
LABELS = np.arange(8) % 3
TWO = np.stack([PROBS, PROBS[::-1]])
IMAGES = RNG.uniform(-1, 1, (4, 14, 14, 1)).astype(np.float32)
BYTES = RNG.integers(0, 256, (8, 14, 14, 1)).astype(np.uint8)
VIT = configs.vit("tiny/7", image_size=(14, 14), channels=1, num_classes=3).replace(width=8, depth=2, mlp_dim=8)
T5 = configs.t5("tiny").replace(width=8, mlp_dim=8, num_heads=2, head_dim=4, vocab_size=16)
MOE = configs.MoEConfig(num_experts=2)


@functools.cache
def params(config):
    return random_params(config)


@functools.cache
def source():
    return data.from_arrays(BYTES, LABELS, name="drawn", class_names=("a", "b", "c"))


# fmt: off
def cases():
    probabilities = {"probs": "probabilities", "labels": "labels"}
    right = {"probs": PROBS, "labels": LABELS}
    yield Case(metrics.accuracy, right, probabilities)
    yield Case(metrics.nll, right, probabilities)
    yield Case(metrics.brier, right, probabilities)
    yield Case(metrics.ece, right | {"bins": 3}, probabilities | {"bins": "count"})
    yield Case(metrics.reliability, right | {"bins": 3}, probabilities | {"bins": "count"})
    logits = {"logits": "numbers", "labels": "labels"}
    yield Case(metrics.fit_temperature, {"logits": np.log(PROBS), "labels": LABELS}, logits)
    yield Case(metrics.softmax, {"logits": PROBS}, {"logits": "any shape"})
    share = {"confidence": "inside"}
    yield Case(metrics.wilson,
               {"successes": 2, "trials": 4, "confidence": 0.9},
               {"successes": "number of", "trials": "count"} | share)
    yield Case(metrics.t_interval, {"values": LABELS, "confidence": 0.9}, {"values": "numbers"} | share)
    yield Case(metrics.bootstrap,
               {"values": np.tile(LABELS, 4), "resamples": 10, "confidence": 0.9, "seed": 0},
               {"values": "numbers", "resamples": "count", "seed": "seed"} | share)
    yield Case(metrics.over_examples, {"scores": PROBS[:, 0]}, {"scores": "numbers"})
    yield Case(fewshot.shots,
               {"labels": LABELS, "n": 2, "seed": 0},
               {"labels": "classes", "n": "count", "seed": "seed"})
    yield Case(fewshot.fit_probe,
               {"features": PROBS, "labels": LABELS, "l2": 1.0, "classes": 3, "bias": 1.0},
               {"features": "numbers", "labels": "labels", "l2": "not negative", "classes": "count",
                "bias": "positive"})
    yield Case(uncertainty.combine, {"probs": TWO}, {"probs": "numbers"})
    yield Case(uncertainty.ensemble_nll, {"logits": np.log(TWO), "labels": LABELS}, logits)
    yield Case(uncertainty.members_nll, {"logits": np.log(TWO), "labels": LABELS}, logits)
    yield Case(uncertainty.detection,
               {"scores_in": PROBS[:, 0], "scores_out": PROBS[:, 1]},
               {"scores_in": "numbers", "scores_out": "numbers"})
    yield Case(configs.vit,
               {"name": "tiny/7", "scan": True, "dropout": 0.1, "depth": 2, "pool": "gap"},
               {"name": "name", "scan": "flag", "dropout": "fraction", "depth": "count", "pool": "name"},
               "overrides")
    yield Case(configs.vmoe,
               {"name": "tiny/7", "where": "last-1", "moe": MOE},
               {"name": "name", "where": "name", "moe": "moe"},
               "overrides")
    yield Case(configs.e3,
               {"name": "tiny/7", "where": "last-1", "num_members": 2, "moe": MOE},
               {"name": "name", "where": "name", "num_members": "count", "moe": "moe"},
               "overrides")
    yield Case(configs.t5,
               {"name": "tiny", "dropout": 0.1, "scan": False, "vocab_size": 8},
               {"name": "name", "dropout": "fraction", "scan": "flag", "vocab_size": "count"},
               "overrides")
    yield Case(configs.sparse_t5,
               {"name": "tiny", "moe": MOE, "decoder_moe": MOE},
               {"name": "name", "moe": "moe", "decoder_moe": "moe"},
               "overrides")
    yield Case(configs.palix, {"name": "XS"}, {"name": "name"}, "tower text overrides")
    yield Case(configs.MoEConfig,
               {f: getattr(MOE, f) for f in inspect.signature(configs.MoEConfig).parameters} | {"group_size": 4},
               {"num_experts": "count", "granularity": "count", "router": "name", "num_selected": "count",
                "capacity_factor": "positive", "capacity_multiple_of": "count", "group_size": "count",
                "batch_priority": "flag", "renormalize": "flag", "noise_std": "not negative",
                "importance_weight": "not negative", "load_weight": "not negative", "balance_weight": "not negative",
                "z_weight": "not negative", "dispatch": "name", "transport": "name", "expert_parallel": "name",
                "expert_dropout": "fraction", "split_init": "flag"},
               "capacity")
    yield Case(configs.E3Config,
               {"num_members": 2, "tiling": "lazy", "routers": "own", "overlap": 0},
               {"num_members": "count", "tiling": "name", "routers": "name", "overlap": "number of"})
    yield Case(configs.BatchEnsembleConfig,
               {"blocks": (0,), "num_members": 2, "attention": True, "sign_probability": 0.5, "spread": 0.5},
               {"num_members": "count", "attention": "flag", "sign_probability": "fraction",
                "spread": "not negative"},
               "blocks")
    yield Case(data.load,
               {"name": "fashion_mnist", "split": "test", "full": False, "data_dir": None},
               {"name": "name", "split": "name", "full": "flag"},
               "data_dir")
    yield Case(data.from_arrays,
               {"images": BYTES, "labels": LABELS, "name": "drawn", "class_names": ("a", "b", "c")},
               {"images": "bytes", "labels": "labels"},
               "name class_names")
    yield Case(data.glosses, {"split": "train"}, {"split": "name"}, "data_dir")
    yield Case(data.keyed_rng, {"seed": 0}, {"seed": "seed"}, "key")
    yield Case(image_batches.to_float, {"images": BYTES}, {"images": "bytes"})
    yield Case(image_batches.batches,
               {"source": source(), "batch_size": 4, "seed": 0, "train": True, "image_size": 14, "augment": "none",
                "num_epochs": 1, "shard_index": 0, "shard_count": 1},
               {"batch_size": "count", "seed": "seed", "train": "flag", "image_size": "count", "augment": "name",
                "num_epochs": "count", "shard_index": "number of", "shard_count": "count"},
               "source")
    yield Case(denoise.random_spans_mask,
               {"length": 20, "density": 0.2, "mean_span": 3.0, "rng": np.random.default_rng(0)},
               {"length": "count", "density": "inside", "mean_span": "positive"},
               "rng")
    yield Case(shifts.corrupt,
               {"images": np.tile(BYTES[:2], (1, 2, 2, 1)), "name": "fog", "severity": 2, "seed": 0, "indices": None},
               {"images": "bytes", "name": "name", "severity": "count", "seed": "seed"},
               "indices")
    yield Case(moe.capacity, {"c": MOE, "num_tokens": 8}, {"c": "moe", "num_tokens": "count"})
    yield Case(routing.capacity_of_tokens,
               {"num_tokens": 8, "num_experts": 2, "factor": 1.0},
               {"num_tokens": "count", "num_experts": "count", "factor": "positive"})
    yield Case(routing.capacity_of_choices,
               {"num_tokens": 8, "num_experts": 2, "num_selected": 1, "factor": 1.0, "multiple_of": 1},
               {"num_tokens": "count", "num_experts": "count", "num_selected": "count", "factor": "positive",
                "multiple_of": "count"})
    yield Case(routing.top_k,
               {"probabilities": jax.numpy.asarray(PROBS)[None], "num_selected": 2},
               {"num_selected": "count"},
               "probabilities valid")
    yield Case(moe.to_groups,
               {"x": jax.numpy.zeros((2, 4, 3)), "valid": None, "group_size": 4},
               {"group_size": "count"},
               "x valid")
    yield Case(surgery.vision_recipe, {"dense": VIT}, {"dense": "vit"}, "changes")
    yield Case(surgery.language_recipe, {"dense": T5}, {"dense": "t5"}, "changes")
    yield Case(surgery.mimo_from_single,
               {"params": params(VIT), "num_members": 2},
               {"num_members": "count"},
               "params")
    yield Case(ensembles.mimo_batch,
               {"batch": {"image": IMAGES, "label": LABELS[:4]}, "key": jax.random.key(0), "num_members": 2,
                "repetitions": 1, "same": 0.0},
               {"num_members": "count", "repetitions": "count", "same": "fraction"},
               "batch key")
    yield Case(ensembles.mc_dropout,
               {"model": vit.ViT(VIT.replace(dropout=0.1)), "params": params(VIT), "images": IMAGES, "num_samples": 2,
                "seed": 0, "batch_size": 4},
               {"images": "images", "num_samples": "count", "seed": "seed", "batch_size": "count"},
               "model params")
    yield Case(classification.predict,
               {"model": vit.ViT(VIT), "params": params(VIT), "images": IMAGES, "batch_size": 4},
               {"images": "images", "batch_size": "count"},
               "model params")
    yield Case(classification.train_classifier,
               {"model": vit.ViT(VIT), "source": source(), "seed": 0, "num_steps": 1, "batch_size": 4, "peak": 1e-3,
                "warmup": 0, "weight_decay": 0.1, "augment": "none"},
               {"seed": "seed", "num_steps": "count", "batch_size": "count", "peak": "not negative",
                "warmup": "number of", "weight_decay": "not negative", "augment": "name", "save_every": "number of",
                "params": "tree"},
               "model source progress checkpoint_dir")
    schedule = {"peak": "not negative", "total_steps": "count", "warmup": "number of"}
    right = {"peak": 0.1, "total_steps": 10, "warmup": 2}
    yield Case(optim.cosine, right, schedule)
    yield Case(optim.linear, right | {"end": 0.0}, schedule | {"end": "not negative"})
    yield Case(optim.rsqrt,
               right | {"cooldown": 1, "timescale": 3},
               schedule | {"cooldown": "number of", "timescale": "count"})
    yield Case(optim.assemble,
               {"core": optax.scale_by_adam(), "learning_rate": 0.1, "weight_decay": 0.1, "head_weight_decay": 0.1,
                "clip_norm": 1.0},
               {"learning_rate": "not negative", "weight_decay": "not negative", "head_weight_decay": "not negative",
                "clip_norm": "positive"},
               "core freeze")
    yield Case(decode.greedy,
               {"model": t5.T5(T5), "params": params(T5), "inputs": np.ones((2, 3), np.int32), "max_length": 2,
                "eos": 1},
               {"inputs": "tokens", "max_length": "count", "eos": "end"},
               "model params")
    yield Case(decode.beam_search,
               {"model": t5.T5(T5), "params": params(T5), "inputs": np.ones((2, 3), np.int32), "max_length": 2,
                "num_beams": 2, "length_penalty": 1.0, "eos": 1},
               {"inputs": "tokens", "max_length": "count", "num_beams": "count", "length_penalty": "real",
                "eos": "end"},
               "model params")
    yield Case(flops.vit_parameters, {"c": VIT}, {"c": "vit"})
    yield Case(flops.vit_forward_flops, {"c": VIT}, {"c": "vit"})
    yield Case(checkpoint.expected_shapes, {"config": VIT}, {"config": "config"})
    yield Case(boxes.to_text,
               {"boxes": np.array([[0.1, 0.2, 0.5, 0.6]]), "names": ["cat"], "bins": 10},
               {"bins": "count"},
               "boxes names")
    yield Case(boxes.from_text, {"text": "1 2 5 6 cat", "bins": 10}, {"bins": "count"}, "text")
    yield Case(mesh.make, {"data": 1}, {"data": "count"}, "devices axes")
    yield Case(vit_layers.sincos_positions,
               {"grid": (2, 2), "width": 8, "temperature": 10.0},
               {"width": "count", "temperature": "positive"},
               "grid")
    yield Case(vit_layers.patchify, {"images": IMAGES, "patch_size": 7}, {"patch_size": "count"}, "images")
# fmt: on


CASES = {f"{case.function.__module__}.{case.function.__qualname__}": case for case in cases()}
PAIRS = [(name, argument) for name, case in CASES.items() for argument in case.kinds]
LIBRARY = str(Path(kitlib.__file__).parent)

# What a kind does not allow, but this function does, with the reason.
ALLOWED = {
    ("kitlib.moe.moe_layer.to_groups", "group_size"): (None,),  # one group
}


def wrong(case: Case, argument: str):
    kind, right = case.kinds[argument], case.right.get(argument)
    values = WRONG[kind] if kind in WRONG else arrays(kind, right)
    parameters = inspect.signature(case.function).parameters
    default = parameters[argument].default if argument in parameters else inspect.Parameter.empty
    return [value for value in values if not (value is None and default is None)]


def call(case: Case, **changed):
    found = case.function(**case.right | changed)
    return jax.block_until_ready(found) if isinstance(found, jax.Array) else found


def test_the_forty_functions_and_all_their_arguments():
    assert len(CASES) >= 40
    for name, case in CASES.items():
        parameters = set(inspect.signature(case.function).parameters)
        named = set(case.kinds) | set(case.free.split())
        assert parameters <= named, (name, parameters - named)


@pytest.mark.parametrize("name", CASES)
def test_the_right_call_is_right(name):
    call(CASES[name])


@pytest.mark.parametrize(("name", "argument"), PAIRS)
def test_wrong_arguments(name, argument):
    case, fell = CASES[name], []
    for value in wrong(case, argument):
        if value in ALLOWED.get((name, argument), ()):
            continue
        shown = " ".join(repr(value).split())[:60]
        try:
            found = call(case, **{argument: value})
        except (ValueError, TypeError, FileNotFoundError) as error:
            text, place = str(error), traceback.extract_tb(error.__traceback__)[-1].filename
            about = [word.rstrip("s") for word in argument.split("_")]
            about += ["shape", "nan"] if isinstance(value, np.ndarray | np.generic) else []
            if not place.startswith(LIBRARY) or "\n" in text or not text.endswith("."):
                fell.append(f"{shown}: bare {type(error).__name__}: {text.splitlines()[0][:90]}")
            elif not any(word in text.lower() for word in about) and shown not in text:
                fell.append(f"{shown}: neither argument nor value in {text[:100]!r}")
        except Exception as error:
            fell.append(f"{shown}: bare {type(error).__name__}: {str(error)[:90]}")
        else:
            fell.append(f"{shown}: accepted, gave {' '.join(repr(found).split())[:70]}")
    assert not fell, "\n" + "\n".join(fell)
