"""Ctrl-C: how soon the program ends, and what is left of what was reached."""

import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing
from equifed._algorithm import apart, loop
from equifed._interrupt import uninterrupted


# What a program waits for when the signal comes is said by its argument.
PROGRAM = """
import os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
import jax, jax.random as jr, numpy as np, optax
import equifed as eqf
from equifed import testing

class Stalls(eqf.data.AbstractSampler):
    seed: int = 0

    def __call__(self, round, num_clients):
        if round >= 2:
            # Told a little later: the rounds before it are to be over by then.
            threading.Timer(0.3, os.write, (1, b"stalled\\n")).start()
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


# What is left after an interrupt, wherever it comes.


@pytest.fixture(autouse=True)
def listens_to_interrupts():
    """Tests that were started in the background of a shell ignore them."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


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
        after.append(jax.tree.map(jnp.copy, state.model))
    return after


def train(num_rounds=6, **kwargs):
    arguments = {"loader": loader_of(), "num_rounds": num_rounds, "key": KEY, **kwargs}
    return eqf.train(ALGORITHM, testing.Linear(), **arguments)


def assert_reached(error, number, models, close=False):
    solution = error.solution
    assert int(solution.state.round) == number
    assert [row["round"] for row in solution.history] == list(range(1, number + 1))
    assert solution.result == eqf.RESULTS.interrupted
    compare = jnp.allclose if close else jnp.array_equal
    assert jax.tree.all(jax.tree.map(compare, solution.model, models[number]))
    (note,) = error.__notes__
    assert f"after round {number} of" in note
    assert f"except {type(error).__name__} as stop: solution = stop.solution" in note


def during_evaluation(monkeypatch):
    trap = Trap(2)
    monkeypatch.setattr("equifed._train.Evaluator.__call__", lambda *a: trap() or {})
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
    assert eqx.tree_equal(state.model, models[6])


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
    monkeypatch.setattr(loop, "map", interrupting, raising=False)
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
    assert eqx.tree_equal(error.state.model, models[3])
    (note,) = error.__notes__
    assert "`except KeyboardInterrupt as stop: state = stop.state`" in note
    with pytest.raises(ValueError, match="This state was used up by the next round"):
        print(states[-1].model)


def test_interrupted_between_ordered_rounds(monkeypatch):
    # Those of one call run one by one, and use up what clients keep.
    algorithm = eqf.Scaffold(testing.noisy_loss, optax.sgd(0.1), BATCHING)
    step, trap = apart._step, Trap(4)

    def trapped(*args):
        trap()
        return step(*args)

    monkeypatch.setattr(apart, "_step", trapped)
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
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state.clients))


def test_interrupted_while_compiling(monkeypatch):
    trap = Trap(1)
    monkeypatch.setattr("equifed._algorithm.loop.compiler_options", trap)
    with pytest.raises(KeyboardInterrupt) as caught:
        train()
    error: Any = caught.value
    assert error.solution.state.round == 0
    assert eqx.tree_equal(error.solution.model, testing.Linear())
    assert "__notes__" not in vars(error)
    trap.count, auto = 1, eqf.Executor(block_size="auto")
    with pytest.raises(KeyboardInterrupt) as caught:
        next(run(executor=auto))
    assert caught.value.state.round == 0  # pyright: ignore


def test_interrupted_while_ordered_rounds_compile(monkeypatch):
    # They compile within the first call, and Ctrl-C waits for the end of that.
    clients = apart._clients

    def interrupting(*args):
        signal.raise_signal(signal.SIGINT)  # Once, as it is traced.
        return clients(*args)

    monkeypatch.setattr(apart, "_clients", interrupting)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(executor=eqf.Executor(ordered=True))
    error: Any = caught.value
    assert error.solution.state.round == 1
    assert jnp.isfinite(error.solution.model.weight).all()


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
