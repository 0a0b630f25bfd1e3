import sys; sys.path.insert(0, ".")
from lib import Nb
nb = Nb("13_pali_x")
nb.replace("nb13-03", "from kitlib.multimodal import batching, generation, kit_data, kit_tasks, scores, tasks", "from kitlib.multimodal import batching, generation, kit_data, kit_scores, scores, tasks")
nb.replace("nb13-04", "from kitlib.multimodal import objectives, stages", "from kitlib.multimodal import held_out, objectives, probes, showcase, stages")
nb.replace("nb13-04", "from kitlib.tools import checks, plots\n", "from kitlib.tools import checks, plots, show\n")
nb.replace("nb13-03", "from kitlib.data import keyed_rng", "from kitlib.data import emoji_styles, keyed_rng")
nb.replace("nb13-04", "from kitlib.multimodal import held_out", "from kitlib.multimodal import boxes as box_texts\nfrom kitlib.multimodal import held_out")
nb.replace("nb13-04", "import held_out, objectives, probes, showcase, stages", "import held_out, objectives, probes, showcase, stages\nfrom kitlib.multimodal.example_builders import BINS")
# ---------------- gallery
nb.after("nb13-04", "nb13-04a", "markdown", """
## What it can do, and what it cannot

This is the model that the kit contains, trained from nothing on two CPU cores. Of eight of its tests we show, from the same 24 examples, the first two answers that are right and the first two that are not. Nothing is hand-picked:
""")
nb.after("nb13-04a", "nb13-04b", "code", '''
model, params = stages.released()
by_name = {task.name: task for task in kit_scores.TASKS}
names = ("captions, th", "captions, Twemoji, en", "held-out pairs, by way of English", "reading a word, unseen words")
names += ("counting", "easy-VQA, test set", "receipts", "detection, one or two names")
asked = {name: by_name[name].examples(24) for name in names}
everything = [example for examples in asked.values() for example in examples]
shape = generation.batch_shape(model, everything)  # one shape, so one compilation
texts = iter(generation.generated_texts(model, params, everything, shape=shape))
answers = {name: [next(texts) for _ in examples] for name, examples in asked.items()}
''')
nb.after("nb13-04b", "nb13-04c", "code", '''
def of_an_example(ax, name, example, said):
    """The picture, above it the question and the answer: black if it is right, else with the true one below."""
    task = by_name[name]
    good = float(np.mean(task.metric([said], [example]))) == 1
    found = {"true": (), "predicted": ()}
    if "detection" in name:
        found = {"true": box_texts.from_text(example.answer, BINS)[0], "predicted": box_texts.from_text(said, BINS)[0]}
        text = "boxes, AP50 " + ("1" if good else "below 1")
    else:
        said, true = (html_table.drawable(words) for words in (said, example.answer))
        text = said if good else f"{said}\\n(not {true})"
    plots.boxes(ax, example.images[0], **found)
    ax.set_title(text, fontsize=8, color="k" if good else "0.35")
    return good


fig, axes = plt.subplots(4, 8, figsize=(14, 8.4))
for column, name in zip(axes.T, names, strict=True):
    points = [by_name[name].metric([s], [e]) for s, e in zip(answers[name], asked[name], strict=True)]
    right = np.array([float(np.mean(value)) == 1 for value in points])
    shown = [*np.flatnonzero(right)[:2], *np.flatnonzero(~right)[:2]]
    for ax, i in zip(column, shown, strict=False):
        of_an_example(ax, name, asked[name][i], answers[name][i])
    column[0].annotate(name.replace(", ", ",\\n"), (0.5, 1.4), xycoords="axes fraction", ha="center", weight="bold")
    for ax in column[len(shown) :]:
        ax.axis("off")
plt.show()
''')
nb.after("nb13-04c", "nb13-04d", "markdown", """
(Boxes: solid are the true ones, dashed the model's. The first row of texts is what the model wrote; "not" is the right answer. The prompts are left out; section 4 says what each test asks.)

And this is `kit show` with a picture that is not from any of these tests. Put the path of a file of your own into `PICTURE`:
""")
nb.after("nb13-04d", "nb13-04e", "code", '''
PICTURE = None  # or "dog.jpg": read as kit show reads it, padded to a square and scaled to 64 pixels
if PICTURE is None:
    twice = np.array([scenes.EASY["train"].index("banana")] * 2)
    picture = scenes.compose(scenes.objects("train")[0], twice, (18, 26), keyed_rng(15)).image
else:
    picture = showcase.read_picture(PICTURE)
seen = showcase.ask_about(model, params, picture, question="is there: dog?")
show.page_table([seen])
''')
# ---------------- the model by hand, with positions
nb.replace("nb13-07", "each seen separately. Examples with fewer", "each seen separately. After the projection every visual token gets three learned vectors: one for its row, one for its column and one for its picture (section 9 shows what they are worth; they are the kit's, not the paper's). Examples with fewer")
nb.replace("nb13-08", '''    embedded = params["text"]["token_embedder"]''', '''    table = params["positions"]
    grid = table["row_embedding"][:, None] + table["column_embedding"]  # [gh, gw, D]
    which = table["image_embedding"][:n][::-1]  # [n, D], counted from the last picture
    visual = visual.reshape(b, n, -1, grid.shape[-1]) + grid.reshape(-1, grid.shape[-1]) + which[:, None]
    embedded = params["text"]["token_embedder"]''')
