"""pilot4.py NAME START PEAK STEPS RATIO SEED all mix two : episodes whose texts may name their things"""
import sys, time, numpy as np, jax, functools
from pathlib import Path
from kitlib.multimodal import stages, kit_tasks, objectives
from kitlib.multimodal.kit_data import kit_data, pick
from kitlib.multimodal.tasks import Task
from kitlib.synthetic import episodes
from kitlib.models import weights, palix
name, start, peak, steps, ratio, seed = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6])
W=dict(zip(("all","mix","two"), map(int, sys.argv[7:10])))
data=kit_data("train")
from kitlib.data import tokenizer
T=tokenizer.multilingual()
WORDS=[w for w in data.more_words if w.isascii() and w.islower() and 3<=len(w)<=7 and len(T.encode(" "+w))<=3]
print(len(WORDS), "words", flush=True)
def ep(rng, p, skip):
    rng.random(skip)
    rows=rng.choice(data.object_rows,2,replace=False); cut=[data.drawing(r,rng) for r in rows]
    words=[WORDS[i] for i in rng.choice(len(WORDS),2,replace=False)]
    order=rng.permutation(2); q=int(rng.integers(2))
    imgs=[episodes._render(cut[i],(14,28),rng) for i in [*order,q]]
    kinds=[rows[i] for i in [*order,q]]
    qs=[f"what is {data.emoji.names['en'][k]}?" if rng.random()<p else "what is this?" for k in kinds]
    return objectives.episodic_vqa(imgs, qs, [words[i] for i in [*order,q]], "en")
tasks=dict(kit_tasks.kit_tasks("train"))
for k,p in (("all",1.0),("mix",.5),("two",0.)): tasks[k]=Task(k, functools.partial(ep,p=p,skip=int(p*4)))
stages.kit_tasks=lambda split: tasks
stages.SHAPES=stages.SHAPES|{k:(3,24,5) for k in W}; stages.RATIO=ratio
c = stages.released_config(); params = weights.load(start, jax.eval_shape(lambda: palix.init_params(palix.PaLIX(c))))
w={k:{k:1} for k in W if W[k]} | {"name":stages.NAMES}; rows={k:W[k] for k in W if W[k]}|{"name":8}
st=stages.Stage(w, rows, steps, peak)
state, step, batches = stages.start_stage(st, params, c, Path(f"build/pilots/{name}"), seed)
hist=[]; t=time.time()
for i in range(steps):
    state, m = step(state, next(batches)); hist.append({k:float(v) for k,v in m.items() if "loss" in k or "accuracy" in k})
    if i%20==19:
        print(name, i+1, round(time.time()-t), " ".join(f"{k} {np.mean([h[k] for h in hist[-20:]]):.3f}" for k in hist[0] if k!="loss" and ("loss" in k or "name" not in k)), flush=True)
    if i%100==99: weights.save(f"build/pilots/{name}.safetensors", jax.device_get(state.params))
