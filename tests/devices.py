"""Code that runs on eight CPU devices, in a process of its own, as the tests have one device."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

HEAD = """
import json, jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from kitlib.parallel import ahead_of_time, mesh, processes, rules
processes.simulate({count})
found = {{}}
"""


def run_on_devices(code: str, count: int = 8) -> dict:
    """The dict `found` that the code fills, on `count` devices."""
    whole = HEAD.format(count=count) + code + "\nprint(json.dumps(found))"
    done = subprocess.run(
        [sys.executable, "-c", whole], capture_output=True, text=True, cwd=Path(__file__).parent, env=environment()
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def environment() -> dict[str, str]:
    """The environment of a process on the CPU, in which warnings are not errors."""
    return os.environ | {"JAX_PLATFORMS": "cpu"}


def free_port() -> int:
    """A port of this machine on which nothing listens."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]
