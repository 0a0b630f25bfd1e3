"""finish.py: what stages.main does after the training, from the files of the stages in $STAGES. Run in the checkout."""
import os
from pathlib import Path
import jax, numpy as np
from kitlib.data import files
from kitlib.models import palix, weights
from kitlib.multimodal import interpolation, stages
from kitlib.multimodal.kit_scores import TASKS
from kitlib.multimodal.tasks import scorecard
folder = Path(os.environ.get("STAGES", "build/palix_s"))
model = palix.PaLIX(stages.released_config())
like = jax.eval_shape(lambda: palix.init_params(model))
made = {n: weights.load(folder / f"{n}.safetensors", like) for n in (stages.BEFORE, stages.AFTER)}
histories = {n: dict(np.load(folder / f"{n}_history.npz")) for n in ("ocr", *stages.STAGES)}
asked = [task for task in TASKS if task.name in (interpolation.LEARNED, *interpolation.FORGOTTEN)]
between = interpolation.scores_between(model, made[stages.BEFORE], made[stages.AFTER], asked)
print(between.to_string(), interpolation.share_chosen(between), flush=True)
path = files.writable("data/checkpoints/palix_s.safetensors")
weights.save(path, interpolation.interpolate(made[stages.BEFORE], made[stages.AFTER], interpolation.share_chosen(between)))
table = scorecard(*stages.released(), TASKS, count=300)
stages.write_scores(path, table, between, stages.loss_curves(histories), 0)
print("scorecard"); print(table.to_string(index=False, float_format="{:.3f}".format))
