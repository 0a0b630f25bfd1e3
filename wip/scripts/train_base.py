import sys, time, numpy as np, jax
from pathlib import Path
from kitlib.multimodal import stages
from kitlib.models import weights, palix
name = sys.argv[1]; folder = Path("build/palix_s"); 
c = stages.released_config(); params = palix.init_params(palix.PaLIX(c), 0)
order = list(stages.STAGES); n = order.index(name)
if n == 0: params = params | {"tower": weights.load(folder/"tower.safetensors", jax.eval_shape(lambda: palix.init_params(palix.PaLIX(c)))["tower"])}
else: params = weights.load(folder/f"{order[n-1]}.safetensors", params)
t=time.time()
p, h = stages.train_stage(stages.STAGES[name], params, c, folder/name, name=name, seed=1000*(n+1))
weights.save(folder/f"{name}.safetensors", p); np.savez(folder/f"{name}_history.npz", **h)
print("done", time.time()-t)
