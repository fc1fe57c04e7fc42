"""Ctrl-C: how soon the program ends, and what is left of what was reached."""

import functools
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import jax
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing
from equifed._interrupt import uninterrupted
from equifed._round import apart
from equifed._stepper import stepper


# One loop over rounds is left while the next cohort stalls; then four trainings are
# interrupted, of which something else stalls in the third round each time, and the
# program ends by the last interrupt, with all of it stalled still. The signals are sent
# from within: how long the end takes from there does not depend on how busy the machine
# is with the beginning.
PROGRAM = """
import atexit, os, signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
stalled, sent = threading.Semaphore(0), []

@atexit.register  # the first of all, and so called last
def report():
    took("end")

def took(what, *notes):
    print(what, time.monotonic() - sent.pop(), *notes, flush=True)

import datasets, jax, jax.random as jr, numpy as np, optax
import equifed as eqf
from equifed import testing

pipe, _ = os.pipe()

def stall():
    stalled.release()
    # Either Python waits, or the operating system.
    os.read(pipe, 1) if what == "read" else threading.Event().wait()

def interrupt():
    for _ in range(1 + len(kept)):
        stalled.acquire()
    waits.wait()
    time.sleep(0.2)  # the main thread has nothing left to do then but to wait
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)

class Sampler(eqf.data.AbstractSampler):
    seed: int = 0

    def __call__(self, round, num_clients):
        Column.stalls = what == "read" and round >= 2
        if what == "sampler" and round >= 2:
            stall()
        return np.arange(2)

    def max_clients(self, num_clients):
        return 2

class Column(eqf.data.ChunkedColumn):
    stalls = False

    def __getitem__(self, rows):
        if self.stalls:
            stall()
        return super().__getitem__(rows)

# A client is known to be complete by the next one, a table by the next row, and one
# client is in the buffer: so two rounds of two clients are made before these stall.
eqf.data._read.stream.BATCH = 6

def rows():
    for client in range(20):
        if what == "stream" and client == 7:
            stall()
        for _ in range(3):
            yield {"who": str(client), "x": [0.0, 1.0, 2.0], "y": 1.0}

def transform(client_id, examples):
    if what == "transform" and client_id == "5":
        stall()
    return examples

class Logger(eqf.AbstractLogger):
    def start(self, num_rounds, first_round):
        pass

    def log(self, round, metrics):
        if round == 2:
            waits.set()

    def close(self):
        pass

batching = eqf.data.Epochs(1, batch_size=4)
algorithm = eqf.FedAvg(testing.noisy_loss, optax.sgd(0.1), batching)

def loader():
    if what in ("stream", "transform"):
        stream = datasets.IterableDataset.from_generator(rows)
        clients = eqf.data.ClientStream(stream, by="who", transform=transform)
        return eqf.data.StreamLoader(clients, 2, batching, buffer_size=1)
    dataset = testing.ragged_clients((4, 4))
    dataset.columns["x"] = Column([dataset.columns["x"]])
    return eqf.data.Loader(dataset, Sampler(), batching, resident=what != "read")

what, waits = "sampler", threading.Event()
state = algorithm.init(testing.Linear(), num_clients=2)
for state, _ in eqf.rounds(algorithm, state, loader(), num_rounds=9, key=jr.key(0)):
    if state.round == 2:
        stalled.acquire()
        sent.append(time.monotonic())
        break
took("left")

kept = [loader().cohorts() for _ in range(4)]
for cohorts in kept:
    next(cohorts)
for what in ("sampler", "stream", "transform", "read"):
    waits = threading.Event()
    threading.Thread(target=interrupt, daemon=True).start()
    model, options = testing.Linear(), dict(num_rounds=9, key=jr.key(0))
    try:
        eqf.train(algorithm, model, loader(), logger=Logger(), **options)
    except KeyboardInterrupt as error:
        if what == "read":
            raise
        took(what, *error.__notes__)
    kept = []
"""


def test_stalled_reads_keep_nobody(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, script],
        cwd=pathlib.Path(eqf.__file__).parents[1],
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGINT, done.stderr
    assert "\nKeyboardInterrupt\n" in done.stderr
    assert "after round 2 of 9" in done.stderr
    left, *interrupted, end = [x.split(" ", 2) for x in done.stdout.splitlines()]
    assert [x[0] for x in interrupted] == ["sampler", "stream", "transform"]
    assert all("after round 2 of 9" in notes for *_, notes in interrupted)
    assert (left[0], end[0]) == ("left", "end")
    # It takes half a second; ten on the busiest of machines.
    assert all(0 < float(seconds) < 10 for _, seconds, *_ in (left, *interrupted, end))


