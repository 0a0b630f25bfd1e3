"""The data of a run by name: training batches and batches to evaluate on, this process's rows of each.

    data = load(recipe)
    batch = next(data.batches)                  # resumable: get_state, set_state
    data.evaluation                             # a list of batches, or []

Images are for a ViT, texts for a T5, images with texts for a PaLI-X: "kit" is a mixture of the kit's own tasks, the
others are the public sets of `multimodal.public_sets`, from files that were fetched before (`recipe.files`). A ViT and
a T5 also take a path in place of a name: pictures and texts of one's own (`data.own_files`).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax

from kitlib import data
from kitlib.configs import PaLIXConfig, T5Config, ViTConfig
from kitlib.configs.arguments import one_of
from kitlib.data import denoise, image_batches, tokenizer
from kitlib.data.images import COMMITTED, FULL
from kitlib.multimodal import mixtures, public_sets
from kitlib.multimodal.mixtures import Group, Mixture
from kitlib.multimodal.tasks import kit_tasks
from kitlib.parallel import processes
from kitlib.runs.recipes import Recipe

PUBLIC = ("coco_captions", "vqav2", "textvqa", "docvqa", "lvis")
NAMES = {
    ViTConfig: tuple(dict.fromkeys((*COMMITTED, *FULL))),
    T5Config: ("glosses",),
    PaLIXConfig: ("kit", *PUBLIC),
}
EVALUATED, TEXTS_EVALUATED = 5_000, 896  # examples at most
KIT_TASKS = {"captioning": 4, "naming": 2, "easy_vqa": 2, "object_aware_vqa": 1, "question_generation": 1}
PROMPT, TARGET = 40, 56  # tokens
INPUTS, OUTPUTS = 64, 14  # tokens of a text with its spans cut out, and of the spans


class Mapped:
    """A resumable iterator over function(batch); the default: of whole batches, the rows of this process."""

    def __init__(self, batches, function: Callable = processes.own_rows):
        self.batches, self.function = batches, function
        self.get_state, self.set_state = batches.get_state, batches.set_state

    def __iter__(self):
        return self

    def __next__(self):
        return self.function(next(self.batches))


@dataclass(frozen=True)
class Data:
    """batches: an endless, resumable iterator; evaluation: batches of one shape, the same every time."""

    batches: object
    evaluation: list[dict]


def check(recipe: Recipe) -> None:
    """Raises ValueError unless the name of the data goes with the model."""
    kind = type(recipe.model)
    if not is_own(recipe):
        paths = [] if kind is PaLIXConfig else ["or the path of a folder or file that is there"]
        one_of(f"data set for a {kind.__name__.removesuffix('Config')}", recipe.data, [*NAMES[kind], *paths])
    if kind is ViTConfig and recipe.data in FULL and recipe.data not in COMMITTED and not recipe.full:
        raise ValueError(f"{recipe.data} does not come with the kit: add --full (full=True), and it is fetched once.")


def is_own(recipe: Recipe) -> bool:
    """Whether the data are a path and no name: one's own pictures for a ViT, one's own texts for a T5."""
    kind = type(recipe.model)
    return kind is not PaLIXConfig and recipe.data not in NAMES[kind] and Path(recipe.data).exists()


def fitted(recipe: Recipe, path: str, patch_size: int | None = None) -> Recipe:
    """The recipe with these data. For pictures of one's own, its model has their channels, classes and size, in whole
    patches; those of a folder have the model's size. A batch is at most half of them, as a power of two."""
    recipe = replace(recipe, data=path)
    if not isinstance(recipe.model, ViTConfig) or not is_own(recipe):
        return recipe
    _own_pictures.cache_clear()  # they may be others than at the last time
    source, p = pictures(recipe, "train"), patch_size or recipe.model.patch_size
    height, width, channels = source.image_shape
    if height % p or width % p:
        height = width = max(1, round(height / p)) * p
    fields = {"image_size": (height, width), "channels": channels, "num_classes": source.num_classes}
    most = 2 ** max(0, len(source).bit_length() - 2)
    model = recipe.model.replace(patch_size=p, **fields)
    return replace(recipe, model=model, batch_size=min(recipe.batch_size, most))


def described(recipe: Recipe) -> str:
    """What was read of one's own pictures or texts, in one line; "" for the data sets of the kit."""
    if not is_own(recipe):
        return ""
    if isinstance(recipe.model, T5Config):
        train, test = (len(data.texts_from_file(recipe.data, split)) for split in ("train", "test"))
        return f"{recipe.data}: {train:,} texts to train, {test:,} to test"
    train, test = pictures(recipe, "train"), pictures(recipe, "test")
    _check_batch(recipe, train)
    names, (height, width) = ", ".join(train.class_names[:5]), recipe.model.image_size
    return (
        f"{recipe.data}: {train.num_classes} classes ({names}{', ...' * (train.num_classes > 5)}), {len(train):,} "
        f"pictures to train, {len(test):,} to test, read as {height} x {width} x {train.image_shape[-1]}"
    )


def pictures(recipe: Recipe, split: str) -> data.Source:
    """The pictures of a ViT's recipe, "train" or "test"."""
    if is_own(recipe):
        return _own_pictures(recipe.data, split, recipe.model.image_size[0])
    held_out = "validation" if recipe.data == "imagenet2012" else "test"
    return data.load(recipe.data, "train" if split == "train" else held_out, full=recipe.full)


@functools.lru_cache(maxsize=2)  # the command line asks for their size, then the run for themselves
def _own_pictures(path: str, split: str, size: int) -> data.Source:
    return data.from_files(path, split, size=size)


