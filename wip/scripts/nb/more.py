"""Edits of notebooks 13 and 14 for the stage "weak", run in the checkout: python wip/scripts/nb/more.py"""
import sys; sys.path.insert(0,"wip/scripts/nb")
from lib import Nb
n=Nb("13_pali_x")
n.replace("nb13-21","in three stages (`kit train palix_s` repeats","in five stages (`kit train palix_s` repeats")
n.replace("nb13-23","Last come all thirteen objectives of PaLI-X's mixture, and the tasks on which the model is evaluated (*all*).","Then come all thirteen objectives of PaLI-X's mixture, and the tasks on which the model is evaluated (*all*), and last the same tasks in other shares, with more of what was still badly learned (*weak*).")
n.replace("nb13-33b",'''texts = {None:''','''in_texts = [objectives.translation(known["en"][i].answer, known[code][i].answer, code) for i, code in pairs]
read_alone = scores.exact_matches(generation.generated_texts(model, params, in_texts), in_texts)
texts = {None:''')
n.replace("nb13-33b",'''compared = {"held-out''','''claim("pairs held out, asked for in texts alone: share right", read_alone.mean(), want=0, tol=0)
compared = {"held-out''')
n.replace("nb13-04","from kitlib.multimodal import held_out, objectives, probes, showcase, stages","from kitlib.multimodal import features, held_out, objectives, probes, showcase, stages")
n.after("nb13-33f","nb13-33f2","code",'''
told_of = probes.named_by_style(features.Tower(model.config.tower, params["tower"])).set_index("style")["right"]
for style in ("noto", "twemoji"):
    claim(f"{style}: share of 417 things that a probe names from the tower's output", told_of[style], want=0, tol=0)
    in_english = group[style, "en"].mean()
    claim(f"{style}: share of the 48 things that the model names in English", in_english, want=0, tol=0)
''')
n.save()
n=Nb("14_the_mixture")
n.replace("nb14-21","Only *all* has the thirteen objectives, and with them the tasks of the evaluation. The tower stays frozen in all three: then","*all* has the thirteen objectives, and with them the tasks of the evaluation. *weak* has them in other shares, with more of what was still badly learned: names that no picture teaches, pictures with made-up words, and counting, for which the model now also learns to write down where the things are before it says how many. The tower stays frozen in all four: then")
n.replace("nb14-22",'''fig, axes = plt.subplots(1, 3, figsize=(13, 3.2), width_ratios=(1.5, 1.2, 1.2))''','''fig, axes = plt.subplots(1, 4, figsize=(16, 3.2), width_ratios=(1.5, 1.2, 1.2, 1.2))''')
n.replace("nb14-22",'''zip(axes[1:], ("base", "all"), strict=True)''','''zip(axes[1:], ("base", "all", "weak"), strict=True)''')
n.replace("nb14-22",'''axes[2].legend(''','''axes[3].legend(''')
n.replace("nb14-22",'''("name", "read", "found", "quiz", "film", "boxes")''','''("name", "read", "found", "quiz", "film", "pair")''')
n.replace("nb14-23","Middle and right: the losses of some groups, means over 50 steps, in the first and in the last stage.","The others: the losses of some groups, means over 50 steps, in three of the stages.")
n.replace("nb14-27","`kit stages` ends","`kit train palix_s` ends")
n.replace("nb14-42",'last = stages.STAGES["all"]','last = stages.STAGES["weak"]')
n.after("nb14-29","nb14-29c","markdown",'''
The model was also taught to count in steps: asked "first where", it writes row and column of every one, on the 8 x 8 grid of patches, and then the number. On the same pictures:
''')
n.after("nb14-29c","nb14-29d","code",'''
by_name = {task.name: task for task in kit_scores.TASKS}
crowds = by_name["counting, by way of positions"].examples(96)
plain = by_name["counting"].examples(96)  # the same pictures
counts = {"in steps": ask(crowds), "directly": ask(plain)}
for example, text in list(zip(crowds, counts["in steps"], strict=True))[:4]:
    print(f"{example.prompt.removeprefix('Answer in en: '):38} {example.answer:42} -> {text}")
in_steps, directly = scores.last_names(counts["in steps"], crowds), scores.exact_matches(counts["directly"], plain)
claim("counting in steps: share of right numbers, 96 pictures", in_steps.mean(), want=0, tol=0)
claim("counting directly: share of right numbers, the same pictures", directly.mean(), want=0, tol=0)
places = [[set(text.split(" ; ")[:-1]) for text in (e.answer, said)] for e, said in zip(crowds, counts["in steps"], strict=True)]
hits = sum(len(true & written) for true, written in places)
claim("counting in steps: share of the things whose place is written", hits / sum(len(true) for true, _ in places), 0, tol=0)
claim("counting in steps: share of the places written that are right", hits / sum(len(said) for _, said in places), 0, tol=0)
number = [int(text.rpartition(" ; ")[2] == str(text.count(" ; "))) for text in counts["in steps"]]
claim("counting in steps: share of numbers that equal the number of places written", np.mean(number), want=0, tol=0)
_ = better("share of right numbers: in steps beats directly", in_steps, directly, over="pictures")
''')
n.replace("nb14-0c","from kitlib.tools.checks import claim, exercise, family, same, summary","from kitlib.tools.checks import better, claim, exercise, family, same, summary")
n.save()
