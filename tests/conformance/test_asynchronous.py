"""Asynchronous methods against their papers' pseudo-code: a plain loop over events.

In the loop three clients work, each for its own while; whoever is done is put in a
buffer, and begins anew, from the model that there is then, when the buffer is empty
again. The quadratics are those of `test_papers.py`. What arrived, and how stale it was,
is what the compiled rounds are given.
"""

import dataclasses
import heapq

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing

from .test_papers import BATCHING, ETA, local, PROBLEM


ROUNDS, RATE, START = 8, 0.4, 3.0
WHILE = (1.0, 2.3, 7.1)


def events(server, buffer_size):
    """The plain loop.

    **Returns:**

    The server's `x` after each version, and each buffer's clients and staleness. The
    `server` makes the next `x` from the present one and a buffer of clients, the
    models they began from, and their staleness.
    """
    x, version, tape, buffer = [START], 0, [], []
    flying = [(WHILE[i], i, 0) for i in range(3)]
    heapq.heapify(flying)
    while version < ROUNDS:
        now, i, began = heapq.heappop(flying)
        buffer.append((i, x[began], version - began))
        if len(buffer) == buffer_size:
            x.append(server(x[-1], buffer))
            tape.append(([i for i, *_ in buffer], [age for *_, age in buffer]))
            version += 1
            for i, *_ in buffer:
                heapq.heappush(flying, (now + WHILE[i], i, version))
            buffer = []
    return x, tape


class Played(eqf.data.AbstractSampler):
    """The clients of a tape."""

    tape: tuple
    seed: int = 0

    def __call__(self, round, num_clients):
        return np.asarray(self.tape[round][0])

    def max_clients(self, num_clients):
        return num_clients  # Of every tape: they share the shape of a cohort.


def loader_of(tape, batching=BATCHING):
    def info(round, clients):
        assert clients.tolist() == tape[round][0]
        return {"staleness": np.asarray(tape[round][1], np.int32)}

    frozen = tuple((tuple(clients), tuple(ages)) for clients, ages in tape)
    return eqf.data.Loader(PROBLEM.dataset(), Played(tape=frozen), batching, info=info)


def run(make, tape):
    algorithm = make(testing.quadratic_loss, BATCHING)
    state = algorithm.init(testing.Point(START), num_clients=3)
    x, metrics = [START], []
    for state, found in eqf.rounds(  # noqa: B020
        algorithm, state, loader_of(tape), num_rounds=len(tape), key=jr.key(0)
    ):
        x.append(float(state.model.x))
        metrics.append(found)
    return x, metrics


def check(make, server, buffer_size=2):
    expected, tape = events(server, buffer_size)
    ages = [age for _, buffer in tape for age in buffer]
    assert max(ages) > 1
    got, metrics = run(lambda f, b: make(f, b, max(ages)), tape)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)
    for found, (_, buffer) in zip(metrics, tape, strict=True):
        assert float(found["staleness"]) == pytest.approx(np.mean(buffer))
        assert float(found["too_stale"]) == 0


SGD = optax.sgd(ETA)
WEIGHTS = {
    "constant": (eqf.ConstantStaleness(), lambda t: 1.0),
    "polynomial": (eqf.PolynomialStaleness(0.7), lambda t: (1 + t) ** -0.7),
    "hinge": (
        eqf.HingeStaleness(3.0, 1.0),
        lambda t: 1.0 if t <= 1 else 1 / (3 * (t - 1) + 1),
    ),
}


def fedbuff(weight=lambda t: 1 / np.sqrt(1 + t)):
    """Algorithm 1, with the weights of the experiments."""

    def server(x, buffer):
        total = 0.0
        for i, began, age in buffer:
            total += weight(age) * (local(i, began)[0] - began)
        return x + RATE * total / len(buffer)

    return server


def test_fedbuff():
    rate = optax.sgd(RATE)
    check(
        lambda f, b, most: eqf.FedBuff(
            f, SGD, b, max_staleness=most, server_optim=rate
        ),
        fedbuff(),
    )


