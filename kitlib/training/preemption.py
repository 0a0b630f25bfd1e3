"""Preemption: clusters that take a machine away send SIGTERM, and some seconds later SIGKILL.

    with Watch(every=50) as watch:
        ...
        if watch.asked(step): ...                   # save, then raise Preempted

A checkpoint of several processes needs all of them, and the signal may reach only one. So all have to agree, every
few steps; a process alone looks after every step.
"""

import signal
import threading

import jax

from kitlib.parallel import processes


class Preempted(SystemExit):
    """The run was asked to end; saved: its state is kept. Ends a program with the status that SIGTERM gives, 143."""

    def __init__(self, step: int, *, saved: bool):
        self.step = step
        print(f"Asked to end (SIGTERM) at step {step}; " + ("saved, the same command goes on." if saved else "lost."))
        super().__init__(128 + signal.SIGTERM)


class Watch:
    """Notices SIGTERM inside its `with` block, instead of dying of it. every: steps between two agreements of several
    processes. Signals reach only the main thread; in others, it notices nothing."""

    def __init__(self, every: int):
        self.every, self.received, self.old = every, False, None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self.old = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *_):
        if self.old is not None:
            signal.signal(signal.SIGTERM, self.old)

    def _receive(self, *_):
        self.received = True

    def asked(self, step: int) -> bool:
        """Whether any process has been asked to end, after `step` steps; the same answer on all of them."""
        if jax.process_count() == 1:
            return self.received
        return step % self.every == 0 and any(processes.gather_json(self.received))
