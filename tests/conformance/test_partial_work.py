"""Partial work under a deadline: clients that are too slow take fewer steps, and each
algorithm knows how many. Against NumPy, on the quadratics of `test_papers.py`.
"""

import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
import equifed.clock as eqt
from equifed import testing

from .test_papers import A, B, BATCHING, ETA, N, PROBLEM, STEPS


# Steps of a second, and one second for what is sent: by the deadline there is time for
# 2, 4 and 5 of the 2, 4 and 10 steps.
WORK = eqt.Work(flops=1.0, bits_down=1.0, bits_up=0.0)
SYSTEM = eqt.SystemModel(speed=1.0, downlink=1.0)
CLOCK = eqt.SynchronousClock(SYSTEM, WORK, deadline=6.5, stragglers="partial")
TAKEN, SHARES = np.minimum(STEPS, 5), N / N.sum()
ROUNDS, START, MU = 4, 3.0, 0.7


def local(i, x, correct):
    y = x
    for _ in range(TAKEN[i]):
        y -= ETA * (A[i] * (y - B[i]) + correct(y - x))
    return y


def proximal(change):
    return MU * change


def fedprox():
    x = START
    while True:
        x += sum(p * (local(i, x, proximal) - x) for i, p in enumerate(SHARES))
        yield x


def fednova():
    """The changes of a step, times the mean number of steps."""
    x = START
    while True:
        each = [(local(i, x, lambda y: 0.0) - x) / TAKEN[i] for i in range(3)]
        x += (SHARES @ TAKEN) * (SHARES @ each)
        yield x


def scaffold():
    """Option II: the control variates divide by the steps that were taken."""
    x, c, own = START, 0.0, np.zeros(3)
    while True:
        correction = c - own
        new = np.array(
            [local(i, x, lambda y, c=c: c) for i, c in enumerate(correction)]
        )
        news = own - c + (x - new) / (TAKEN * ETA)
        c, own = c + (news - own).mean(), news
        x += (new - x).mean()
        yield x


METHODS = {
    "FedProx": (lambda *p: eqf.FedProx(*p, mu=MU), fedprox),
    "FedNova": (eqf.FedNova, fednova),
    "Scaffold": (
        lambda *p: eqf.Scaffold(*p, option=2, aggregator=eqf.UniformMean()),
        scaffold,
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_what_is_done_counts_as_what_it_is(name):
    make, by_hand = METHODS[name]
    algorithm = make(testing.quadratic_loss, optax.sgd(ETA), BATCHING)
    sampler = eqf.data.AllClients()
    loader = eqf.data.Loader(PROBLEM.dataset(), sampler, BATCHING, clock=CLOCK)
    assert TAKEN.tolist() == [2, 4, 5]
    state = algorithm.init(testing.Point(START), num_clients=3)
    rounds = eqf.rounds(algorithm, state, loader, num_rounds=ROUNDS, key=jr.key(0))
    for (after, metrics), x in zip(rounds, by_hand(), strict=False):
        assert (metrics["partial"], metrics["late"]) == (1, 0)
        np.testing.assert_allclose(after.model.x, x, rtol=2e-5)
