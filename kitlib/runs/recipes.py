"""Training runs by name: `kit train vit`, at the scale of a laptop, a GPU or a pod.

    recipe = named("vmoe", "cpu")
    recipe = dataclasses.replace(recipe, steps=2_000, model=recipe.model.replace(depth=6))

The laptop's runs are those of the notebooks. The others are starting points of published sizes for their data sets;
they were compiled (`--dry-run`, `kit pods`), not trained by us.
"""

import dataclasses
import json
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from kitlib import configs
from kitlib.configs import MoEConfig, PaLIXConfig, T5Config, ViTConfig
from kitlib.configs.arguments import flag, number, one_of, whole
from kitlib.configs.parts import DEEP
from kitlib.data import files

SCALES = ("cpu", "gpu", "pod")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides what a run learns. The mesh is no part of it: the same run may go on on another one.

    Attributes:
        model: its configuration; every field can be changed, as in --model.depth 6.
        data: for a ViT fashion_mnist or animal_mnist, with --full cifar10, cifar100 or imagenet2012, or pictures of
            your own (`data.from_files`): a folder or an .npz; for a T5 glosses, or a text file of your own, a text per
            line; for a PaLI-X kit, coco_captions, vqav2, textvqa, docvqa or lvis.
        batch_size: B, examples per step, of all devices together.
        steps: updates.
        peak: the largest learning rate.
        optimizer: "adamw", "adafactor" (T5X) or "adafactor-momentum" (Scaling Vision Transformers).
        schedule: after the warm-up, half a cosine or a reciprocal square root.
        warmup: steps.
        weight_decay: of kernels.
        clip_norm: of the gradients.
        accumulate: parts of a batch that are computed one after the other.
        augment: of images; see `image_batches.batches`.
        full: the full public image set, of fashion_mnist instead of the kit's small copy; needs the network once.
        files: of public sets with questions or captions: the paths that their function in `public_sets` takes.
        eval_files: the same of another split, to evaluate on; without them, a public set is not evaluated.
        seed: of parameters, data and dropout.
    """

    model: ViTConfig | T5Config | PaLIXConfig
    data: str
    batch_size: int = 128
    steps: int = 800
    peak: float = 4e-3
    optimizer: Literal["adamw", "adafactor", "adafactor-momentum"] = "adamw"
    schedule: Literal["cosine", "rsqrt"] = "cosine"
    warmup: int = 100
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    accumulate: int = 1
    augment: Literal["none", "flip", "crop_flip", "inception"] = "flip"
    full: bool = False
    files: tuple[Path, ...] = ()
    eval_files: tuple[Path, ...] = ()
    seed: int = 0

    def __post_init__(self):
        if not isinstance(self.model, ViTConfig | T5Config | PaLIXConfig):
            raise ValueError(f"A run trains a ViT, a T5 or a PaLI-X; got {self.model!r} in place of its configuration.")
        for name, least in {"batch_size": 1, "steps": 1, "warmup": 0, "accumulate": 1, "seed": 0}.items():
            whole(name, getattr(self, name), least)
        for name in ("peak", "clip_norm"):
            number(name, getattr(self, name), above=0.0)
        number("weight_decay", self.weight_decay, 0.0)
        flag("full", self.full)
        for field in dataclasses.fields(self):
            if get_origin(field.type) is Literal:
                one_of(field.name, getattr(self, field.name), get_args(field.type))


# ---------------------------------------------------------------------------------------------- images

SMALL = {"image_size": (28, 28), "channels": 1, "num_classes": 10}
FEW_EXPERTS = MoEConfig(num_experts=8, group_size=256)  # a group of 16 images: the same on any mesh
EXPERTS = MoEConfig(num_experts=32, transport="bfloat16")


def _images(kind: str, scale: str) -> Recipe:
    """The run of a ViT ("vit"), a V-MoE ("vmoe") or an E3 ("e3") of two members."""
    make = {"vit": configs.vit, "vmoe": configs.vmoe, "e3": configs.e3}[kind]

    def sparse(where: str, moe: MoEConfig) -> dict:
        return {} if kind == "vit" else {"where": where, "moe": moe}

    if scale == "cpu":
        model = make("tiny/7", **sparse("last-1", FEW_EXPERTS), pool="gap", **SMALL)
        return Recipe(model, "fashion_mnist")
    if scale == "gpu":
        size = {"image_size": (32, 32), "num_classes": 10, "dtype": "bfloat16"}
        moe = FEW_EXPERTS.replace(group_size=4096, transport="bfloat16")
        model = make("S/4", **sparse("last-2", moe), pool="gap", **size)
        return Recipe(model, "cifar10", 1024, 10_000, 1e-3, warmup=1_000, augment="crop_flip", full=True)
    model = make("B/16", **sparse("last-2", EXPERTS), pool="gap", num_classes=1_000, **DEEP)
    return Recipe(model, "imagenet2012", 4096, 93_000, 1e-3, warmup=10_000, augment="inception", full=True)


# ---------------------------------------------------------------------------------------------- text, and both


def _text(sparse: bool, scale: str) -> Recipe:
    """The run of a T5, or of one with experts in every other layer of both stacks."""
    name = {"cpu": "tiny", "gpu": "1.1-small", "pod": "1.1-large"}[scale]
    fields = {} if scale == "cpu" else dict(DEEP)
    if sparse:
        experts = 8 if scale == "cpu" else 32
        layers = tuple(range(1, configs.t5(name).num_encoder_layers, 2))
        encoder, decoder = (m.replace(num_experts=experts) for m in (configs.T5_ENCODER_MOE, configs.T5_DECODER_MOE))
        fields |= {"moe": encoder, "moe_layers": layers, "decoder_moe": decoder, "decoder_moe_layers": layers}
    batch_size = {"cpu": 32, "gpu": 128, "pod": 512}[scale]
    model = configs.t5(name, **{"vocab_size": 2048} | fields)  # the kit's vocabulary
    common = {"optimizer": "adafactor", "schedule": "rsqrt", "weight_decay": 0.0}
    return Recipe(model, "glosses", batch_size, 1_600, 0.05 if scale == "cpu" else 0.01, **common)


def _pali_x(scale: str) -> Recipe:
    name = {"cpu": "S", "gpu": "M", "pod": "XL"}[scale]
    deep = {} if scale == "cpu" else DEEP
    model = configs.palix(name, tower=deep, text={"vocab_size": 4096} | deep)  # the kit's multilingual vocabulary
    batch_size = {"cpu": 32, "gpu": 128, "pod": 1024}[scale]
    return Recipe(model, "kit", batch_size, 2_000, 0.01, optimizer="adafactor", weight_decay=0.0)


NAMES = ("vit", "vmoe", "e3", "t5", "t5_moe", "palix")


def named(name: str, scale: str = "cpu") -> Recipe:
    """The run called `name` at a scale. Raises ValueError for an unknown name or scale."""
    one_of("run", name, NAMES)
    one_of("scale", scale, SCALES)
    if name in ("vit", "vmoe", "e3"):
        return _images(name, scale)
    return _pali_x(scale) if name == "palix" else _text(name == "t5_moe", scale)


def write(folder: str | Path, recipe: Recipe) -> None:
    """Writes the recipe's fields into `folder`/recipe.json, which `read` reads."""
    content = json.dumps(dataclasses.asdict(recipe), default=str, indent=2)
    files.write_bytes(Path(folder, "recipe.json"), content.encode())


def read(folder: str | Path) -> Recipe | None:
    """The recipe of the run in a folder; None where none was written. Raises ValueError, with its name, for a damaged
    file."""
    path = Path(folder, "recipe.json")
    try:
        return _typed(Recipe, dict(json.loads(path.read_text(encoding="utf-8")))) if path.is_file() else None
    except (ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, and give the options of the run again.") from error


def _typed(kind, value):
    """A field of type `kind` from JSON, which has a dict for a dataclass and a list for a tuple."""
    if isinstance(value, list):
        return tuple(Path(x) if Path in get_args(kind) else x for x in value)
    if not isinstance(value, dict):
        return str(value) if kind is str else value
    hints = {k: get_type_hints(k) for k in get_args(kind) or [kind] if dataclasses.is_dataclass(k)}
    chosen = next((k for k in hints if value.keys() <= hints[k].keys()), None)
    if chosen is None:
        raise ValueError(f"unknown fields, {', '.join(value)}")
    return chosen(**{name: _typed(hints[chosen][name], x) for name, x in value.items()})
