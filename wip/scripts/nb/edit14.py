import sys; sys.path.insert(0, ".")
from lib import Nb
nb = Nb("14_the_mixture")
nb.replace("nb14-0b", "    kit_data,\n    kit_tasks,", "    kit_data,\n    kit_scores,\n    kit_tasks,")
nb.replace("nb14-0b", "from kitlib.studies import palix_tasks\n", "from kitlib.multimodal.example_builders import BINS\nfrom kitlib.studies import palix_tasks\n")
# bins
nb.replace("nb14-12", 'claim("64 bins: IoU lost', 'claim("32 bins: IoU lost by rounding, mean of 500 random boxes, %", 100 * lost[2].mean(), want=0, tol=0)\nclaim("64 bins: IoU lost')
# mixture
nb.replace("nb14-18", "stages.READ", 'stages.ALL["read"]')
nb.replace("nb14-18", "stages.SHORT", "weights")
nb.replace("nb14-18", "named = {", 'weights = stages.ALL["short"]\nnamed = {')
nb.replace("nb14-18", "df=6", "df=3")
nb.replace("nb14-18", "want=16.8", "want=11.3")
nb.replace("nb14-17", "with 6 degrees of freedom, 16.8 is exceeded", "with 3 degrees of freedom, 11.3 is exceeded")
# padding
nb.replace("nb14-20", 'stages.groups(stages.STAGES["base"], seed=0)', 'stages.groups(stages.STAGES["all"], seed=0)')
for old in ("stage 1, groups:", "stage 1, one shape:", "stage 1: token"):
    nb.replace("nb14-20", old, old.replace("stage 1", 'stage "all"').replace('"', "'"))
