"""Linear probes of the tower: names of things by style, letters by size. usage: probes.py tower.safetensors"""
import sys, numpy as np, jax, time
from kitlib import configs
from kitlib.data import keyed_rng, emoji_styles
from kitlib.models import weights, palix
from kitlib.multimodal import features, kit_data, ocr_pretraining, kit_scores
from kitlib.synthetic import rendered_text, drawings, scenes
c=configs.palix("S",text={"vocab_size":4096})
exp=jax.eval_shape(lambda: palix.init_params(palix.PaLIX(c)))["tower"]
T=features.Tower(c.tower, weights.load(sys.argv[1], exp))
rows=kit_data.object_rows("train")
def ridge(X,Y,n,lam=1.0):
    X=np.concatenate([X,np.ones((len(X),1))],1).astype(np.float64); Z=np.eye(n)[Y]
    return np.linalg.solve(X.T@X+lam*np.eye(X.shape[1]), X.T@Z)
def acc(W,X,Y): return float(((np.concatenate([X,np.ones((len(X),1))],1)@W).argmax(1)==Y).mean())
drawn=drawings.cutouts(rows)
def pool(f): f=f.astype(np.float32); return np.concatenate([f.mean(1),f.max(1)],1)
imgs,Y=[],[]
for i in range(len(rows)):
    for k in range(16):
        rng=keyed_rng(3,i,k); imgs.append(kit_data.place_on_background(drawings.varied(kit_data.pick(drawn[i],rng),rng),rng)[0]); Y.append(i)
W=ridge(pool(T.features(np.stack(imgs))),np.array(Y),len(rows))
for style in emoji_styles.STYLES:
    cut=kit_scores._cutouts("train",style); imgs,Y=[],[]
    for i,r in enumerate(rows):
        if r in cut:
            for k in range(2): imgs.append(kit_data.place_on_background(cut[r],keyed_rng(4,i,k))[0]); Y.append(i)
    print("things",style,acc(W,pool(T.features(np.stack(imgs))),np.array(Y)),len(Y))
L=ocr_pretraining.letters(); num={x:i for i,x in enumerate(L)}
def letters(split,n,sizes,seed):
    voc=[w for l,v in rendered_text.words(split).items() if l!="digits" for w in v if 4<=len(w)<=6]; imgs,P,Y,W=[],[],[],[]
    for i in range(n):
        rng=keyed_rng(seed,i); w=voc[rng.integers(len(voc))]
        try: im,t,b=rendered_text.spelled([w],rng,64,sizes)
        except ValueError: continue
        cy=((b[:,0]+b[:,2])/2*8).astype(int).clip(0,7); cx=((b[:,1]+b[:,3])/2*8).astype(int).clip(0,7)
        P.append(cy*8+cx); Y.append([num[x] for x in t]); imgs.append(im)
    f=T.features(np.stack(imgs)).astype(np.float32)
    return np.concatenate([f[i,p] for i,p in enumerate(P)]),np.concatenate(Y),np.concatenate([[i]*len(p) for i,p in enumerate(P)])
X,Y,_=letters("train",6000,(10,20),5); W=ridge(X,Y,len(L))
for s in ((10,10),(12,12),(14,14),(16,16),(18,18),(20,20)):
    x,y,w=letters("test",300,s,6); ok=(np.concatenate([x,np.ones((len(x),1))],1)@W).argmax(1)==y
    print("letters",s,ok.mean(),"whole words",np.mean([ok[w==i].all() for i in set(w)]), len(y))
