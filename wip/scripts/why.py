import numpy as np, jax
from kitlib.multimodal import stages, generation, objectives, kit_scores
from kitlib.multimodal.kit_tasks import kit_tasks
from kitlib.data import keyed_rng, captioned
from kitlib.models import weights, palix
from kitlib.multimodal.held_out import BY_TEXT, by_text_alone
from kitlib.multimodal.kit_data import object_rows
c=stages.released_config(); m=palix.PaLIX(c)
p=weights.load("wip/weak.safetensors", jax.eval_shape(lambda: palix.init_params(m)))
t=kit_tasks("test")["receipts"]; ex=[t.draw(keyed_rng(77,i)) for i in range(200)]
tx=generation.generated_texts(m,p,ex); text=np.array(["ocr" in e.prompt.lower() or len(e.prompt)>60 for e in ex]); pt=t.metric(tx,ex)
right=np.array([a==e.answer for a,e in zip(tx,ex)])
copied=np.array([a in e.prompt.split() for a,e in zip(tx,ex)])
print("receipts with text",pt[text].mean(),right[text].mean(),"copied",copied[text].mean(),text.sum(),"without",pt[~text].mean(),right[~text].mean())
print([(e.prompt,e.answer,a) for e,a in zip(ex,tx)][:6])
em=captioned.emoji("train"); rng=keyed_rng(5,5)
pairs=[(i,l) for i in object_rows("train") for l in BY_TEXT]; 
held=[q for q in pairs if by_text_alone(em.codes[q[0]],q[1])]; seen=[q for q in pairs if not by_text_alone(em.codes[q[0]],q[1])]
for tag,group in(("held",held),("seen",seen)):
    some=[group[i] for i in rng.permutation(len(group))[:200]]
    for form in ("direct","first"):
        exs=[objectives.translation(em.names["en"][i],em.names[l][i],l,(em.names["en"][i],"en") if form=="first" else None) for i,l in some]
        out=generation.generated_texts(m,p,exs); print("text",tag,form,np.mean([a==e.answer for a,e in zip(out,exs)]))
h=dict(np.load("wip/weak_history.npz"))
for k in sorted(h):
    if k.endswith("loss"): print(k, [round(float(x.mean()),2) for x in np.array_split(np.asarray(h[k]),12)])
