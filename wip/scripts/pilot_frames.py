"""pilot10.py NAME STEPS PEAK SCALE ROWS: films by path alone, from all's save 1000"""
import sys, time, numpy as np, jax, jax.numpy as jnp
from pathlib import Path
from kitlib.layers import visual_positions as vp
name, steps, peak, SC, rows = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
def call(self, tokens):
    n=tokens.shape[1]; sc=jnp.where(jnp.arange(16)>0, SC, 1.0)[:n][::-1,None]
    return tokens + vp.positions(self.row_embedding, self.column_embedding, self.of_images(n)*sc).astype(tokens.dtype)[None]
if SC!=1: vp.VisualPositions.__call__=call
from kitlib.multimodal import stages, kit_tasks, generation
from kitlib.models import palix
from kitlib.data import keyed_rng
import orbax.checkpoint as ocp
with ocp.PyTreeCheckpointer() as ck: params=ck.restore("build/palix_s/all/saves/1000/state")["params"]
c=stages.released_config(); m=palix.PaLIX(c)
st=stages.Stage({"film":{"video_questions_by_path":1},"name":stages.NAMES}, {"film":rows,"name":6}, steps, peak)
state, step, batches = stages.start_stage(st, params, c, Path(f"build/pilots/{name}"), 11)
hist=[]; t=time.time()
def test(p):
    ex=[kit_tasks.kit_tasks("train")["video_questions_by_path"].draw(keyed_rng(992,i)) for i in range(64)]
    tx=generation.generated_texts(m,p,ex)
    P=[[(a.split(" ; ")+[""]*5)[:5],e.answer.split(" ; ")] for a,e in zip(tx,ex)]
    M=np.array([[[a[s]==b[f] for f in range(4)] for s in range(4)] for a,b in P]).mean(0)
    print(name,"slot x frame\n",M.round(2),"answer",np.mean([a[4]==b[4] for a,b in P]),[(e.answer,a) for a,e in zip(tx,ex)][:3],flush=True)
for i in range(steps):
    state, mm = step(state, next(batches)); hist.append({k:float(v) for k,v in mm.items() if "loss" in k or "accuracy" in k})
    if i%25==24: print(name, i+1, round(time.time()-t), " ".join(f"{k} {np.mean([h[k] for h in hist[-25:]]):.3f}" for k in hist[0] if k!="loss"), flush=True)
    if i%125==124: test(jax.device_get(state.params))