@pytest.mark.parametrize("name", WEIGHTS)
def test_fedasync(name):
    weight, plain = WEIGHTS[name]
    alpha, mu = 0.6, 0.3

    def server(x, buffer):
        ((i, began, age),) = buffer
        new, _ = local(i, began, correct=lambda y: mu * (y - began))
        share = alpha * plain(age)
        return (1 - share) * x + share * new

    check(
        lambda f, b, most: eqf.FedAsync(
            f, SGD, b, max_staleness=most, alpha=alpha, weight=weight, mu=mu
        ),
        server,
        buffer_size=1,
    )


def test_ca2fl():
    cache = np.zeros(3)

    def server(x, buffer):
        mean, news = cache.mean(), []
        for i, began, _ in buffer:
            delta = local(i, began)[0] - began
            news.append(delta - cache[i])
            cache[i] = delta
        return x + RATE * float(mean + np.mean(news))

    rate = optax.sgd(RATE)
    check(
        lambda f, b, most: eqf.CA2FL(f, SGD, b, max_staleness=most, server_optim=rate),
        server,
    )


@pytest.mark.parametrize("threshold", (None, 1.0))
def test_fadas(threshold):
    b1, b2, epsilon, rate = 0.6, 0.8, 0.05, 0.45
    m = v = top = 0.0
    late = []

    def server(x, buffer):
        nonlocal m, v, top
        delta = np.mean([local(i, began)[0] - began for i, began, _ in buffer])
        m, v = b1 * m + (1 - b1) * delta, b2 * v + (1 - b2) * delta**2
        top, most = max(top, v), max(age for *_, age in buffer)
        eta = rate
        if threshold is not None and most > threshold:
            eta = min(rate, 1 / most)
            late.append(eta < rate)
        return float(x + eta * m / (np.sqrt(top) + epsilon))

    check(
        lambda f, b, most: eqf.FADAS(
            *(f, SGD, b),
            max_staleness=most,
            server_learning_rate=rate,
            b1=b1,
            b2=b2,
            epsilon=epsilon,
            threshold=threshold,
        ),
        server,
    )
    assert any(late) == (threshold is not None)


def test_around_any_of_one_pass():
    rate = optax.sgd(RATE)
    mean = eqf.UniformMean()
    check(
        lambda f, b, most: eqf.Asynchronous(
            eqf.FedAvg(f, SGD, b, server_optim=rate, aggregator=mean),
            max_staleness=most,
        ),
        fedbuff(lambda t: 1.0),
    )


def test_nothing_stale_is_the_method_without():
    tape = [([0, 2], [0, 0]), ([1, 2], [0, 0]), ([0, 1], [0, 0])]
    got, _ = run(lambda f, b: eqf.FedBuff(f, SGD, b, max_staleness=2), tape)
    mean = eqf.UniformMean()
    expected, _ = run(lambda f, b: eqf.FedAvg(f, SGD, b, aggregator=mean), tape)
    assert got == expected


def test_what_is_too_stale_is_dropped_and_counted():
    # Of version -1 nobody began, and of what is older than the ring nothing is kept.
    tape = [([0, 1], [0, 1]), ([0, 1], [1, 0]), ([2], [0]), ([0, 1], [3, 1])]
    usable = [([0], [0]), ([0, 1], [1, 0]), ([2], [0]), ([1], [1])]

    def make(f, b):
        return eqf.FedBuff(f, SGD, b, max_staleness=2)

    got, metrics = run(make, tape)
    expected, others = run(make, usable)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert [float(m["too_stale"]) for m in metrics] == [1, 0, 0, 1]
    for m, other in zip(metrics, others, strict=True):
        assert float(m["clients"]) == float(other["clients"])
        assert int(m["bits_up"]) == int(other["bits_up"])
        assert int(m["bits_down"]) == int(other["bits_down"])


def test_one_model_is_sent_down_however_many_are_kept():
    tape = [([0, 1], [0, 0])]
    for most in (2, 5):
        _, (metrics,) = run(
            lambda f, b, most=most: eqf.FedBuff(f, SGD, b, max_staleness=most), tape
        )
        assert int(metrics["bits_down"]) == 2 * 32


