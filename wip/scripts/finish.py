"""finish.py: writes palix_s.safetensors, .csv, palix_s_losses.csv and checksums as stages.main does, from stage files. Run in the checkout."""
import os, sys, time
from pathlib import Path
import jax, numpy as np
from kitlib.data import files
from kitlib.models import palix, weights
from kitlib.multimodal import stages
from kitlib.multimodal.kit_scores import TASKS
from kitlib.multimodal.tasks import scorecard
folder = Path(os.environ.get("STAGES", "build/palix_s")); seed = 0
path = files.writable("data/checkpoints/palix_s.safetensors")
params = weights.load(folder / "look.safetensors", jax.eval_shape(lambda: palix.init_params(palix.PaLIX(stages.released_config()))))
histories = {n: dict(np.load(folder / f"{n}_history.npz")) for n in ("ocr", "base", "bind", "all", "weak", "shots", "words", "look")}
weights.save(path, params)
t = time.time(); table = scorecard(*stages.released(), TASKS, count=300); print("scorecard", time.time() - t)
steps = {"ocr": stages.OCR["steps"]} | {n: s.steps for n, s in stages.STAGES.items()}
made = f"# kit train palix_s: seed {seed}, steps {steps}; kit bench palix measures how long they take\n"
made += f"# jax {jax.__version__}, {os.cpu_count()} CPU cores\n"
explained = "# 95 % intervals over examples: Wilson's for shares, bootstrap for other scores\n# blind: grey pictures; shuffled: the next example's pictures\n"
tables = {path.with_suffix(".csv"): made + explained + table.to_csv(index=False, float_format="%.4f"),
          path.with_name("palix_s_losses.csv"): made + stages.loss_curves(histories).to_csv(index=False, float_format="%.4f")}
for file, text in tables.items(): files.write_text(file, text)
for file in (path, *tables): files.note_checksum(file)
print(table.to_string(index=False, float_format="{:.3f}".format))
