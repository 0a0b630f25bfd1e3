"""pilot_look.py PEAK STEPS ROWS MODE: text only; names with a word each in the target, then names again with loss on their words"""
import sys, time, numpy as np, jax
from pathlib import Path
from kitlib.multimodal import stages, features, generation, scores, objectives
from kitlib.multimodal.kit_data import kit_data, pick
from kitlib.multimodal.mixture import Mixture
from kitlib.multimodal.mixture_batches import Group
from kitlib.multimodal.prompts import Example
from kitlib.multimodal.tasks import Task
from kitlib.multimodal.objectives import NO_IMAGE
from kitlib.data import tokenizer, keyed_rng
from kitlib.models import palix, weights
from kitlib.synthetic import episodes
from kitlib.training import loop, optim
peak, steps, nrows, tag = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
model, params = stages.released(); params = jax.tree.map(lambda a: np.asarray(a, np.float32), params)
data = kit_data("train"); words = episodes.nonsense()
def look(rng, M=8):
    """names or words with a number or word each in the prompt, as a receipt's text; the target lists some again"""
    K = int(rng.integers(3, 6))
    names = [data.more_words[i] for i in rng.choice(len(data.more_words), K, replace=False)] if rng.integers(2) else [data.scene_names[i] for i in rng.choice(48, K, replace=False)]
    said = [str(int(rng.integers(1, 400))) for _ in names] if rng.integers(2) else [data.short_words[i] for i in rng.choice(len(data.short_words), K, replace=False)]
    listed = " ".join(f"{n} {w}" for n, w in zip(names, said))
    target = []
    for k, i in enumerate(rng.integers(K, size=M)):
        target += [(("" if not k else " ") + names[i], False), (f" {said[i]}", True), (" ;", False)]
    return Example(NO_IMAGE, f"Answer in en: what costs what? OCR: {listed}", tuple(target[:-1]), "vqa")
t = {"look": Task("look", look)}
rows = {"look": nrows}
made = {"look": Group(Mixture(t, {"look": 1}, 7000), nrows, 0, 64, 72)}
tx = optim.assemble(optim.scale_by_muon(stages.RATIO), optim.cosine(peak, steps, warmup=50), clip_norm=1.0, freeze=("tower/",))
step = loop.make_step(palix.loss_of_groups(palix.answer_loss(model), rows), tx)
tower = features.Tower(model.config.tower, params["tower"])
import shutil; shutil.rmtree(f"build/shards_{tag}", ignore_errors=True)
batches = features.batches(made, tokenizer.multilingual(), tower, Path(f"build/shards_{tag}"))
state = loop.init_state(params, tx, 0)
tk = tokenizer.multilingual()
from kitlib.multimodal import batching
ex = [look(keyed_rng(5, i)) for i in range(200)]
print("tokens", np.mean([len(batching.target_tokens(e, tk)[0]) for e in ex]), max(len(batching.target_tokens(e, tk)[0]) for e in ex), "per word", np.mean([len(tk.encode(f" {w}")) for w in words]))
t0 = time.time(); acc = []
for i in range(steps):
    state, found = step(state, next(batches)); acc.append({k: float(v) for k, v in found.items()})
    if (i + 1) % 25 == 0:
        print(i + 1, f"{time.time()-t0:.0f}s", {k: round(float(np.mean([a[k] for a in acc])), 3) for k in acc[0]}, flush=True); acc = []
    if (i + 1) % 200 == 0: weights.save(Path(f"build/pilot_{tag}.safetensors"), jax.device_get(state.params))