def load(recipe: Recipe, parts: int = 1) -> Data:
    """The data of a recipe. parts: among which the mesh divides a batch. Raises as `check` does, ValueError for a batch
    that does not divide among the processes, and the errors of the functions that read the data."""
    check(recipe)
    return {ViTConfig: _images, T5Config: _texts, PaLIXConfig: _both}[type(recipe.model)](recipe, parts)


def _check_batch(recipe: Recipe, source: data.Source) -> None:
    if len(source) < recipe.batch_size:
        raise ValueError(
            f"batch_size is {recipe.batch_size}, but {recipe.data} has {len(source)} pictures to train: use at most as "
            "many, --batch-size."
        )


def _evaluated(count: int, recipe: Recipe, parts: int) -> int:
    """Examples per batch of an evaluation on `count` examples: as in training or, if there are fewer, all that divide
    among the parts of the mesh."""
    return min(recipe.batch_size, count // parts * parts)


def _images(recipe: Recipe, parts: int) -> Data:
    c, count = recipe.model, jax.process_count()
    if recipe.batch_size % count:
        raise ValueError(f"A batch of {recipe.batch_size} does not divide among {count} processes.")
    source, held_out = (pictures(recipe, split) for split in ("train", "test"))
    channels, classes = source.image_shape[-1], len(source.class_names)
    if (channels, classes) != (c.channels, c.num_classes):
        raise ValueError(
            f"{recipe.data} has {channels} channels and {classes} classes, the model {c.channels} and {c.num_classes}: "
            f"add --model.channels {channels} --model.num-classes {classes}."
        )
    _check_batch(recipe, source)
    size = None if source.image_shape[:2] == c.image_size else c.image_size[0]
    read = functools.partial(image_batches.batches, source, seed=recipe.seed, image_size=size, augment=recipe.augment)
    if source.store.in_memory:  # whole batches cost little, and are the same for any number of processes
        batches = Mapped(read(batch_size=recipe.batch_size))
    else:
        batches = read(batch_size=recipe.batch_size // count, shard_index=jax.process_index(), shard_count=count)
    if not (n := _evaluated(len(held_out), recipe, parts)):
        return Data(batches, [])
    whole = image_batches.batches(held_out[:EVALUATED], n, train=False, image_size=size)
    return Data(batches, [processes.own_rows(batch) for batch in whole if len(batch["label"]) == n])


def _texts(recipe: Recipe, parts: int) -> Data:
    words = tokenizer.Tokenizer.load()
    _check_vocabulary(recipe.model, words)

    def stream(split):
        texts = data.texts_from_file(recipe.data, split) if is_own(recipe) else data.glosses(split)
        return denoise.token_stream(texts, words)

    batches = denoise.batches(stream("train"), words, recipe.batch_size, inputs_length=INPUTS, seed=recipe.seed)
    test, evaluation = stream("test"), []
    chunks = len(test) // denoise.Recipe(words, INPUTS, [denoise.SPAN_CORRUPTION]).chunk
    n = _evaluated(chunks, recipe, parts)
    if count := n and min(TEXTS_EVALUATED, chunks) // n * n:
        held_out = denoise.evaluation_set(test, words, count, inputs_length=INPUTS)
        rows = {name: held_out[name] for name in ("inputs", "targets")}
        evaluation = [processes.own_rows({name: x[i : i + n] for name, x in rows.items()}) for i in range(0, count, n)]
    return Data(Mapped(batches), evaluation)


def _both(recipe: Recipe, parts: int) -> Data:
    words = tokenizer.multilingual()
    _check_vocabulary(recipe.model.text, words)
    pixels = recipe.model.tower.image_size[0]

    def group(files, split: str, seed: int) -> Group:
        if recipe.data == "kit":
            tasks, weights = kit_tasks(split), KIT_TASKS
        else:
            tasks, weights = {recipe.data: public_task(recipe.data, files, pixels)}, {recipe.data: 1}
        return Group(Mixture(tasks, weights, seed), recipe.batch_size, 1, PROMPT, TARGET, pixels)

    batches = mixtures.batches({"all": group(recipe.files, "train", recipe.seed)}, words)
    evaluation = []
    if recipe.data == "kit" or recipe.eval_files:
        held_out = group(recipe.eval_files, "test", 77)
        for i in range(max(1, min(EVALUATED, 512) // recipe.batch_size)):
            evaluation.append(processes.own_rows(mixtures.group_batch(held_out, words, i)))
    return Data(Mapped(batches, lambda batch: processes.own_rows(batch["all"])), evaluation)


def public_task(name: str, files, pixels: int):
    """The task of a public set from the paths that its function takes. Raises ValueError for another number of them."""
    wanted = {
        "coco_captions": "captions_train2017.json train2017",
        "vqav2": "v2_..._questions.json v2_..._annotations.json train2014",
        "textvqa": "TextVQA_0.5.1_train.json train_images",
        "docvqa": "train_v1.0_withQT.json spdocvqa_images",
        "lvis": "lvis_v1_train.json folder-with-train2017",
    }[name]
    if len(files) != len(wanted.split()):
        raise ValueError(f"{name} needs {len(wanted.split())} paths, as in --files {wanted}; got {len(files)}.")
    return getattr(public_sets, name)(*files, image_size=pixels).task()


def _check_vocabulary(model: T5Config, words) -> None:
    if model.vocab_size != words.vocab_size:
        raise ValueError(
            f"The kit's tokenizer has {words.vocab_size} ids, the model {model.vocab_size}: set its vocab_size."
        )
