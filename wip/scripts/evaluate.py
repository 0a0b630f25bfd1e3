"""evaluate.py WEIGHTS COUNT PATTERN...: tests of kit_scores without controls."""
import sys, re, time, numpy as np, jax
from kitlib.multimodal import stages, kit_scores, generation, tasks
from kitlib.models import weights, palix
c=stages.released_config(); m=palix.PaLIX(c)
p=weights.load(sys.argv[1], jax.eval_shape(lambda: palix.init_params(m))); n=int(sys.argv[2]); pats=sys.argv[3:]
for t in kit_scores.TASKS:
    if pats and not any(re.match(x,t.name) for x in pats): continue
    s=time.time(); ex=t.examples(n); tx=generation.generated_texts(m,p,ex); 
    print(f"{t.name:45} {len(ex)} {float(np.mean(t.metric(tx,ex))):.3f} {time.time()-s:.0f}s | "+" / ".join(f"{e.answer} -> {x}" for e,x in list(zip(ex,tx))[:4]),flush=True)