nb.replace("nb13-10", "That is the whole model. (Two details are our assumption about PaLI-X: pictures come first, and positions continue from pictures to text.) A video needs nothing new: n frames of k patches are n k visual tokens. This has three exact consequences:", "That is the whole model. (Two details are our assumption about PaLI-X: pictures come first, and positions continue from pictures to text.) A video needs nothing new: n frames of k patches are n k visual tokens. Without our added vectors, as in the paper, this has three exact consequences:")
nb.replace("nb13-11", 'encode = jax.jit(lambda images: small_model.apply({"params": small}, images, prompts, method="encode"))', '''as_published = palix.PaLIX(tiny.replace(visual_positions=False))
bare = {name: tree for name, tree in small.items() if name != "positions"}
encode = jax.jit(lambda images: as_published.apply({"params": bare}, images, prompts, method="encode"))''')
nb.replace("nb13-12", "How does the model know where a patch is? The tower has a table of positions.", "How does a model without these vectors know where a patch is? The tower has a table of positions.")
nb.replace("nb13-14", "So the 2-D geometry has to come out of the tower, inside the tokens. (Section 6 measures how much of it comes out of a trained tower.", "So the 2-D geometry has to come out of the tower, inside the tokens, or to be added behind it. (Section 6 measures how much of it comes out of a trained tower, section 9 what the added vectors change.")
nb.replace("nb13-19", '''    parts = {"tower": tower, "projection": (config.tower.width + 1) * config.text.width, "text": text}
''', '''    lines = (*config.tower.grid, config.max_images) if config.visual_positions else ()  # rows, columns, pictures
    parts = {"tower": tower, "projection": (config.tower.width + 1) * config.text.width}
    parts |= {"positions": sum(lines) * config.text.width, "text": text}
''')
# ---------------- the trained model
nb.set("nb13-22", '''
rows = [{"stage": "ocr", "learns": "the tower", "steps": stages.OCR["steps"], "a batch": stages.OCR["batch_size"]}]
rows += [
    {"stage": name, "learns": "all but the tower", "steps": stage.steps, "a batch": sum(stage.rows.values())}
    for name, stage in stages.STAGES.items()
]
print(pd.DataFrame(rows).to_string(index=False))
''')
nb.set("nb13-24", '''
claim("released model (S rung): number of parameters", counted_parts(model.config)["all"], want=5_803_072, tol=0)
count, taught = 96, captioned_data.emoji("train")


def in_languages(split, count, languages):
    """{language: captioned pictures}: the same pictures in each, those of the kit's own test in English."""
    english, table = kit_scores.caption_examples("en", split)(count, tasks.SEED), captioned_data.emoji(split).names
    rows = [(example.images[0], table["en"].index(example.answer)) for example in english]
    return {code: [objectives.captioning(image, table[code][i], code) for image, i in rows] for code in languages}


known, unseen = in_languages("train", count, captioned_data.LANGUAGES), in_languages("test", 83, ("en", "de", "ja"))
codes = [taught.codes[taught.names["en"].index(example.answer)] for example in known["en"]]
named = {code: np.array([not held_out.by_text_alone(thing, code) for thing in codes]) for code in known}
everything = [example for split in (known, unseen) for listed in split.values() for example in listed]
shape = generation.batch_shape(model, everything)  # one shape, so one compilation
''')
nb.set("nb13-25", '''
def said(by_language):
    """{language: what the model writes}, for {language: examples}."""
    flat = [example for listed in by_language.values() for example in listed]
    texts = iter(generation.generated_texts(model, params, flat, shape=shape))
    return {language: [next(texts) for _ in listed] for language, listed in by_language.items()}


captions, guesses = said(known), said(unseen)
right = {language: scores.exact_matches(texts, known[language]) == 1 for language, texts in captions.items()}
shown = [example.images[0] for example in known["en"][:7]]
''')
nb.replace("nb13-28", 'score = {name: {code: over_examples(found[code]) for code in known} for name, found in judged.items()}', 'score = {name: {code: over_examples(found[code][named[code]]) for code in known} for name, found in judged.items()}')
nb.replace("nb13-29", 'number = {name: sum(int(values.sum()) for values in found.values()) for name, found in judged.items()}', '''number = {name: sum(int(found[code][named[code]].sum()) for code in known) for name, found in judged.items()}
asked_for = sum(int(which.sum()) for which in named.values())
claim("number of captions in sixteen languages of which pictures were named in training", asked_for, want=0, tol=0)''')
nb.replace("nb13-29", 'number["looking"] / (16 * count)', 'number["looking"] / asked_for')
nb.replace("nb13-29", 'number exactly right, of {16 * count:,}"', 'number exactly right"')
# ---------------- three kinds of never seen, scripts and styles
nb.replace("nb13-31", '_ = better(', '''best = kit_scores.nearest_names(guesses["en"], unseen["en"])
claim("unseen objects, English: share of guesses that no taught name would have beaten by WUPS", best.mean(), 0, tol=0)
_ = better(''')
nb.after("nb13-33", "nb13-33a", "markdown", """
### Three kinds of "never seen"

"It has never seen that" can mean three things, and each needs a test of its own. (a) A new *picture* of a known thing: all captions above. Harder is a new drawing style: Twemoji, by other designers, was in no training. (b) A new *pair* of thing and language. In eight of the sixteen languages a quarter of the things were named in texts alone ("what is dog?", to be answered in French), never with a picture. To name such a picture in French, what is seen has to reach what was read. (c) A new *thing*: the test of the last cells, in which no name can be right.

For (b) we take the same 96 pictures again, in the eight languages, and ask in two ways: for the name, and for the English name first and then the other ("what is this? first in en"):
""")
nb.after("nb13-33a", "nb13-33b", "code", '''
pairs = [(i, code) for code in held_out.BY_TEXT for i in np.flatnonzero(~named[code])]
direct = np.array([right[code][i] for i, code in pairs], float)
asked_first = []
for i, code in pairs:
    english, name = known["en"][i].answer, known[code][i].answer
    asked_first.append(objectives.naming(known["en"][i].images[0], name, code, (english, "en")))
texts = {None: generation.generated_texts(model, params, asked_first)}
texts["shuffled"] = generation.generated_texts(model, params, tasks.with_control(asked_first, "shuffled"))
reached = {control: scores.last_names(found, asked_first) for control, found in texts.items()}
with_pictures = np.concatenate([right[code][named[code]] for code in held_out.BY_TEXT])
claim("eight languages: number of pairs of picture and language that were held out", len(pairs), want=0, tol=0)
claim("pairs named with pictures: share right", with_pictures.mean(), want=0, tol=0)
claim("pairs held out: share right", direct.mean(), want=0, tol=0)
claim("pairs held out, by way of English: share right", reached[None].mean(), want=0, tol=0)
claim("pairs held out, by way of English, next picture: share right", reached["shuffled"].mean(), want=0, tol=0)
compared = {"held-out pairs: by way of English beats the direct answer": (reached[None], direct)}
compared["held-out pairs, by way of English: own picture beats the next"] = (reached[None], reached["shuffled"])
_ = family(compared, over="pairs")
''')
nb.after("nb13-33b", "nb13-33c", "markdown", "PROSE pairs")
nb.after("nb13-33c", "nb13-33d", "markdown", """
### Does it serve all scripts and styles alike?

PaLI-X's report has a section on fairness: does the model do equally well by all groups of people? Our pictures show no people to compare, but the question can be asked of languages and of designers. We draw the same 48 things in five styles and ask for captions in languages of eight scripts:
""")
nb.after("nb13-33d", "nb13-33e", "code", '''
scripts = {"en": "Latin", "ru": "Cyrillic", "el": "Greek", "ar": "Arabic", "hi": "Devanagari", "th": "Thai"}
scripts |= {"ko": "Hangul", "zh": "Chinese"}
drawn_by = {style: kit_scores.cutouts_of("train", style) for style in emoji_styles.STYLES}
fair = [
    row
    for row in kit_data.object_rows("train")
    if all(row in cuts for cuts in drawn_by.values())
    and not any(held_out.by_text_alone(taught.codes[row], code) for code in scripts)
]
things, shown_in = keyed_rng(tasks.SEED, 48).permutation(fair)[:48], {}
for style, cuts in drawn_by.items():
    placed = [kit_data.place_on_background(cuts[row], keyed_rng(tasks.SEED, k))[0] for k, row in enumerate(things)]
    for code in scripts:
        listed = zip(placed, things, strict=True)
        shown_in[style, code] = [objectives.captioning(image, taught.names[code][i], code) for image, i in listed]
told = said(shown_in)
group = {key: scores.exact_matches(told[key], shown_in[key]) for key in shown_in}
''')
nb.after("nb13-33e", "nb13-33f", "code", '''
fig, ax = plt.subplots(figsize=(8, 3.2))
for k, style in enumerate(drawn_by):
    values = np.array([over_examples(group[style, code]) for code in scripts])  # mean, low, high
    error = np.abs(values[:, 1:] - values[:, :1]).T
    look = {"marker": plots.MARKERS[k], "linestyle": plots.DASHES[k], "capsize": 3}
    ax.errorbar(np.arange(8) + 0.1 * (k - 2), values[:, 0], yerr=error, label=style, **look)
ax.set(xticks=range(8), xticklabels=scripts.values(), ylim=(0, 1.02), ylabel="share exactly right")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="style")
plt.show()
by_style = {style: np.mean([group[style, code] for code in scripts], axis=0) for style in drawn_by}
by_script = {code: np.mean([group[style, code] for style in drawn_by], axis=0) for code in scripts}
for name, values in (by_style | {scripts[code]: found for code, found in by_script.items()}).items():
    claim(f"{name}: share right, mean over the other kind of group", values.mean(), want=0, tol=0)
best, worst = (choose(scripts, key=lambda code: by_script[code].mean()) for choose in (max, min))
gaps = {"gap of styles, share right: Noto beats Twemoji": (by_style["noto"], by_style["twemoji"])}
gaps[f"gap of scripts, share right: {scripts[best]} beats {scripts[worst]}"] = by_script[best], by_script[worst]
_ = family(gaps, over="things")
''')
nb.after("nb13-33f", "nb13-33g", "markdown", "PROSE groups")
# ---------------- where is a patch
nb.replace("nb13-40", "Only if a visual token tells where its patch is (section 1). We fit a linear map from the tokens of 256 pictures to the rows and columns of their patches, and try it on the tokens of 64 others. If a token told everything, the map would explain all of the variance:", "Only if a visual token tells where its patch is (section 1). A probe, which is a linear classifier, is to tell row and column of a patch, once from the tower's output and once from what the encoder makes of it. It is fitted to the patches of 200 pictures and judged on those of 60 others. (A guess is right in one of 64 cases.)")
nb.set("nb13-40b", '''
rng, pictures = keyed_rng(tasks.SEED, 14), []
for _ in range(260):
    picture, _ = kit_data.place_on_background(cut[rng.integers(len(cut))], rng)
    pictures.append(objectives.captioning(picture, "?", "en"))
told_by = probes.told_patches(model, params, pictures, fitted=200)
for name, share in told_by.items():
    claim(f"share of patches whose row and column a probe tells, from the {name}'s output", share, want=0, tol=0)
''')
nb.set("nb13-40c", """PROSE probe

## 7 Fine-tuning on new objects
""" + nb.nb.cells[nb.at("nb13-40c")].source.split("## 7 Fine-tuning on new objects")[1])
# ---------------- rows and columns: the study
nb.after("study-connector-02", "study-positions-00", "markdown", """
## 9 Rows and columns after the projection

Section 1 counted what T5's positions can tell of a grid: little. Does that matter? `kit claims palix positions` trains the XS rung to write the boxes of one or two things, 4,000 steps of 16 prompts, with the learned vectors of rows, columns and pictures after the projection and without them; the tower has its own position embeddings in both. Five seeds, 300 pictures of objects that were trained, and a probe as in section 6:
""")
nb.after("study-positions-00", "study-positions-01", "code", '''
table = tables.read_table("palix", "positions")
shown = {"accuracy: finding": "boxes, AP50", "patches: tower": "a patch's place, from the tower"}
shown |= {"patches: encoder": "a patch's place, from the encoder"}
fig, ax = plt.subplots(figsize=(7, 2.6))
for k, arm in enumerate(("with", "without")):
    for i, column in enumerate(shown):
        values = tables.final(table, column)[arm]
        style = {"marker": plots.MARKERS[k], "color": f"C{k}", "linestyle": "", "label": None if i else arm}
        ax.plot(values, np.full(len(values), i + 0.2 * k - 0.1), **style)
ax.set(yticks=range(3), yticklabels=shown.values(), xlim=(-0.02, 1.02), xlabel="share; dots are seeds")
ax.invert_yaxis()
ax.legend(title="rows and columns", loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
_ = checks.verdicts("palix", "positions")
''')
nb.after("study-positions-01", "study-positions-02", "markdown", "PROSE positions")
nb.after("study-positions-02", "study-sizes-00", "markdown", """
## 10 A larger tower or a larger text model?

The thesis of PaLI and PaLI-X is that both halves should grow. In PaLI's figure 2 ([2209.06794](https://arxiv.org/abs/2209.06794), as two summaries quote it) the text model's step from mT5-Large to XXL, 12 billion parameters more, adds 3.1 points to the mean of seven tasks; the tower's step from ViT-G to ViT-e, 2 billion more, adds 3.2. There all models see the same examples. We ask what a student with a fixed budget asks: at equal compute, which half should be wider? `kit claims palix sizes` trains nine models, towers of width 32, 64 and 128 times text models of the same widths. Each may spend the FLOPs of the middle one, in stage 0 as in the phase with text, so a wider model sees fewer examples. The learning rates of the three towers and of the nine models were each the best of three, tried on another seed (`kit claims palix sizes_tuning`). Five tasks (captions, easy-VQA, objects, counting, boxes), five seeds:
""")
nb.after("study-sizes-00", "study-sizes-01", "code", '''
table = tables.final(tables.read_table("palix", "sizes"), "accuracy: mean")
widths = (32, 64, 128)
grid = np.array([[table[f"tower {tower}, text {text}"].mean() for text in widths] for tower in widths])
fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.2), width_ratios=(1, 1.3))
axes[0].imshow(grid, cmap="Greys", vmin=grid.min() - 0.1, vmax=grid.max() + 0.1)
for (row, column), mean in np.ndenumerate(grid):
    axes[0].text(column, row, f"{mean:.3f}", ha="center", va="center", color="w" if mean > grid.mean() + 0.05 else "k")
axes[0].set(xticks=range(3), xticklabels=widths, yticks=range(3), yticklabels=widths, xlabel="width of the text model")
axes[0].set(ylabel="width of the tower", title="mean score, equal compute")
axes[0].grid(visible=False)
gains = {"tower, ViT-G to ViT-e": 3.2, "text model, mT5-L to XXL": 3.1}
axes[1].barh(list(gains), list(gains.values()), color=("0.35", "0.7"))
axes[1].set(xlabel="points gained, mean of seven tasks, equal examples", title="PaLI, figure 2", xlim=(0, 4))
axes[1].invert_yaxis()
plt.show()
_ = checks.verdicts("palix", "sizes")
''')
nb.after("study-sizes-01", "study-sizes-02", "markdown", "PROSE sizes")
nb.replace("nb13-47", 'title=f"captions of {count} new pictures of known objects"', 'title=f"captions of {count} new pictures, pairs that were taught"')
nb.replace("nb13-01", "`kit stages`", "`kit train palix_s`") if "`kit stages`" in nb.nb.cells[nb.at("nb13-01")].source else None
nb.replace("nb13-21", "(`kit stages` repeats this training)", "(`kit train palix_s` repeats this training)")
nb.replace("nb13-21", "in PaLI-X's stages and two more", "in three stages")
nb.save()
nb.set("nb13-23", """
First the tower is trained alone to name things and to read (*ocr*). From then on it is frozen, and its output is computed once per picture and used for many questions about it. In *base* the text model learns the first things that a picture can say: names in sixteen languages, single words, one or two boxes. *bind* is our own: it teaches to tell one picture of a prompt from another, by positions in every frame of a film and by made-up words in prompts with exemplars (notebook [15](15_shots_and_frames.ipynb)). Last come all thirteen objectives of PaLI-X's mixture, and the tasks on which the model is evaluated (*all*). The objectives, and what each contributes, are the subject of notebook [14](14_the_mixture.ipynb). What we use here: the model was trained to name 417 kinds of things, in four drawing styles, at any position on any background, in sixteen languages; in eight of these languages a quarter of the names were taught by texts alone.

Our test consists of 96 of these 417 kinds, drawn at random, in new pictures that are the same in every language; a pair of thing and language that was held out does not count here, and gets a test of its own (section 5). We add the 83 objects of the test split, in three languages: the model was never shown a picture of them, and was never trained to connect their names with a picture.
""")
nb.save()