# stages
nb.set("nb14-22", '''
rows = [{"stage": "ocr", "steps": stages.OCR["steps"], "peak": stages.OCR["peak"], "learns": "the tower"}]
for name, stage in stages.STAGES.items():
    rows.append({"stage": name, "steps": stage.steps, "peak": stage.peak, "learns": "all but the tower"})
print(pd.DataFrame(rows).to_string(index=False))
share = pd.DataFrame({name: stage.rows for name, stage in stages.STAGES.items()}).fillna(0).T
share = share.div(share.sum(axis=1), axis=0)
for stage, want in {"base": 0.48, "all": 0.14}.items():
    claim(f"stage {stage}, share of rows: name", share.loc[stage, "name"], want, tol=0.01)
model, params = stages.released()
larger, _ = stages.at_resolution(params, model.config, 96)
changed = jax.tree.map(lambda a, b: int(a.shape != b.shape), params, larger)
claim("number of parameter arrays with a new shape at 96 pixels", sum(jax.tree.leaves(changed)), want=3, tol=0)
losses = pd.read_csv(stages.released_file().with_name("palix_s_losses.csv"), comment="#")
fig, axes = plt.subplots(1, 3, figsize=(13, 3.2), width_ratios=(1.5, 1.2, 1.2))
share.iloc[::-1].plot.barh(stacked=True, ax=axes[0], width=0.7, xlabel="share of the rows of a batch", ylabel="stage")
axes[0].legend(ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8)
for ax, stage in zip(axes[1:], stages.STAGES, strict=True):
    for k, group in enumerate(("name", "read", "found", "quiz", "film", "pair")):
        curve = losses[(losses["stage"] == stage) & (losses["loss"] == f"{group}/loss")]
        if len(curve):
            ax.plot(curve["step"], curve["mean"], label=group, linestyle=plots.DASHES[k], color=f"C{k}")
    ax.set(yscale="log", xlabel="step", ylabel="loss, nats per token", title=f"stage {stage}")
axes[2].legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
''')
# scores by task
nb.replace("nb14-24", '"receipts", "detection")', '"receipts")\nchosen += ("detection, with absent kinds",)')
nb.replace("nb14-24", "kit_tasks.TASKS", "kit_scores.TASKS")
nb.after("nb14-24", "nb14-24a", "markdown", """
And where does it see things? Boxes that are solid are true, dashed ones the model's (noise boxes are left out, on both sides). Upper row: one or two names of things that are there; lower row: names of which some are absent:
""")
nb.after("nb14-24a", "nb14-24b", "code", '''
def true_and_said(example, text):
    """The corners of the boxes of both that are no noise, float[n, 4] each."""
    pairs = []
    for written in (example.answer, text):
        corners, labels, _ = boxes.from_text(written, BINS)
        pairs.append(corners[[label != boxes.NOISE for label in labels]])
    return pairs


found = {"detection, one or two names": "one or two names", "detection, with absent kinds": "some names are absent"}
fig, axes = plt.subplots(2, 8, figsize=(14, 4.4))
for row, (name, title) in zip(axes, found.items(), strict=True):
    examples = next(task for task in kit_scores.TASKS if task.name == name).examples(8)
    for ax, example, text in zip(row, examples, ask(examples), strict=True):
        plots.boxes(ax, example.images[0], *true_and_said(example, text))
        ax.set_title(html_table.drawable(example.prompt.removeprefix("detect ").replace(" ; ", ";\\n")), fontsize=7)
    row[0].set_title(f"{title}\\n" + row[0].get_title(), fontsize=7)
plt.show()
''')
nb.replace("nb14-0b", "from kitlib.tools import checks, plots\n", "from kitlib.tools import checks, html_table, plots\n")
nb.replace("nb14-26", "data.keyed_rng(0), 2)\n", "data.keyed_rng(0), 2, BINS)\n")
nb.replace("nb14-28", "kit_tasks.TASKS", "kit_scores.TASKS")
nb.replace("nb14-29b", "boxes.from_text(text)[1]", "boxes.from_text(text, BINS)[1]")
nb.replace("nb14-29b", '"detection"', '"detection, with absent kinds"')
nb.replace("nb14-32", "boxes.from_text(example.answer)[1]", "boxes.from_text(example.answer, BINS)[1]")
nb.replace("nb14-languages-0", "rng, example_builders.BOXES\n", "rng, example_builders.BOXES, BINS\n")
nb.replace("nb14-languages-0", "boxes.from_text(said)[1]", "boxes.from_text(said, BINS)[1]")
nb.replace("nb14-languages-0", "boxes.from_text(example.answer)[1]", "boxes.from_text(example.answer, BINS)[1]")
nb.replace("nb14-31", "PaLI-X", "PaLI-X") if False else None
nb.replace("nb14-42", 'base = stages.STAGES["base"]', 'last = stages.STAGES["all"]')
nb.replace("nb14-42", 'exercise("1 captions in stage 1", share_of_builder, share_counted, dict(base.rows), dict(base.weights), "captioning")', 'exercise("1 captions in the last stage", share_of_builder, share_counted, dict(last.rows), dict(last.weights), "captioning")')
nb.after("study-11", "study-rare-00", "markdown", """
## 12 Rare kinds

LVIS ([1908.03195](https://arxiv.org/abs/1908.03195)) asks whether a detector finds kinds that are in a handful of its training pictures as well as those that are in hundreds. PaLI-X does: an average precision of 31.4 for rare classes and of 31 for all ([2305.18565](https://arxiv.org/abs/2305.18565), as reviews quote it), and the credit is given to its mixture, in which all classes have captions. `kit claims palix rare` makes a small LVIS of its own: 48 kinds, 16 of them rare (in 2 to 9 of the training pictures), 16 common (10 to 99) and 16 frequent (100 to 400), drawn again for every seed; a picture is asked for its two kinds and for kinds that are not there. The arms are boxes alone; boxes and as many captions, which name all kinds equally often; and, as the measure of what the tail costs, boxes of pictures with all kinds equally often. Average precision is LVIS's, over IoU from 0.5 to 0.95; five seeds, 16 test pictures for each kind:
""")
nb.after("study-rare-00", "study-rare-01", "code", '''
rare = read_table("palix", "rare")
fig, ax = plt.subplots(figsize=(7, 3.0))
tiers = ("rare", "common", "frequent")
for k, arm in enumerate(rare["arm"].unique()):
    values = np.array([t_interval(final(rare, f"AP: {tier}")[arm]) for tier in tiers])
    error = np.abs(values[:, 1:] - values[:, :1]).T
    look = {"marker": plots.MARKERS[k], "linestyle": plots.DASHES[k], "capsize": 3}
    ax.errorbar(np.arange(3) + 0.08 * (k - 1), values[:, 0], yerr=error, label=arm, **look)
ax.set(xticks=range(3), xticklabels=tiers, xlabel="kinds", ylabel="AP, five seeds, 95 %")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
_ = checks.verdicts("palix", "rare")
''')
nb.after("study-rare-01", "study-rare-02", "markdown", "PROSE rare")
nb.replace("nb14-03", "from kitlib.metrics import over_examples", "from kitlib.metrics import over_examples, t_interval")
nb.save()
nb.set("nb14-21", nb.nb.cells[nb.at("nb14-21")].source)
nb.set("nb14-06", nb.nb.cells[nb.at("nb14-06")].source)
src = nb.nb.cells[nb.at("nb14-21")].source
head, _, _ = src.partition("## 6 Five stages")
nb.set("nb14-21", head + """## 6 Stages

PaLI-X's tower is first taught to read (stage 0) and then frozen, while the rest learns all objectives at 224 pixels. A later stage, whose length we could not find, goes up to 756 pixels, with text, pages and boxes only ([2305.18565](https://arxiv.org/abs/2305.18565)). The kit's order is another, for a reason of size: what a small model learns late, it learns only when little else is asked. So *base* has names, single words, single boxes and texts, and nothing else. *bind* is for one skill, to tell one picture of a prompt from another: where a thing is in every frame of a film, and which of several pictures has which made-up word. Only *all* has the thirteen objectives, and with them the tasks of the evaluation. The tower stays frozen in all three: then its output can be computed once per picture and used for every question about it, in any language. A stage at more pixels is left out; `stages.at_resolution` shows what would change: three arrays.
""")
nb.set("nb14-23", """
Left: the composition of each stage's batches, in rows. Middle and right: the losses of some groups, means over 50 steps, in the first and in the last stage. A group that was new in a stage begins high; names get a little worse when the other tasks come, and recover.

## 7 Scores by task
""" + nb.nb.cells[nb.at("nb14-23")].source.split("## 7 Scores by task")[1])
nb.replace("nb14-22", "zip(axes[1:], stages.STAGES, strict=True)", 'zip(axes[1:], ("base", "all"), strict=True)')
nb.replace("nb14-22", '''"quiz", "film", "pair")''', '''"quiz", "film", "boxes")''')
nb.save()
