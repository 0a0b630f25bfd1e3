"""Training recipes of the upcycling studies: learning rate, the optimiser's moments, combine weights.

A reciprocal square root schedule has no end, so any run can be continued from any step. At a parent's end the rate is
at about 30 % of its peak, as in the paper. Every kind of arm has a recipe of its own, chosen by the same number of
trials (`studies.upcycling_tuning`).
"""

import dataclasses

import optax

from kitlib.configs.arguments import one_of
from kitlib.training import optim

WARMUP, TIMESCALE = 100, 400  # steps
TOP_1 = {"capacity": 1.0, "renormalize": False, "router": "top_k"}  # fields of a recipe in which tokens choose


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is chosen for a kind of arm."""

    peak: float  # of the learning rate
    moments: str = "resume"  # of the optimiser, at a parent's end; or "restart": new ones, while the schedule goes on
    capacity: float | None = None  # C, experts per token, or K of token choice; None: the setup's
    renormalize: bool | None = None  # whether the weights of a token's experts sum to 1; None: the setup's
    cooldown: int = 0  # the last steps of the arm, in which the rate falls to 0
    # "top_k": tokens choose, with room for 1.5 times as many as on average; None: the setup's router. (An arm's
    # configuration shows it, so its name does not.)
    router: str | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self):
        one_of("treatment of moments", self.moments, ("resume", "restart"))
        if self.router is not None:
            one_of("router of a recipe", self.router, ("top_k",))

    @property
    def experts(self) -> dict:
        """The fields of MoEConfig that the recipe sets."""
        fields = {"capacity_factor": self.capacity, "renormalize": self.renormalize}
        if self.router == "top_k":
            fields |= {"router": "top_k", "num_selected": int(self.capacity or 1), "capacity_factor": 1.5}
        return {name: value for name, value in fields.items() if value is not None}


def schedule(peak: float, *, cooldown: int = 0, end: int = 10**6) -> optax.Schedule:
    """100 steps of warm-up to `peak`, then a reciprocal square root; the last `cooldown` steps before `end` go to 0."""
    return optim.rsqrt(peak, end, warmup=WARMUP, cooldown=cooldown, timescale=TIMESCALE)
