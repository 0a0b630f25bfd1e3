"""Training recipes of the upcycling studies: what is tried for every kind of arm, and what was chosen.

A reciprocal square root schedule has no end, so any run can be continued from any step. At a parent's end the rate is
at about 30 % of its peak, as in the paper.

Every kind of arm has a recipe of its own. All kinds of a task have equally many trials, six, or eight of pictures;
where the best one has the smallest or largest learning rate that was tried, the next one beyond is tried, too, until it
is not. What they vary is what is known to matter for the kind: for all the peak of the learning rate; for a dense model
whether the moments of the optimiser go on; for a new mixture whether weights are renormalised; for upcycling both. With
pictures, for which the papers have both kinds of routers, tokens may choose, too. `tuning` runs the trials, and
`chosen` reads the best one from its tables.
"""

import dataclasses
import functools

import optax

from kitlib.configs.arguments import one_of
from kitlib.studies.study import best_trial
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


# ---------------------------------------------------------------------------------------------- trials

PICTURES = (0.001, 0.002, 0.004, 0.008, 0.011, 0.016, 0.023, 0.032)
PEAKS = {  # of the parent, by task
    "recall": (0.002, 0.004, 0.008, 0.016, 0.032, 0.064),
    "text": (0.001, 0.002, 0.004, 0.008, 0.016, 0.032),
    "pictures": PICTURES,
    "pictures8": PICTURES,
    "pictures32": PICTURES,
}
# By task and kind, the trials that went on from a best one at an end of its range.
BEYOND: dict[str, dict[str, dict[str, Recipe]]] = {
    "recall": {
        "dense": {"peak 0.004, resumed": Recipe(0.004)},
        "upcycled": {"peak 0.032, raw, restarted": Recipe(0.032, "restart", renormalize=False)},
        "scratch": {"peak 0.004, renormalised": Recipe(0.004, renormalize=True)},
    },
    "text": {
        "dense": {"peak 0.004, restarted": Recipe(0.004, "restart")},
        "upcycled": {"peak 0.032, renormalised, restarted": Recipe(0.032, "restart", renormalize=True)},
    },
    "pictures": {
        "dense": {"peak 0.044, restarted": Recipe(0.044, "restart")},
        "upcycled": {
            f"peak {peak}, raw, restarted": Recipe(peak, "restart", renormalize=False) for peak in (0.044, 0.088)
        },
        "deeper": {"peak 0.044, resumed": Recipe(0.044)},
    },
    "pictures8": {"dense": {"peak 0.064, restarted": Recipe(0.064, "restart")}},
}


def parents(task: str) -> dict[str, Recipe]:
    """The trials of the dense parent, by name."""
    return {f"peak {peak:g}": Recipe(peak) for peak in PEAKS[task]}


def trials(task: str, peak: float) -> dict[str, dict[str, Recipe]]:
    """By kind of arm but the parent: recipes by name. peak: the parent's, once it is known."""
    below, at, above = ({f"peak {x:g}": Recipe(x)} for x in (peak / 2, peak, 2 * peak))
    rates, upcycled_rates = below | at | above, below | at
    raw, sums = {"renormalize": False}, {"renormalize": True}
    resumed, restarted = {"moments": "resume"}, {"moments": "restart"}
    moments = {"resumed": resumed, "restarted": restarted}
    weights = {"raw": raw, "renormalised": sums}
    upcycled = {
        "raw, restarted": raw | restarted,
        "renormalised, restarted": sums | restarted,
        "renormalised, resumed": sums | resumed,
    }
    # An E3's tokens have to choose, so what varies is the rate alone; so do those of a V-MoE of another width, which
    # becomes an E3.
    top_1 = {f"peak {peak * f:g}, top-1": Recipe(peak * f, **TOP_1) for f in (0.125, 0.25, 0.5, 1, 2, 4)}
    if task.startswith("pictures"):
        rates, upcycled_rates = {f"peak {peak / 4:g}": Recipe(peak / 4)} | rates, at | above
        weights = {"raw": raw, "top-1": TOP_1}
        upcycled |= {"top-2, renormalised, restarted": sums | restarted | {"router": "top_k", "capacity": 2.0}}
    first = {"dense": _each(rates, **moments)}
    if task in ("pictures8", "pictures32"):
        first |= {"scratch": top_1}
    else:
        first |= {"upcycled": _each(upcycled_rates, **upcycled), "scratch": _each(rates, **weights)}
        first |= {"deeper": first["dense"]} | ({"E3": top_1} if task == "pictures" else {})
    return {kind: recipes | BEYOND.get(task, {}).get(kind, {}) for kind, recipes in first.items()}


def _each(recipes: dict[str, Recipe], **ways: dict) -> dict[str, Recipe]:
    return {
        f"{rate}, {way}": Recipe(recipe.peak, **fields)
        for rate, recipe in recipes.items()
        for way, fields in ways.items()
    }


@functools.cache
def chosen(task: str, kind: str) -> Recipe:
    """The best recipe of a kind, by the stored trials. Raises FileNotFoundError if there are none, with the command
    that makes them."""
    if kind == "parent":
        return parents(task)[best_trial("upcycling", f"{task}_parents", kind)]
    tried = trials(task, chosen(task, "parent").peak)
    one_of(f"kind of arm of {task}", kind, tried)
    recipe = tried[kind][best_trial("upcycling", f"{task}_tuning", kind)]
    if kind in ("upcycled", "scratch") and recipe.capacity is None:
        recipe = dataclasses.replace(recipe, capacity=2.0)  # the setups' own, said: ablations change it
    return recipe
