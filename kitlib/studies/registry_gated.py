"""Claims of Sparse Upcycling (arXiv 2212.05055) on tasks that have a gate (`studies.gates`): things in pictures, recall
of names, texts, a real parent. `registry_upcycling` has the others.
"""

from kitlib.studies.registry import Claim

HALF = "about 50 % of the dense cost, spent in addition"
TABLE_2 = "L/32, 14 epochs in all (table 2): 54.84 from scratch, 51.91 upcycled"


def _upcycled(task: str, phrase: str, where: str, model: str = "T5") -> tuple[Claim, ...]:
    """The claims of the abstract and of figures 4 and 5, on one task."""

    def claim(item: str, words: str, *beginnings: str, published: str = "") -> Claim:
        return Claim(item, f"{words} ({phrase})", published, where, (f"{task}_curves", *beginnings))

    dense, scratch = "upcycled beats dense, extra cost", "upcycled beats scratch"
    return (
        claim("abstract", f"upcycled {model}s beat dense training at the same extra cost", dense, published=HALF),
        claim("abstract", f"upcycled {model}s beat mixtures from scratch at the same extra cost", scratch),
        claim(
            "figure 4",
            "with the parent's cost counted, the mixture from scratch is ahead",
            "scratch beats upcycled",
            published=TABLE_2 if model == "ViT" else "",
        ),
        claim("figure 5", f"sparse upcycling beats depth tiling, {model}", "upcycled beats depth tiling"),
    )


# fmt: off
PICTURES = (
    *_upcycled("pictures", "naming things in pictures", "07.7", "ViT"),
    Claim("figure 2", "per step, a gap opens between dense and upcycled (naming things in pictures)", "", "07.7",
          ("pictures_curves", "upcycled beats dense, +50 % steps")),
    Claim("abstract", "upcycled ViTs name more things", "", "07.7", ("pictures_curves", "upcycled names more")),
    Claim("abstract", "names of pictured things that were never taught (a control, not in the paper)", "", "07.7",
          ("pictures_curves", "names never taught")),
)
RECALL = (
    *_upcycled("recall", "recall of names", "08.8"),
    Claim("abstract", "upcycled T5s know more names by heart", "", "08.8", ("recall_curves", "upcycled recalls more")),
    Claim("abstract", "names that were never taught (a control, not in the paper)", "", "08.8",
          ("recall_curves", "names never taught")),
    Claim("figure 4", "a mixture from scratch catches up, the parent's cost not counted (recall of names)",
          "after about 120 % of the dense budget", "08.8", check="recall: extra cost at which scratch has caught up"),
    Claim("2410.19034", "experts add memory without FLOPs, as much as a dense model of as many parameters", "", "08.12",
          ("recall_memory", "16 experts", "64 experts", "4 experts")),
    Claim("2410.19034", "names that were never taught (a control)", "", "08.12", ("recall_memory", "never taught")),
)
TEXT = (
    *_upcycled("text", "texts that were not trained on", "08.9"),
    Claim("figure 2", "per step, a gap opens between dense and upcycled (texts that were not trained on)", "", "08.9",
          ("text_curves", "upcycled beats dense, +50 % steps")),
    Claim("abstract", "the same for glosses and for messages in 96 languages alone", "", "08.9",
          ("text_curves", "glosses:", "messages:")),
)
# fmt: on


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
