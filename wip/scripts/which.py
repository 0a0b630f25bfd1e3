"""which.py SAVE: in prompts with two exemplars, whose name is written: the query's or the other's? And with k pictures alone?"""
import sys, numpy as np, jax
from kitlib.multimodal import stages, generation, objectives
from kitlib.multimodal.kit_data import kit_data
from kitlib.synthetic import episodes
from kitlib.data import keyed_rng
from kitlib.models import palix
import orbax.checkpoint as ocp
c=stages.released_config(); m=palix.PaLIX(c)
with ocp.PyTreeCheckpointer() as ck: p=ck.restore(sys.argv[1]+"/state")["params"]
d=kit_data("train"); ex=[]; own=[]; other=[]; single=[]
for i in range(96):
    rng=keyed_rng(993,i); rows=rng.choice(d.object_rows,2,replace=False)
    e=episodes.episode([d.drawing(r,rng) for r in rows],2,2,rng,words=episodes.nonsense(2))
    own.append(d.emoji.names["en"][rows[e.query_kind]]); other.append(d.emoji.names["en"][rows[1-e.query_kind]])
    ex.append(objectives.made_up_words(e, first=(own[-1],"en"))); single.append(objectives.naming(e.query, own[-1], "en"))
tx=generation.generated_texts(m,p,ex); f=[t.split(" ; ")[0] for t in tx]
st=generation.generated_texts(m,p,single)
print("few-shot: own", np.mean([a==b for a,b in zip(f,own)]), "other", np.mean([a==b for a,b in zip(f,other)]), "single: own", np.mean([a==b for a,b in zip(st,own)]))
w=[t.split(" ; ")[-1] for t in tx]; true=[e.answer.split(" ; ")[-1] for e in ex]
print("word right", np.mean([a==b for a,b in zip(w,true)]), "copied", np.mean([a in " ".join(e.prompt).split() for a,e in zip(w,ex)]))
