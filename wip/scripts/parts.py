import jax, numpy as np, sys, itertools
from pathlib import Path
from kitlib.multimodal import stages, generation
from kitlib.multimodal.kit_tasks import kit_tasks
from kitlib.data import keyed_rng
from kitlib.models import palix, weights
h=np.load("wip/shots_history.npz")
for k in ("again/loss","four/loss","pair/loss","name/loss","quiz/loss","film/loss","said/loss"):
    v=h[k]; print(k,[round(float(v[i:i+50].mean()),3) for i in (0,50,100,200,300,400,500,600,700,800,950)])
m=palix.PaLIX(stages.released_config()); p=weights.load(Path("wip/shots.safetensors"), jax.eval_shape(lambda: palix.init_params(m)))
for task,n in (("two_exemplars_by_name",3),("four_exemplars_by_name",5),("made_up_words_by_name",5)):
    ex=[kit_tasks("train")[task].draw(keyed_rng(5,i)) for i in range(96)]
    said=generation.generated_texts(m,p,ex,shape={"num_images":n,"prompt_length":16,"target_length":72,"image_size":64})
    N=np.zeros(n);W=np.zeros(n);F=[]
    ok=[]
    for e,s in zip(ex,said):
        t=[q.rpartition(" ")[::2] for q in e.answer.split(" ; ")]; g=([q.rpartition(" ")[::2] for q in s.split(" ; ")]+[("","")]*n)[:n]
        nr=[a[0]==b[0] for a,b in zip(t,g)]; wr=[a[1]==b[1] for a,b in zip(t,g)]
        N+=nr;W+=wr; allb=all(nr) and all(wr[:-1]); ok.append((allb,wr[-1]))
    print(task,"names",(N/96).round(2),"words",(W/96).round(2),"pairs",np.mean([len(s.split(" ; ")) for s in said]), "all before right",np.mean([a for a,_ in ok]),"then last", np.mean([b for a,b in ok if a]))
ex=[kit_tasks("train")["repeated_pairs"].draw(keyed_rng(5,i)) for i in range(3)]
