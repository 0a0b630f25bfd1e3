"""The kit's own tasks: one per example builder, for mixtures and studies.

    kit_tasks("train")["captioning"].draw(rng)
    kit_tasks("train")["captioning"].draw_all(rng)       # about one picture, in several languages

The tests of the released model, which use them, are in `kit_scores`.
"""

import functools
from collections.abc import Callable

from kitlib.multimodal import example_builders, exemplar_builders
from kitlib.multimodal.kit_data import kit_data
from kitlib.multimodal.prompts import PREFIXES
from kitlib.multimodal.scores import anls_values, ap50
from kitlib.multimodal.tasks import Task

# Tasks other than the thirteen objectives: parts of vqa, split_ocr, detection and episodic_vqa, and tasks of the kit's
# own stages.
MORE = ("easy_vqa", "receipts", "naming", "naming_by_english", "translation", "reading", "finding", "counting")
MORE += ("recall", "two_exemplars", "four_exemplars", "made_up_words", "made_up_words_by_name", "repeated_pairs")
MORE += ("two_exemplars_by_name", "four_exemplars_by_name", "two_made_up_words_by_name", "repeated_made_up_words")
MORE += ("video_questions", "video_questions_by_positions", "counting_by_positions", "translation_by_text")
TRAINED_ONLY = ("translation_by_text",)  # no names are held out in the test split
# Every task that is not in PLURAL has the builder of its own name, which is in `exemplar_builders` for these:
EXEMPLARS = ("episodic_captioning", "episodic_vqa", "recall", "two_exemplars", "four_exemplars")
EXEMPLARS += ("made_up_words", "made_up_words_by_name", "repeated_pairs")
EXEMPLARS += ("two_exemplars_by_name", "four_exemplars_by_name", "two_made_up_words_by_name", "repeated_made_up_words")
PLURAL = {  # the builders of several examples about one picture
    "captioning": example_builders.captionings,
    "naming": example_builders.namings,
    "naming_by_english": example_builders.namings_by_english,
    "translation": example_builders.translations,
    "translation_by_text": example_builders.translations_by_text,
    "easy_vqa": example_builders.easy_vqas,
    "receipts": example_builders.receipts,
    "finding": example_builders.findings,
    "detection": example_builders.detections,
}


@functools.cache
def kit_tasks(split: str = "train") -> dict[str, Task]:
    """A task for each objective and for `MORE`, by name, over the kit's own data of a split, "train" or "test".

    Those of `TRAINED_ONLY` are in "train" alone.
    """
    data, tasks, found = kit_data(split), {}, boxes_found(split)
    metrics = {"finding": found, "detection": found, "receipts": (anls_values, "ANLS")}  # others: exact match
    for name in (*PREFIXES, *MORE):
        if split == "test" and name in TRAINED_ONLY:
            continue
        metric = dict(zip(("metric", "unit"), metrics.get(name, ()), strict=False))
        if name in PLURAL:
            draw_all = functools.partial(PLURAL[name], data)
            tasks[name] = Task(name, functools.partial(_first, draw_all), draw_all=draw_all, **metric)
        else:
            builders = exemplar_builders if name in EXEMPLARS else example_builders
            tasks[name] = Task(name, functools.partial(getattr(builders, name), data), **metric)
    return tasks


def _first(draw_all, rng):
    return draw_all(rng)[0]


def boxes_found(split: str) -> tuple[Callable, str]:
    """(metric, unit) of detection: `scores.ap50`, where the names of a thing in all languages are one class."""

    def metric(predictions, examples):
        data = kit_data(split)
        number = {names[row]: kind for names in data.emoji.names.values() for kind, row in enumerate(data.scene_rows)}
        return ap50(predictions, examples, example_builders.BINS, number)

    return metric, "AP50"
