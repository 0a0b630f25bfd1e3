"""Several processes, one program: every process sees all devices and runs the same code on its own part of the data.

    processes.start()                                       # SLURM, Open MPI, Cloud TPU, Kubernetes: found out
    processes.start("10.0.0.1:1234", count=2, index=0)      # or said: the address of process 0, how many, which one

    processes.simulate(8)                                   # on a laptop: eight devices of the CPU, in one process

Call these before anything else touches a device. On CPUs, processes talk through gloo.

Built in notebooks/16_from_laptop_to_pod.ipynb.
"""

import json
import os

import jax
import numpy as np

from kitlib.configs.arguments import whole


def simulate(num_devices: int) -> None:
    """Makes this many devices of the CPU, to try out meshes on any machine. Raises RuntimeError if devices exist.

    They share its cores, so that nothing becomes faster. Raises ValueError for fewer than one.
    """
    whole("The number of simulated devices", num_devices, 1)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", num_devices)
    _enough_threads(num_devices)


def _enough_threads(num_devices: int) -> None:
    """Prevents XLA's CPU devices from waiting for each other forever.

    Every collective of every device holds a thread until all devices have come to it. XLA starts as many threads as
    there are cores or devices, so two collectives under way at once, of one program or of two, can hold them all.
    """
    os.environ["NPROC"] = str(max(32, 4 * num_devices))  # read by XLA: the number of threads
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # one program at a time


HEARTBEAT = 30  # seconds without a sign of life after which a process counts as dead, and the job ends


def start(address: str | None = None, *, count: int | None = None, index: int | None = None) -> None:
    """Connects this process with the others. Raises ValueError unless all three are given, or none and a cluster is
    found; ConnectionError if the others do not come or have another count."""
    given = [address is not None, count is not None, index is not None]
    if any(given) and not all(given):
        raise ValueError(
            "Several processes need all three of the address of process 0 (host:port), their count and the index of "
            f"this one; got address={address}, count={count}, index={index}."
        )
    if all(given):
        whole("The index of this process", index, 0, whole("The number of processes", count, 1) - 1)
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise ValueError(f"The address of process 0 is {address!r}; expected host:port, such as 10.0.0.1:1234.")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    _enough_threads(jax.config.jax_num_cpu_devices or 1)
    try:
        jax.distributed.initialize(
            address, count, index, initialization_timeout=120, heartbeat_timeout_seconds=HEARTBEAT
        )
    except (ValueError, RuntimeError) as error:
        if not any(given):
            raise ValueError(
                "No cluster was found (SLURM, Open MPI, Cloud TPU, Kubernetes). Give the address of process 0, the "
                "number of processes and the index of this one (kit train: --address, --processes, --index). "
                f"JAX says: {error}"
            ) from None
        raise ConnectionError(
            f"Process {index} of {count} could not join {address}: start all {count} with the same address and count, "
            f"and an index of their own. ({str(error).splitlines()[0]})"
        ) from None


def gather_json(value) -> list:
    """The values of all processes, in their order; any JSON value. All processes must call this."""
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    longest = int(multihost_utils.process_allgather(np.array([len(data)])).max())
    padded = np.pad(data, (0, longest - len(data)), constant_values=ord(" "))
    return [json.loads(row.tobytes()) for row in np.asarray(multihost_utils.process_allgather(padded))]


def own_rows(batch, count: int | None = None, index: int | None = None):
    """This process's rows of a batch that every process has read whole: a tree of [B, ...] -> [B / P, ...].

    Raises ValueError for a batch that does not divide among the P processes.
    """
    count, index = count or jax.process_count(), jax.process_index() if index is None else index

    def cut(x):
        if len(x) % count:
            raise ValueError(f"A batch of {len(x)} does not divide among {count} processes.")
        rows = len(x) // count
        return x[index * rows : (index + 1) * rows]

    return jax.tree.map(cut, batch)
