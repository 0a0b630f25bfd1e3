"""pilot_recall.py STEPS PEAK ROWS: how soon is looking up a word in a text learned, if nothing else is asked?"""
import sys, time, numpy as np, jax
from pathlib import Path
from kitlib.multimodal import stages, features, generation
from kitlib.multimodal.kit_tasks import kit_tasks
from kitlib.models import weights, palix
from kitlib.data import keyed_rng
from kitlib.multimodal import exemplar_builders as eb, objectives
from kitlib.multimodal.tasks import Task
def easy(data, rng):
    rows = rng.choice(data.object_rows, 2, replace=False)
    names = [data.emoji.names["en"][r] for r in rows]
    if names[0] == names[1]: return easy(data, rng)
    words = [data.short_words[i] for i in rng.choice(len(data.short_words), 2, replace=False)]
    return objectives.recall(names, words, rng.integers(2), "en")
eb.recall = easy
steps, peak, rows = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
stages.SHAPES = stages.SHAPES | {"text": (0, 36, 6)}
c = stages.released_config(); m = palix.PaLIX(c)
p = weights.load(Path("build/palix_s/all.safetensors"), jax.eval_shape(lambda: palix.init_params(m)))
def test(p, tag):
    for name in ("recall",):
        t = kit_tasks("train")[name]; ex = [t.draw(keyed_rng(993, i)) for i in range(96)]
        tx = generation.generated_texts(m, p, ex)
        right = np.mean([a == e.answer for a, e in zip(tx, ex)]); copied = np.mean([a in e.prompt for a, e in zip(tx, ex)])
        print(tag, name, f"right {right:.2f} copied {copied:.2f}", [(e.prompt, e.answer, a) for a, e in zip(tx, ex)][:2], flush=True)
test(p, "before")
st = stages.Stage({"text": {"recall": 1}}, {"text": rows}, steps, peak)
import tempfile
state, step, batches = stages.start_stage(st, p, c, Path(tempfile.mkdtemp()), 7)
t0 = time.time()
key = jax.random.key(0)
from kitlib.training import loop
done = 0; hist = []
while done < steps:
    n = min(200, steps - done)
    done += n; state, h = loop.fit(step, state, batches, done)
    print(done, f"{time.time()-t0:.0f}s", {k: round(float(np.mean(v[-100:])), 3) for k, v in h.items() if "loss" in k or "acc" in k}, flush=True)
    if done % 300 == 0 or done == steps: test(state.params, done)
