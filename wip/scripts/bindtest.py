"""bindtest.py SAVE_OR_FILE: two_exemplars on fresh episodes: exact, one of the two words, by control."""
import sys, numpy as np, jax, dataclasses
from kitlib.multimodal import stages, generation, tasks, objectives
from kitlib.multimodal.kit_tasks import kit_tasks
from kitlib.data import keyed_rng
from kitlib.models import weights, palix
c=stages.released_config(); m=palix.PaLIX(c)
like=jax.eval_shape(lambda: palix.init_params(m))
if sys.argv[1].endswith("safetensors"): p=weights.load(sys.argv[1], like)
else:
    import orbax.checkpoint as ocp
    with ocp.PyTreeCheckpointer() as ck: s=ck.restore(sys.argv[1]+"/state")
    print(list(s)); p=s["params"]
for name in ("two_exemplars","four_exemplars","recall_by_picture","made_up_words","recall"):
    t=kit_tasks("train")[name]; ex=[t.draw(keyed_rng(992,i)) for i in range(64)]
    tx=generation.generated_texts(m,p,ex)
    last=[x.split(" ; ")[-1] for x in tx]; true=[e.answer.split(" ; ")[-1] for e in ex]
    first=[x.split(" ; ")[0]==e.answer.split(" ; ")[0] for x,e in zip(tx,ex) if ";" in e.answer]
    words=[" ".join(e.prompt) if isinstance(e.prompt,tuple) else e.prompt for e in ex]
    print(f"{name:20} right {np.mean([a==b for a,b in zip(last,true)]):.2f} by-name {np.mean([a==b for a,b,e in zip(last,true,ex) if ';' in e.answer] or [0]):.2f} copied {np.mean([a in w.split() for a,w in zip(last,words)]):.2f} name {np.mean(first or [0]):.2f}", list(zip(true,tx))[:4], flush=True)
