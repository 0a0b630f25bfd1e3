import sys; sys.path.insert(0, ".")
from lib import Nb
nb = Nb("15_shots_and_frames")
nb.replace("nb15-00", "Nothing is pooled, nothing is added.", "Nothing is pooled.")
nb.replace("nb15-03", "from kitlib.multimodal import example_builders, generation, kit_data, objectives, scores, stages, tasks", "from kitlib.multimodal import example_builders, exemplar_builders, generation, kit_data, kit_tasks, objectives, scores\nfrom kitlib.multimodal import stages, tasks")
nb.replace("nb15-05", '''    visual = patches @ params["projection"]["kernel"] + params["projection"]["bias"]
    return visual.reshape(b, n * k, -1)
''', '''    visual = patches @ params["projection"]["kernel"] + params["projection"]["bias"]
    table = params["positions"]  # of rows, of columns, and of pictures, which are counted from the last
    grid = (table["row_embedding"][:, None] + table["column_embedding"]).reshape(k, -1)
    visual = visual.reshape(b, n, k, -1) + grid + table["image_embedding"][:n][::-1, None]
    return visual.reshape(b, n * k, -1)
''')
nb.replace("nb15-05", '("tower", "projection")', '("tower", "projection", "positions")')
nb.replace("nb15-04", "In between no picture has information about any other:", "In between no picture has information about any other. (Behind the projection the kit adds learned vectors for row, column and number of the picture, notebook [13](13_pali_x.ipynb).)")
nb.replace("nb15-06", "The first check below confirms that no picture has information about any other.", "The first check below confirms that no picture has information about any other (without the vectors of the pictures' numbers, since a picture that is seen alone is always the last).")
nb.replace("nb15-07", '''tokens = seen_by_palix(eyes, pictures).reshape(2, 3, k, -1)
alone = jnp.stack([seen_by_palix(eyes, pictures[:, i : i + 1]) for i in range(3)], axis=1)
''', '''unnumbered = eyes | {"positions": jax.tree.map(jnp.zeros_like, eyes["positions"])}
tokens = seen_by_palix(unnumbered, pictures).reshape(2, 3, k, -1)
alone = jnp.stack([seen_by_palix(unnumbered, pictures[:, i : i + 1]) for i in range(3)], axis=1)
''')
nb.replace("nb15-11", "example_builders.made_up_words", "exemplar_builders.made_up_words")
nb.replace("nb15-12", "If every token sees every token, only positions can show that the second text is about the second picture.", "If every token sees every token, only positions can show that the second text is about the second picture. The kit's models have two kinds of them. One is the learned vector of the picture's number, which is added to its patches and to its text. The other is older:")
nb.replace("nb15-21", '    return params | {"text": params["text"] | {"encoder": encoder | {"relpos_bias": flat}}}', '''    none = jax.tree.map(jnp.zeros_like, params["positions"])
    return params | {"text": params["text"] | {"encoder": encoder | {"relpos_bias": flat}}, "positions": none}''')
nb.set("nb15-34", '''
model, params = stages.released()
data_of = {"known objects": known, "unseen objects": kit_data.kit_data("test")}
num_episodes = {"cpu": 64}.get(checks.scale(), 400)


def with_shots(shots, objects="known objects", by_name=False, count=num_episodes):
    """Episodes of two kinds, the same queries for 0, 1 and 2 exemplars. by_name: the answer names every picture."""
    data, drawn = data_of[objects], []
    for i in range(count):
        rng = keyed_rng(tasks.SEED, i)
        episode = episodes.episode(kit_data.pick(data.scene_cutouts, rng), 2, max(shots, 2), rng)
        drawn.append(objectives.made_up_words(episode, names=data.scene_names if by_name else None))
    last = slice(-shots - 1, None)
    return [dataclasses.replace(e, images=e.images[last], prompt=e.prompt[last]) for e in drawn]


def asked(examples, shots, control=None, length=8):
    """What the model answers, or one of the controls of notebook 14 instead of it. Missing exemplars are padding, so
    that three numbers of pictures do for all."""
    images = next(most for most in (3, 5, 9) if most > shots)
    shape = {"num_images": images, "prompt_length": 16, "target_length": length, "image_size": 64}
    return generation.generated_texts(model, params, tasks.with_control(examples, control), batch_size=32, shape=shape)
''')
nb.after("nb15-39", "nb15-39a", "code", '''
def right_steps(texts, examples, first):
    """bool[B, steps]: which of the parts first, first + 2, ... of the answers are right."""
    rows = []
    for text, example in zip(texts, examples, strict=True):
        true, written = example.answer.split(" ; ")[first::2], text.split(" ; ")[first::2]
        rows.append([part == said for part, said in itertools.zip_longest(true, written[: len(true)])])
    return np.array(rows)


by_name = {}
for shots in (2, 4):
    examples = with_shots(shots, by_name=True)
    given = asked(examples, shots, length=56)
    names_right, words_right = right_steps(given, examples, 0), right_steps(given, examples, 1)
    by_name[shots] = scores.last_names(given, examples)
    tag = f"{shots} exemplars, step by step: share of"
    claim(f"{tag} exemplars named rightly", names_right[:, :-1].mean(), want=0, tol=0)
    claim(f"{tag} queries named rightly", names_right[:, -1].mean(), want=0, tol=0)
    claim(f"{tag} exemplars with their own word", words_right[:, :-1].mean(), want=0, tol=0)
    claim(f"{tag} right answers", by_name[shots].mean(), want=0, tol=0)
''')
nb.replace("nb15-masks-1", "batch_size=32, shape=shape_for(2))", "batch_size=32, shape=SHAPE_OF_TWO)")
nb.replace("nb15-masks-1", "two, compared = with_shots(2), {}", 'two, compared = with_shots(2), {}\nSHAPE_OF_TWO = {"num_images": 3, "prompt_length": 16, "target_length": 8, "image_size": 64}')
nb.replace("nb15-43", "Here no positions are rearranged: the frames follow each other as they come. Only the distance of 64 positions from one frame to the next distinguishes them.", "Here no positions are rearranged: the frames follow each other as they come. Two things distinguish them: the learned vector of the frame's number, and the distance of 64 positions from one frame to the next.")
nb.after("nb15-46", "nb15-46a", "markdown", """
The model was also taught to answer in steps: asked "first where", it writes row and column of the object in each of the four frames, on the 8 x 8 grid of patches, and then the answer.
""")
nb.after("nb15-46a", "nb15-46b", "code", '''
by_path = [kit_tasks.kit_tasks("train")["video_questions_by_path"].draw(keyed_rng(tasks.SEED, i)) for i in range(96)]
written = generation.generated_texts(model, params, by_path, shape=FILM | {"target_length": 32})
for example, text in list(zip(by_path, written, strict=True))[:4]:
    print(f"{example.prompt.removeprefix('Answer in en: '):50} {example.answer:38} -> {text}")
step_by_step = scores.last_names(written, by_path)
places = [
    [a == b for a, b in zip((text.split(" ; ") + [""] * 5)[:4], example.answer.split(" ; ")[:4], strict=True)]
    for text, example in zip(written, by_path, strict=True)
]
claim("four frames, step by step: share of right positions", np.mean(places), want=0, tol=0)
claim("four frames, step by step: share of right answers", step_by_step.mean(), want=0, tol=0)
''')
nb.replace("nb15-42", "example_builders.FRAMES, keyed_rng(tasks.SEED, i))", "example_builders.FRAMES, keyed_rng(tasks.SEED, i), pace=example_builders.PACE)")
nb.save()
