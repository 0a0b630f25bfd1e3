"""export.py SAVE OUT: parameters of a save as safetensors."""
import sys, jax, orbax.checkpoint as ocp
from kitlib.models import weights
with ocp.PyTreeCheckpointer() as ck: p=ck.restore(sys.argv[1]+"/state")["params"]
weights.save(sys.argv[2], jax.device_get(p))
