"""Ctrl-C: how soon the program ends, and what is left of what was reached."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

import equifed as eqf


# What a program waits for when the signal comes is said by its argument.
PROGRAM = """
import sys, threading
import jax, jax.random as jr, numpy as np, optax
import equifed as eqf
from equifed import testing

class Stalls(eqf.data.AbstractSampler):
    seed: int = 0

    def __call__(self, round, num_clients):
        if round >= 2:
            # Told a little later: the rounds before it are to be over by then.
            threading.Timer(0.3, print, ("stalled",), {"flush": True}).start()
            threading.Event().wait()
        return np.arange(2)

    def max_clients(self, num_clients):
        return 2

batching = eqf.data.Epochs(1, batch_size=4)
dataset = testing.ragged_clients((4, 4))
algorithm = eqf.FedAvg(testing.noisy_loss, optax.sgd(0.1), batching)
loader = lambda: eqf.data.Loader(dataset, Stalls(), batching)
state = algorithm.init(testing.Linear(), num_clients=2)
rounds = lambda: eqf.rounds(algorithm, state, loader(), num_rounds=9, key=jr.key(0))
if sys.argv[1] == "interrupted":
    kept = [loader().cohorts() for _ in range(4)]
    for cohorts in kept:
        next(cohorts)
    eqf.train(algorithm, testing.Linear(), loader(), num_rounds=9, key=jr.key(0))
else:
    for state, _ in rounds():
        if state.round == 2:
            break
"""


@pytest.mark.parametrize("what", ("interrupted", "left"))
def test_stalled_reads_keep_nobody(what, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, script, what],
        cwd=pathlib.Path(eqf.__file__).parents[1],
        env={**os.environ, "PYTHONPATH": "."},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            if what == "interrupted":
                assert process.stdout is not None
                for _ in range(5):  # The reads of five loaders.
                    assert process.stdout.readline() == "stalled\n"
                process.send_signal(signal.SIGINT)
            # It takes half a second; a busy machine may take more.
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    if what == "interrupted":
        assert process.returncode == -signal.SIGINT
        assert err.rstrip().endswith("KeyboardInterrupt")
    else:
        assert process.returncode == 0, err
