"""Mixtures of tasks: training example i is a pure function of (seed, i), so a run resumes at any i.

    stage1 = Mixture(kit_tasks("train"), {"captioning": 4, "vqa": 1, "detection": 1})
    stage1.draw(7)                                                     # the same whatever was drawn before
    everything = Mixture(kit_tasks("train"), dict.fromkeys(PREFIXES, 1))     # all thirteen objectives, equally often

We found no text that gives the weights of PaLI-X (arXiv 2305.18565); its second stage has split_ocr,
screenshot_to_markup and detection alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kitlib.configs.nearest_name import one_of
from kitlib.data import keyed_rng
from kitlib.multimodal.prompts import Example
from kitlib.multimodal.tasks import Task


@dataclass(frozen=True, eq=False)
class Mixture:
    """Tasks that are drawn at random.

    Attributes:
        tasks: by name.
        weights: how often each task is drawn, relative to the others, 0 or more; a task without a weight is not drawn.
            `draw` gives one example of a draw, `draw_all` all of them: there, tasks with several have larger shares.
        seed: other seeds give other examples.

    Raises ValueError for the weight of an unknown task or of one that is for tests alone, for a weight that is negative
    or not finite, and if none is above 0.
    """

    tasks: Mapping[str, Task]
    weights: Mapping[str, float]
    seed: int = 0

    def __post_init__(self):
        for name, weight in self.weights.items():
            one_of("task", name, self.tasks)
            if not 0 <= weight < np.inf:
                raise ValueError(f"The weight of {name} is {weight}; expected 0 or a finite number above.")
            if weight and self.tasks[name].draw is None:
                raise ValueError(f"{name} is a test alone (it has no draw): leave it out of the mixture.")
        if not any(self.weights.values()):
            raise ValueError("No task has a weight above 0, so there is nothing to draw.")

    def draw(self, i: int) -> Example:
        """The i-th example, i = 0, 1, ... The order in which the weights were written down does not matter."""
        task, rng = self._task(i)
        return task.draw(rng)

    def draw_all(self, i: int) -> list[Example]:
        """The i-th examples about the same images: several, if their task has several (`Task.draw_all`)."""
        task, rng = self._task(i)
        return task.draw_all(rng) if task.draw_all else [task.draw(rng)]

    def _task(self, i: int) -> tuple[Task, np.random.Generator]:
        rng = keyed_rng(self.seed, i)
        names = sorted(self.weights)
        weights = np.array([self.weights[name] for name in names], np.float64)
        return self.tasks[str(rng.choice(names, p=weights / weights.sum()))], rng
