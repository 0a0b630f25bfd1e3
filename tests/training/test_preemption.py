import os
import signal
import threading

import jax.numpy as jnp
import optax
import pytest

from kitlib import data
from kitlib.data import image_batches
from kitlib.training import checkpoints, loop, optim, preemption


def test_the_signal_is_noticed_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with preemption.Watch(every=10) as watch:
        assert not watch.asked(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert watch.asked(2)
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_another_thread_nothing_is_noticed():
    found = []

    def run():
        with preemption.Watch(every=1) as watch:
            found.append(watch.asked(1))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]


def test_the_status_is_that_of_the_signal(capsys):
    assert preemption.Preempted(7, saved=True).code == 143
    assert preemption.Preempted(8, saved=False).step == 8
    assert capsys.readouterr().out.splitlines() == [
        "Asked to end (SIGTERM) at step 7; saved, the same command goes on.",
        "Asked to end (SIGTERM) at step 8; lost.",
    ]


def test_a_run_that_is_asked_to_end_saves_and_goes_on_later(tmp_path):
    tx = optim.assemble(optax.identity(), 0.1)

    def loss(params, batch, key):
        return jnp.sum(params["p"] ** 2), {}

    step = loop.make_step(loss, tx)

    def run(num_steps, step):
        read = image_batches.batches(data.load("fashion_mnist")[:64], 16)
        state = loop.init_state({"p": jnp.ones(2)}, tx)
        return loop.fit(step, state, read, num_steps, checkpoint_dir=tmp_path / "run", save_every=100)

    def step_and_signal(state, batch):
        if int(state.step) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(state, batch)

    with pytest.raises(preemption.Preempted) as ended:
        run(10, step_and_signal)
    assert ended.value.step == 4 == checkpoints.Saver(tmp_path / "run").latest
    state, history = run(10, step)
    assert int(state.step) == 10 and len(history["loss"]) == 10