# What is left after an interrupt, wherever it comes.


pytestmark = pytest.mark.usefixtures("listens_to_interrupts")
BATCHING = eqf.data.Epochs(1, batch_size=4)
DATASET = testing.ragged_clients((4, 4))
KEY = jr.key(0)


class Stop(Exception):
    """Another error than an interrupt."""


class Trap:
    """Fails at its `count`-th use."""

    def __init__(self, count, error=KeyboardInterrupt):
        self.count, self.error = count, error

    def __call__(self, *_, **__):
        self.count -= 1
        if self.count == 0:
            raise self.error("trapped")


class TrapSampler(eqf.data.AbstractSampler):
    """Fails in a round."""

    round: int = 0
    seed: int = 0

    def __call__(self, round, num_clients):
        if round == self.round:
            raise KeyboardInterrupt
        return np.arange(2)

    def max_clients(self, num_clients):
        return 2


class TrapLogger(eqf.AbstractLogger):
    """Fails at a round."""

    def __init__(self, round):
        self.round = round

    def start(self, num_rounds, first_round):
        pass

    def log(self, round, metrics):
        if round == self.round:
            raise Stop("the disk is full")

    def close(self):
        pass


ALGORITHM = eqf.FedAvg(testing.noisy_loss, optax.sgd(0.1), BATCHING)


def loader_of(sampler=None, **kwargs):
    sampler = eqf.data.AllClients() if sampler is None else sampler
    return eqf.data.Loader(DATASET, sampler, BATCHING, **kwargs)


def begin():
    return ALGORITHM.init(testing.Linear(), num_clients=2)


def run(loader=None, num_rounds=6, **kwargs):
    loader = loader_of() if loader is None else loader
    return eqf.rounds(
        ALGORITHM, begin(), loader, num_rounds=num_rounds, key=KEY, **kwargs
    )


@pytest.fixture(scope="module")
def models():
    """The models after 0, 1, 2, ... rounds, without any interrupt."""
    after = [testing.Linear()]
    for state, _ in run():
        after.append(jax.tree.map(np.array, state.model))
    return after


def train(num_rounds=6, **kwargs):
    arguments = {"loader": loader_of(), "num_rounds": num_rounds, "key": KEY, **kwargs}
    return eqf.train(ALGORITHM, testing.Linear(), **arguments)


def assert_same(x, y, rtol=0.0):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol), x, y)


def assert_reached(error, number, models, close=False):
    solution = error.solution
    assert int(solution.state.round) == number
    assert [row["round"] for row in solution.history] == list(range(1, number + 1))
    assert solution.result == eqf.RESULTS.interrupted
    assert_same(solution.model, models[number], rtol=1e-5 if close else 0)
    (note,) = error.__notes__
    assert f"after round {number} of" in note
    assert f"except {type(error).__name__} as stop: solution = stop.solution" in note


def during_evaluation(monkeypatch):
    trap = Trap(2)
    monkeypatch.setattr(eqf.Evaluator, "__call__", lambda *a: trap() or {})
    return {"evaluation": {"all": DATASET}, "eval_every": 2}


TRAPS = {
    "the sampler, ahead in a thread": lambda _: {"loader": loader_of(TrapSampler(4))},
    "the sampler": lambda _: {"loader": loader_of(TrapSampler(4), prefetch=0)},
    "the logger": lambda _: {"logger": TrapLogger(4)},
    "the evaluation": during_evaluation,
}


@pytest.mark.parametrize("trap", TRAPS)
def test_what_training_had_reached(trap, models, monkeypatch):
    kwargs = TRAPS[trap](monkeypatch)
    with pytest.raises((KeyboardInterrupt, Stop)) as caught:
        train(**kwargs)
    assert_reached(caught.value, 4, models)
    monkeypatch.undo()
    # Which may be gone on from.
    solution = caught.value.solution  # pyright: ignore
    *_, (state, _) = eqf.rounds(
        ALGORITHM, solution.state, loader_of(), num_rounds=6, key=KEY
    )
    assert_same(state.model, models[6])


