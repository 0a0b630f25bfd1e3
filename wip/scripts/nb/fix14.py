import sys; sys.path.insert(0,".")
from lib import Nb
n=Nb("14_the_mixture")
n.replace("nb14-24b",'''html_table.drawable(example.prompt.removeprefix("detect ").replace(" ; ", ";\\n"))''','''example.prompt.removeprefix("detect ").replace(" ; ", ";\\n")''')
n.replace("nb14-24b",'''    examples = next(task for task in kit_scores.TASKS if task.name == name).examples(8)
''','''    examples = next(task for task in kit_scores.TASKS if task.name == name).examples(24)
    examples = [each for each in examples if html_table.drawable(each.prompt) == each.prompt][:8]
''')
n.replace("nb14-12b","bins = np.array([8, 16, 32, 64, 128, 256, 512, 1000])","bins = np.array([8, 16, BINS, 64, 128, 256, 512, 1000])")
n.replace("nb14-12b",'claim("32 bins: IoU','claim(f"{BINS} bins, the released model\'s: IoU')
n.save()
n=Nb("15_shots_and_frames")
n.replace("nb15-42",'''told = [
    text for example in some for text in (example.prompt.removeprefix("Answer in en: "), f"-> {example.answer}", "", "")
]''','''asked_for = [f"{example.prompt.removeprefix('Answer in en: ')} -> {example.answer}" for example in some]
told = [text for first in asked_for for text in (first, "", "", "")]''')
n.replace("nb15-46b",'FILM | {"target_length": 32}','FILM | {"prompt_length": 40, "target_length": 32}')
n.save()
