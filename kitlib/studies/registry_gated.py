"""Claims of Sparse Upcycling (arXiv 2212.05055) on tasks that have a gate (`studies.gates`): recall of names, a real
parent. `registry_upcycling` has the others.
"""

from kitlib.studies.registry import Claim

HALF = "about 50 % of the dense cost, spent in addition"


def _recall(item: str, claim: str, *beginnings: str, published: str = "") -> Claim:
    return Claim(item, f"{claim} (recall of names)", published, "08.10", ("recall_curves", *beginnings))


RECALL = (
    _recall(
        "abstract",
        "upcycled T5s beat dense training at the same extra cost",
        "upcycled beats dense",
        "upcycled recalls more",
        published=HALF,
    ),
    _recall("abstract", "upcycled T5s beat mixtures from scratch at the same extra cost", "upcycled beats scratch"),
    _recall("figure 4", "with the parent's cost counted, the mixture from scratch is ahead", "scratch beats upcycled"),
    _recall("figure 5", "sparse upcycling beats depth tiling, T5", "upcycled beats depth tiling"),
    _recall("abstract", "names that were never taught (a control, not in the paper)", "names never taught"),
)


def _real(item: str, claim: str, *beginnings: str, published: str = "") -> Claim:
    return Claim(item, f"{claim} (a real DINOv2)", published, "18.5", ("real_curves", *beginnings))


# fmt: off
REAL = (
    _real("abstract", "upcycled ViTs beat dense training at the same extra cost", "upcycled beats dense",
          "upcycled (top-1)", published=HALF),
    _real("abstract", "upcycled ViTs beat mixtures from scratch at the same extra cost", "upcycled beats new"),
    _real("2110.03360", "an upcycled E3 against dense training", "E3 beats dense"),
    _real("2110.03360, abstract", "an upcycled E3 beats an upcycled V-MoE", "E3 beats its V-MoE"),
)
# fmt: on
