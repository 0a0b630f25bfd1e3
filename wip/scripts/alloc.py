"""alloc.py FOLDER STEPS [STAGE]: steps of a stage with this process's allocator; prints seconds per step and the peak of memory."""
import os, statistics, sys, time
from pathlib import Path
import jax
from kitlib.models import palix
from kitlib.multimodal import stages
folder, steps, name = Path(sys.argv[1]), int(sys.argv[2]), (sys.argv + ["words"])[3]
config = stages.released_config()
params = palix.init_params(palix.PaLIX(config))
state, step, batches = stages.start_stage(stages.STAGES[name], params, config, folder / name)
times = []
for i in range(steps):
    batch = next(batches); t = time.perf_counter()
    state, m = step(state, batch); jax.block_until_ready(m)
    times.append(time.perf_counter() - t)
usage = os.times()
peak = [l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM")][0]
rss = [l.split()[1] for l in open("/proc/self/status") if l.startswith("VmRSS")][0]
print(f"{os.environ.get('GLIBC_TUNABLES','unset')[-80:]}: median {statistics.median(times[3:]):.2f} s, mean {statistics.mean(times[3:]):.2f} s, peak {int(peak)/1e6:.1f} GB, now {int(rss)/1e6:.1f} GB, user {usage.user:.0f} s, system {usage.system:.0f} s", flush=True)
