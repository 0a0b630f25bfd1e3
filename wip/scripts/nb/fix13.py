import sys; sys.path.insert(0,".")
from lib import Nb
n=Nb("13_pali_x")
s=n.nb.cells[n.at("nb13-33")].source
a,b=s.split("\n\n## 6",1)
n.set("nb13-33",a); n.after("nb13-33g","nb13-33h","markdown","## 6"+b)
n.set("nb13-04a","""## What it can do, and what it cannot

This is the model that the kit contains, trained from nothing on two CPU cores. Of eight of its tests we show, from the same 24 examples, the first two answers that are right and the first two that are not. Nothing is hand-picked:""")
n.replace("nb13-04b",'"captions, th"','"captions, fr"')
n.set("nb13-04c",'''def of_an_example(ax, name, example, said, good):
    """The picture, above it the question (grey), and the answer: black if it is right, else with the true one."""
    found = {"true": (), "predicted": ()}
    question = "" if "captions" in name or "read" in name else example.prompt.removeprefix("Answer in en: ")
    if "detection" in name:
        found = {"true": box_texts.from_text(example.answer, BINS)[0], "predicted": box_texts.from_text(said, BINS)[0]}
        text = "" if good else "(AP50 below 1)"
    else:
        text = said if good else f"{said}\\n(not {example.answer})"
    plots.boxes(ax, example.images[0], **found)
    ax.set_title("\\n".join(filter(None, (textwrap.shorten(question, 24), text))), fontsize=8, color="k" if good else "0.35")
''')
n.set("nb13-04c2",'''fig, axes = plt.subplots(4, 8, figsize=(14, 9))
for column, name in zip(axes.T, names, strict=True):
    points = [by_name[name].metric([s], [e]) for s, e in zip(answers[name], asked[name], strict=True)]
    right = np.array([float(np.mean(value)) == 1 for value in points])
    order = [*np.flatnonzero(right)[:2], *np.flatnonzero(~right)[:2]]
    order += [i for i in range(len(right)) if i not in order]  # where there are fewer than two of a kind
    for ax, i in zip(column, order, strict=False):
        of_an_example(ax, name, asked[name][i], answers[name][i], right[i])
    column[0].annotate(name.replace(", ", ",\\n"), (0.5, 1.55), xycoords="axes fraction", ha="center", weight="bold")
plt.show()''')
n.set("nb13-04d","""(In black what is right, in grey what is not, with the true answer below. For boxes: solid are the true ones, dashed the model's. Section 4 says how such a model is asked.)

And this is `kit show` with a picture that is not from any of these tests. Put the path of a file of your own into `PICTURE`:""")
n.replace("nb13-33f",'look = {"marker": plots.MARKERS[k], "linestyle": plots.DASHES[k], "capsize": 3}','look = {"marker": plots.MARKERS[k], "linestyle": "", "capsize": 3}')
c=n.nb.cells[n.at("nb13-03")]
c.source="import textwrap\n\n"+c.source
n.save()
