import jax, numpy as np, time
from pathlib import Path
from kitlib.multimodal import stages, generation
from kitlib.multimodal.kit_scores import TASKS
from kitlib.models import palix, weights
m=palix.PaLIX(stages.released_config()); p=weights.load(Path("wip/shots.safetensors"), jax.eval_shape(lambda: palix.init_params(m)))
for n in ("4-shot, new words, by way of English","4-shot, new words","4-shot, new words, unseen objects, by way of English","captions, de","captions, zh","counting","detection, with absent kinds"):
    t={t.name:t for t in TASKS}[n]; ex=t.examples(100); t0=time.time()
    said=generation.generated_texts(m,p,ex); print(n, float(np.mean(t.metric(said,ex))), f"{time.time()-t0:.0f}s", [(e.answer,s) for e,s in zip(ex,said)][:2], flush=True)
