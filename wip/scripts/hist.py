"""hist.py STAGE: mean of each 50 steps of each loss in the last save."""
import sys, glob, numpy as np
import orbax.checkpoint as ocp
d=sorted(glob.glob(f"build/palix_s/{sys.argv[1]}/saves/*0"), key=lambda p:int(p.split("/")[-1]))[-1]
with ocp.PyTreeCheckpointer() as c: h=c.restore(d+"/history")
n=int(sys.argv[2]) if len(sys.argv)>2 else 50
for k in sorted(h):
    if "/" in k and "loss" in k or "pair/acc" in k or "lookup/acc" in k:
        v=np.asarray(h[k]); print(f"{k:14}", [round(float(v[i:i+n].mean()),2) for i in range(0,len(v),n)])
