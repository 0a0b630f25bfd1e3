import sys, time, numpy as np, jax
from pathlib import Path
from kitlib import configs
from kitlib.multimodal import ocr_pretraining, stages
from kitlib.models import weights
OCR = {"steps": 12_000, "batch_size": 64, "peak": 2e-3}
SHOWN = ("words", "words", "words", "thing", "scene")
config = configs.palix("S", text={"vocab_size": 4096})
folder = Path("build/palix_s"); folder.mkdir(parents=True, exist_ok=True)
b = ocr_pretraining.labelled_builder("train", SHOWN)
recipe = f"{OCR}, {SHOWN}, {config.tower}, seed 0"
t=time.time()
tower, h = ocr_pretraining.pretrain(config.tower, b, seed=0, recipe=recipe, progress="ocr", checkpoint_dir=folder/"ocr", save_every=500, **OCR)
weights.save(folder/"tower.npz".replace("npz","safetensors"), tower)
np.savez(folder/"ocr_history.npz", **h)
print("done", time.time()-t, h["loss"][-200:].mean(), h["found"][-200:].mean())