def test_a_rejected_round_is_a_version():
    """Whoever began before it is sent what was there then."""
    algorithm = eqf.FedBuff(testing.quadratic_loss, SGD, BATCHING, max_staleness=2)
    tape = [([0, 1], [0, 0]), ([1, 2], [0, 0]), ([0, 1], [0, 0]), ([0, 2], [2, 1])]
    tape.append(([0, 2, 1], [2, 1, 0]))
    loader = loader_of(tape)
    states = [algorithm.init(testing.Point(START), num_clients=3)]
    rejected = (1, 3)
    for r in range(len(tape)):
        cohort = loader(r)
        if r in rejected:  # what is learnt of it is not finite
            cohort = eqx.tree_at(
                lambda c: c.examples, cohort, replace_fn=lambda e: poisoned(e)
            )
        state, metrics = algorithm.round(states[-1], cohort, key=jr.key(0))
        assert float(metrics["nonfinite_model"]) == (r in rejected)
        states.append(state)
    x = [float(s.model.x) for s in states]
    assert x[1] == x[2]
    assert x[3] == x[4]
    expected = fedbuff_step(x[4], [(0, x[2], 2), (2, x[3], 1), (1, x[4], 0)])
    np.testing.assert_allclose(x[5], expected, rtol=2e-5)


def poisoned(examples):
    return {
        name: jnp.full_like(x, jnp.nan) if x.dtype.kind == "f" else x
        for name, x in examples.items()
    }


def fedbuff_step(x, buffer):
    deltas = [
        (local(i, began)[0] - began) / np.sqrt(1 + age) for i, began, age in buffer
    ]
    return x + np.mean(deltas)


def test_delays_and_numbers_are_swept_over():
    """The staleness is data: many tapes of the same cohorts are one program."""
    rng = np.random.default_rng(0)

    def tape():
        return [([0, 1, 2], rng.integers(0, r + 1, 3).tolist()) for r in range(3)]

    played = [[loader_of(t)(r) for r in range(3)] for t in (tape(), tape())]

    def final(a, ages):
        algorithm = eqf.FedBuff(
            *(testing.quadratic_loss, SGD, BATCHING),
            max_staleness=2,
            weight=eqf.PolynomialStaleness(a),
        )
        state = algorithm.init(testing.Point(START), num_clients=3)
        for cohort, staleness in zip(played[0], ages, strict=True):
            cohort = dataclasses.replace(cohort, info={"staleness": staleness})
            state, _ = algorithm.round(state, cohort, key=jr.key(0))
        return state.model.x

    powers = jnp.array([0.5, 2.0])
    ages = [[c.info["staleness"] for c in tape] for tape in played]
    together = eqx.filter_vmap(final)(powers, jnp.asarray(ages))
    alone = [final(*one) for one in zip(powers, ages, strict=True)]
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-5)
    assert alone[0] != alone[1]


def test_what_is_personal_is_todays():
    """Only what is shared was downloaded."""
    algorithm = eqf.FedBuff(testing.noisy_loss, SGD, BATCHING, max_staleness=1)
    model = testing.Linear()
    roles = eqf.roles(model, personal=lambda m: m.bias)
    data = testing.ragged_clients((5, 3))
    cohort = eqf.data.cohort(data, BATCHING)
    states = [algorithm.init(model, num_clients=2, roles=roles)]
    for age in (0, 1):
        info = {"staleness": jnp.full((1, 2), age, jnp.int32)}
        cohort = dataclasses.replace(cohort, info=info)
        states.append(algorithm.round(states[-1], cohort, key=jr.key(0))[0])
    first, middle, last = states
    # The second round is that of clients who have learnt their biases, and are sent
    # the first model.
    sent = dataclasses.replace(middle, params=first.params)
    info = {"staleness": jnp.zeros((1, 2), jnp.int32)}
    cohort = dataclasses.replace(cohort, info=info)
    expected, _ = algorithm.round(sent, cohort, key=jr.key(0))
    bias = lambda s: np.asarray(s.clients.personal.bias)  # noqa: E731
    np.testing.assert_allclose(bias(last), bias(expected), rtol=1e-6)
    assert (bias(middle) != bias(last)).all()
