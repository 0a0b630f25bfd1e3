import sys; sys.path.insert(0, "wip/scripts/nb")
from lib import Nb
nb = Nb("13_pali_x")
nb.replace("nb13-03", "from kitlib.multimodal import batching, generation, kit_data, kit_tasks, scores, tasks", "from kitlib.multimodal import batching, generation, kit_data, kit_scores, scores, tasks")
nb.replace("nb13-04", "from kitlib.multimodal import objectives, stages", "from kitlib.multimodal import held_out, objectives, probes, stages")
# gallery
nb.after("nb13-04", "nb13-04a", "markdown", """
## What it can do, and what it cannot

This is the model that the kit contains, trained from nothing on two CPU cores. From eight of its tests we take the first two answers that are right and the first two that are not (the prompts are shortened):
""")
nb.after("nb13-04a", "nb13-04b", "code", '''
model, params = stages.released()
by_name = {task.name: task for task in kit_scores.TASKS}
names = ("captions, th", "captions, Twemoji, en", "held-out pairs", "reading a word, unseen words")
names += ("counting", "easy-VQA, test set", "detection, one or two names", "receipts")
asked = {name: by_name[name].examples(24) for name in names}
everything = [example for examples in asked.values() for example in examples]
shape = generation.batch_shape(model, everything)  # one shape, so one compilation
texts = iter(generation.generated_texts(model, params, everything, shape=shape))
answers = {name: [next(texts) for _ in examples] for name, examples in asked.items()}
''')
nb.after("nb13-04b", "nb13-04c", "code", '''
fig, axes = plt.subplots(4, 8, figsize=(13, 8.2))
for column, name in zip(axes.T, names, strict=True):
    task, pairs = by_name[name], list(zip(answers[name], asked[name], strict=True))
    points = [float(np.mean(task.metric([text], [example]))) for text, example in pairs]
    right = [i for i, score in enumerate(points) if score == 1][:2]
    shown = (right + [i for i, score in enumerate(points) if score < 0.5])[:4]
    for ax, i in zip(column, shown, strict=False):
        text, example = pairs[i]
        ax.imshow(example.images[0])
        if "detection" in name:
            plots.boxes(ax, example, text)
        said, true = (html_table.drawable(words) for words in (text, example.answer))
        ax.set_title(said if points[i] == 1 else f"{said}\\n(not {true})", fontsize=7)
    column[0].annotate(name, (0.5, 1.35), xycoords="axes fraction", ha="center", fontsize=8, weight="bold")
for ax in axes.flat:
    ax.axis("off")
plt.show()
''')
# by hand
nb.replace("nb13-08", '''    embedded = params["text"]''', '''    table = params["positions"]
    patches = table["row_embedding"][:, None] + table["column_embedding"]  # [gh, gw, D]
    visual = visual + patches.reshape(-1, patches.shape[-1])  # every image has the same
    visual = visual.reshape(b, n, *visual.shape[1:]) + table["image_embedding"][:n][::-1, None]  # the last one is the first
    embedded = params["text"]''')
nb.save()
