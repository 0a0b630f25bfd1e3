import os
import signal
import threading

import jax.numpy as jnp
import optax
import pytest

from kitlib import data
from kitlib.data import image_batches
from kitlib.training import checkpoints, loop, optim


def test_the_signal_is_noticed_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with loop.Watch(every=10) as watch:
        assert not watch.asked(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert watch.asked(2)
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_another_thread_nothing_is_noticed():
    found = []

    def watched():
        with loop.Watch(every=1) as watch:
            found.append(watch.asked(1))

    thread = threading.Thread(target=watched)
    thread.start()
    thread.join()
    assert found == [False]


def test_a_run_that_is_asked_to_end_saves_and_goes_on_later(tmp_path, capsys):
    tx, folder = optim.assemble(optax.identity(), 0.1), tmp_path / "run"
    step = loop.make_step(lambda params, batch, key: (jnp.sum(params["p"] ** 2), {}), tx)

    def run(num_steps, step):
        read = image_batches.batches(data.load("fashion_mnist")[:64], 16)
        state = loop.init_state({"p": jnp.ones(2)}, tx)
        return loop.fit(step, state, read, num_steps, checkpoint_dir=folder, save_every=100)

    def signal_at(moment):
        def step_and_signal(state, batch):
            if int(state.step) == moment:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(state, batch)

        return step_and_signal

    with pytest.raises(loop.Preempted) as ended:
        run(10, signal_at(3))
    assert ended.value.step == 4 == max(checkpoints.whole_steps(folder)) and ended.value.code == 143
    state, history = run(10, step)
    assert int(state.step) == 10 and len(history["loss"]) == 10
    (folder / "10.sha256").unlink()  # killed between checkpoint and hashes: the run goes on from step 4
    with pytest.raises(loop.Preempted) as ended:
        run(20, signal_at(6))
    assert ended.value.step == 7 == max(checkpoints.whole_steps(folder)) and "; saved," in capsys.readouterr().out
    loop.Preempted(8, saved=False)
    assert "at step 8; lost" in capsys.readouterr().out
