import sys, numpy as np, jax
from kitlib.multimodal import stages, generation
from kitlib.multimodal.kit_tasks import kit_tasks
from kitlib.data import keyed_rng
from kitlib.models import weights, palix
c=stages.released_config(); m=palix.PaLIX(c)
p=weights.load(sys.argv[1], jax.eval_shape(lambda: palix.init_params(m)))
for name in sys.argv[2:]:
    t=kit_tasks("train")[name]; ex=[t.draw(keyed_rng(991,i)) for i in range(64)]
    tx=generation.generated_texts(m,p,ex)
    print(name, np.mean([a==e.answer for a,e in zip(tx,ex)]), [(e.prompt,e.answer,a) for e,a in zip(ex[:4],tx)])
