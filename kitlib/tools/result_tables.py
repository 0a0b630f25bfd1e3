"""The tables of results in README.md and docs, from stored results: `kit docs` writes them, so that no page has figures
of its own. A block stands between two marks, such as `<!-- upcycling -->` and `<!-- end of upcycling -->`.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from kitlib.data import files
from kitlib.multimodal import stages
from kitlib.studies import claims, tables
from kitlib.tools import notebook_files
from kitlib.tools.site import claims_table, table


def upcycling() -> str:
    """Losses after half of the dense parent's FLOPs more, the gain, and where the upcycled model is level with twice as
    much dense training."""
    rows = []
    for words, task in (
        ("a T5 learns 30,160 names by heart", "recall"),
        ("a T5 fills gaps in texts that it has not seen", "text"),
        ("a ViT learns what objects in pictures are called", "pictures"),
    ):
        curves = tables.read_table("upcycling", f"{task}_curves")
        at = tables.values_at(curves, "loss", "extra_cost", 0.5).mean()
        dense = tables.values_at(curves[curves["arm"] == "dense"], "loss", "extra_cost", 1.0)["dense"]
        cost = tables.reached(curves[curves["arm"] == "upcycled"], "loss", "extra_cost", dense)["upcycled"].mean()
        gain = (
            claims.answers("upcycling", f"{task}_curves").set_index("claim").loc["upcycled beats dense, extra cost 0.5"]
        )
        interval = f"{gain['gain']:.3f} [{gain['low']:.3f}, {gain['high']:.3f}]"
        losses = [f"{at[arm]:.2f}" for arm in ("dense", "upcycled", "scratch")]
        rows.append((words, *losses[:2], interval, losses[2], f"+{100 * cost:.0f} %"))
    head = (
        "after +50 %",
        "dense goes on",
        "upcycled",
        "gain over dense",
        "a mixture from scratch",
        "to match dense +100 %",
    )
    return table(head, rows)


def fine_tuned() -> str:
    """An E3 made of a V-MoE next to other ensembles: means over the seeds of `ensembles naming`."""
    means = tables.read_table("ensembles", "naming").groupby("arm").mean(numeric_only=True)
    rows = []
    for words, arm in (
        ("ViT", "ViT"), ("V-MoE of 16 experts", "V-MoE"), ("the same with dropout", "dropout"),
        ("E3 of two members", "E3 M=2"), ("E3, pre-trained as one", "E3 pre-trained M=2"), ("two V-MoEs", "2 x V-MoE"),
    ):  # fmt: skip
        measures = ("loss", "held_out_loss", "shift_loss", "shift_accuracy", "shots_10")
        cost = means.loc[arm, "mflops"] / means.loc["V-MoE", "mflops"]
        rows.append((words, f"{cost:.1f}", *(f"{means.loc[arm, name]:.2f}" for name in measures)))
    head = ("", "FLOPs", "loss: taught", "never taught", "corrupted", "accuracy: corrupted", "10 shots of clothes")
    return table(head, rows)


def scorecard() -> pd.DataFrame:
    """The scores of the released PaLI-X, by task."""
    return pd.read_csv(stages.released_file().with_suffix(".csv"), comment="#").set_index("task")


def some_scores() -> str:
    """A few of them, in words for strangers."""
    card, rows = scorecard(), []
    for words, name in (
        ("name the emoji, English", "captions, en"),
        ("answer a question about shapes (easy-VQA)", "easy-VQA, test set"),
        ("how many are there?", "counting"),
        ("learn a new word from 4 pictures, naming them first", "4-shot, new words, by way of English"),
        ("read a word it has not seen", "reading a word, unseen words"),
    ):
        row = card.loc[name]
        rows.append((words, f"{row.score:.2f} [{row.low:.2f}, {row.high:.2f}]", f"{row.blind:.2f}"))
    return table(("task", "with the picture", "grey picture"), rows)


def all_scores() -> str:
    """All of them, with both controls."""
    rows = [
        (name, row.unit, f"{row.score:.2f} [{row.low:.2f}, {row.high:.2f}]", f"{row.blind:.2f}", f"{row.shuffled:.2f}")
        for name, row in scorecard().iterrows()
    ]
    return table(("task", "unit", "score", "blind", "shuffled"), rows)


def count_of_claims() -> str:
    """How many claims are measured, checked or without counterpart."""
    count = claims.summary(rows := claims.table())["all"]
    return (
        f"The papers' claims one by one: `kit claims --list`; of {len(rows)} claims {count['measured']} are measured "
        f"over seeds, {count['checked']} checked\nby a lesson or a test, {count['no counterpart']} have no counterpart."
    )


def all_claims() -> str:
    """All claims, what became of each, and where."""
    return claims_table(claims.table(), {path.name[:2]: path.name for path in notebook_files.find((), files.ROOT)})


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "upcycling": upcycling, "fine-tuned": fine_tuned, "some scores": some_scores, "claims": count_of_claims,
    },
    "docs/palix.md": {"scores": all_scores},
    "docs/claims.md": {"claims": all_claims},
}  # fmt: skip


def filled(text: str, blocks: dict[str, Callable[[], str]]) -> str:
    """A page with all blocks as they are now. Raises ValueError for a block that is not in the page."""
    for name, block in blocks.items():
        pattern = rf"(?<=<!-- {name} -->\n).*(?=<!-- end of {name} -->)"
        new = f"\n{block()}\n\n".replace("\\", r"\\")  # as a template
        text, found = re.subn(pattern, new, text, flags=re.DOTALL)
        if not found:
            raise ValueError(f"The page has no marks <!-- {name} --> and <!-- end of {name} -->.")
    return text


def main() -> int:
    """`kit docs`: writes all blocks, and says which pages changed."""
    for name, blocks in PAGES.items():
        path = Path(files.ROOT) / name
        new = filled(old := path.read_text(encoding="utf-8"), blocks)
        files.write_text(path, new)
        print(f"{name}: {'as it was' if new == old else 'written'}")
    return 0
