"""pilot_bind.py: does the model learn to bind from exemplars asked for directly? from palix_s.safetensors (after "weak")"""
import sys, time, functools, numpy as np, jax
from pathlib import Path
from kitlib.multimodal import stages, features, objectives, kit_tasks, generation, scores
from kitlib.multimodal.kit_data import kit_data, pick, SHOTS
from kitlib.multimodal.mixture import Mixture
from kitlib.multimodal.mixture_batches import Group
from kitlib.multimodal.tasks import Task
from kitlib.data import tokenizer, keyed_rng
from kitlib.models import palix, weights
from kitlib.synthetic import episodes
from kitlib.training import loop, optim
peak, steps, tag = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
model, params = stages.released(); params = jax.tree.map(lambda a: np.asarray(a, np.float32), params)
data = kit_data("train")
def two(rng): return objectives.made_up_words(episodes.episode(pick(data.scene_cutouts, rng), 2, 2, rng))
def four(rng): return objectives.made_up_words(episodes.episode(pick(data.scene_cutouts, rng), 2, SHOTS, rng))
t = dict(kit_tasks.kit_tasks("train")) | {"two": Task("two", two), "fours": Task("fours", four)}
rows = {"pair": 24, "four": 6, "name": 8, "quiz": 4}
made = {"pair": Group(Mixture(t, {"two": 1}, 7000), 24, 3, 16, 4), "four": Group(Mixture(t, {"fours": 1}, 7001), 6, 5, 16, 4),
 "name": Group(Mixture(t, stages.NAMES, 7002), 8, *stages.SHAPES["name"]), "quiz": Group(Mixture(t, stages.WEAK["quiz"], 7003), 4, *stages.SHAPES["quiz"])}
tx = optim.assemble(optim.scale_by_muon(stages.RATIO), optim.cosine(peak, steps, warmup=100), clip_norm=1.0, freeze=("tower/",))
step = loop.make_step(palix.loss_of_groups(palix.answer_loss(model), rows), tx)
tower = features.Tower(model.config.tower, params["tower"])
batches = features.batches(made, tokenizer.multilingual(), tower, Path(f"build/shards_{tag}"))
state = loop.init_state(params, tx, 0)
exam = {n: [f(keyed_rng(99, k, i)) for i in range(96)] for k, (n, f) in enumerate((("two", two), ("fours", four)))}
t0 = time.time(); acc = []
for i in range(steps):
    state, found = step(state, next(batches)); acc.append({k: float(v) for k, v in found.items() if k.endswith("loss")})
    if (i + 1) % 25 == 0:
        print(i + 1, f"{time.time()-t0:.0f}s", {k: round(float(np.mean([a[k] for a in acc])), 3) for k in acc[0]}, flush=True); acc = []
    if (i + 1) % 200 == 0:
        for n, ex in exam.items():
            said = generation.generated_texts(model, state.params, ex, batch_size=32, shape={"num_images": len(ex[0].images), "prompt_length": 16, "target_length": 8, "image_size": 64})
            print("   ", n, "right", float(np.mean(scores.exact_matches(said, ex))), "of two", float(np.mean([s in {p.split()[-1] for p in e.prompt[:-1]} for s, e in zip(said, ex)])), flush=True)
        weights.save(Path(f"build/pilot_{tag}.safetensors"), jax.device_get(state.params))
