"""bindtest.py SAVE_OR_FILE: exemplars step by step: names and words right by slot; films by kind of answer."""
import sys, numpy as np, jax
from kitlib.multimodal import stages, generation
from kitlib.multimodal.kit_tasks import kit_tasks
from kitlib.data import keyed_rng
from kitlib.models import weights, palix
c=stages.released_config(); m=palix.PaLIX(c)
if sys.argv[1].endswith("safetensors"): p=weights.load(sys.argv[1], jax.eval_shape(lambda: palix.init_params(m)))
else:
    import orbax.checkpoint as ocp
    with ocp.PyTreeCheckpointer() as ck: p=ck.restore(sys.argv[1]+"/state")["params"]
for name, split in (("two_exemplars","train"),("four_exemplars","train"),("made_up_words","train"),("made_up_words_by_name","train"),("video_questions","train"),("video_questions_by_path","train")):
    t=kit_tasks(split)[name]; ex=[t.draw(keyed_rng(992,i)) for i in range(64)]
    tx=generation.generated_texts(m,p,ex)
    S=lambda a:a.split(" ; ")
    pairs=[(S(a),S(e.answer),e) for a,e in zip(tx,ex)]
    dire=[x[-1]==y[-1] for x,y,e in pairs if len(y)==1]; chain=[(x,y) for x,y,e in pairs if len(y)>1]
    out=f"{name:24} direct {np.mean(dire or [0]):.2f} ({len(dire)}) chain {np.mean([x[-1]==y[-1] for x,y in chain] or [0]):.2f} ({len(chain)})"
    if chain:
        L=min(len(y) for _,y in chain); out+=" by step "+str(np.mean([[ (x+['']*20)[i]==y[i] for i in range(L)] for x,y in chain],0).round(2))
    if "exemplar" in name or "made" in name:
        out+=f" copied {np.mean([x[-1] in ' '.join(e.prompt).split() for x,y,e in pairs]):.2f}"
    print(out, [(e.answer,a) for a,e in zip(tx,ex)][:3], flush=True)