def test_training_in_calls_of_several_rounds(models, tmp_path):
    with pytest.raises(Stop) as caught:
        train(
            rounds_per_call=3,
            logger=TrapLogger(2),
            checkpointer=eqf.Checkpointer(tmp_path, every=3),
        )
    assert_reached(caught.value, 3, models, close=True)
    assert f"`{tmp_path}` holds the checkpoints" in caught.value.__notes__[0]
    with pytest.raises(KeyboardInterrupt) as caught:
        train(rounds_per_call=3, loader=loader_of(TrapSampler(5)))
    assert_reached(caught.value, 3, models, close=True)


@pytest.mark.parametrize("entry", ("train", "rounds"))
def test_interrupted_while_the_devices_work(entry, models, monkeypatch):
    # The signal comes inside of the compiled call, and Python sees it right after:
    # the old state is used up by then.
    mapped = map

    def interrupting(program, *args):
        def call(*args):
            out = program(*args)
            count[0] += 1
            if count[0] == 3:
                signal.raise_signal(signal.SIGINT)
            return out

        return mapped(call, *args)

    count = [0]
    monkeypatch.setattr(stepper, "map", interrupting, raising=False)
    states = []

    def loop_over_rounds():
        for state, _ in run():
            states.append(state)

    with pytest.raises(KeyboardInterrupt) as caught:
        train() if entry == "train" else loop_over_rounds()
    if entry == "train":
        assert_reached(caught.value, 3, models)
        return
    error: Any = caught.value
    assert_same(error.state.model, models[3])
    (note,) = error.__notes__
    assert "`except KeyboardInterrupt as stop: state = stop.state`" in note
    with pytest.raises(ValueError, match="This state was used up by the next round"):
        print(states[-1].model)


def test_interrupted_between_ordered_rounds(monkeypatch):
    # Those of one call run one by one, and use up what clients keep.
    algorithm = eqf.Scaffold(testing.noisy_loss, optax.sgd(0.1), BATCHING)
    one, trap = apart._pass, Trap(4)

    def trapped(*args):
        trap()
        return one(*args)

    monkeypatch.setattr(apart, "_pass", trapped)
    with pytest.raises(KeyboardInterrupt) as caught:
        eqf.train(
            algorithm,
            testing.Linear(),
            loader_of(),
            num_rounds=4,
            key=KEY,
            executor=eqf.Executor(ordered=True),
            rounds_per_call=2,
            logger=TrapLogger(9),
        )
    state = caught.value.solution.state  # pyright: ignore
    assert state.round == 2
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.clients))


def test_interrupted_while_compiling(models, monkeypatch):
    trap = Trap(1)
    monkeypatch.setattr("equifed._stepper.stepper.compiler_options", trap)
    with pytest.raises(KeyboardInterrupt) as caught:
        train()
    error: Any = caught.value
    assert error.solution.state.round == 0
    assert_same(error.solution.model, models[0])
    assert "__notes__" not in vars(error)
    trap.count, auto = 1, eqf.Executor(block_size="auto")
    with pytest.raises(KeyboardInterrupt) as caught:
        next(run(executor=auto))
    assert caught.value.state.round == 0  # pyright: ignore


def test_interrupted_while_ordered_rounds_compile(monkeypatch):
    # They compile within the first call, and Ctrl-C waits for the end of that.
    clients = apart.clients_of_device

    def interrupting(*args):
        signal.raise_signal(signal.SIGINT)  # Once, as it is traced.
        return clients(*args)

    monkeypatch.setattr(apart, "clients_of_device", interrupting)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(executor=eqf.Executor(ordered=True))
    error: Any = caught.value
    assert error.solution.state.round == 1
    assert np.isfinite(error.solution.model.weight).all()


def test_a_signal_waits_for_the_end_of_the_context():
    seen = []

    def interrupted():
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            seen.append(1)
        seen.append(2)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert seen == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_state_that_was_used_up_says_so():
    kept = []
    for state, _ in run(num_rounds=2):
        kept.append((state, state.model))
    (old, model), (last, _) = kept
    assert last.round == 2
    for use in (
        lambda: old.round,
        lambda: ALGORITHM.round(old, loader_of()(0), key=KEY),
        lambda: eqf.rounds(ALGORITHM, old, loader_of(), num_rounds=3, key=KEY),
        lambda: eqf.train(ALGORITHM, model, loader_of(), num_rounds=1, key=KEY),
        lambda: eqf.evaluate(model, DATASET, testing.noisy_loss),
    ):
        with pytest.raises(ValueError, match="used up by the next.*jnp.copy") as e:
            use()
        assert len(str(e.value)) < 600
    repr(old)
    with pytest.raises(AttributeError, match="A `State` has no `modle`"):
        last.modle  # noqa: B018
