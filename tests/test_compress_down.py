"""Compressed changes of the model, from the server to the clients."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import equifed as eqf
import equifed.compress as eqc
from equifed import testing


BATCHING = eqf.data.Epochs(1, batch_size=4)
DATA = testing.ragged_clients((5, 3, 6, 8))
KEY, SGD = jr.key(0), optax.sgd(0.1)
PARAMS = 4 * 32  # three weights and a bias


def fedavg():
    return eqf.FedAvg(testing.noisy_loss, SGD, BATCHING, aggregator=eqf.UniformMean())


def run(algorithm, sampler, num_rounds):
    loader = eqf.data.Loader(DATA, sampler, BATCHING)
    arguments = {"num_rounds": num_rounds, "key": KEY, "logger": eqf.NoLogger()}
    return eqf.train(algorithm, testing.Linear(), loader, **arguments)


def test_what_loses_nothing_changes_nothing():
    class Inner(eqf.AbstractAlgorithm):
        """FedAvg with the key that a wrapper leaves to it."""

        loss: Callable
        batching: eqf.data.AbstractBatching
        inner: eqf.FedAvg

        def begin(self, params, *, num_clients, key):
            return self.inner.begin(params, num_clients=num_clients, key=key)

        def step(self, state, clients, *, key):
            return self.inner.step(state, clients, key=jr.split(key)[0])

        def model(self, state):
            return state.model

    everyone = eqf.data.AllClients()
    plain = run(Inner(testing.noisy_loss, BATCHING, fedavg()), everyone, 3)
    whole = run(eqf.CompressDown(fedavg(), eqc.TopK(1.0)), everyone, 3)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
        plain.model,
        whole.model,
    )
    assert [r["bits_up"] for r in plain.history] == [
        r["bits_up"] for r in whole.history
    ]


def test_who_was_away_is_sent_what_was_missed():
    sampler = eqf.data.UniformSampler(2, seed=1)
    history = run(eqf.CompressDown(fedavg(), eqc.Sign()), sampler, 8).history
    # A sign for each of the three weights and a scale; the bias, and its scale.
    message = (3 + 32) + (1 + 32)
    last, expected = {}, []
    for r in range(8):
        bits = 0
        for client in sampler(r, 4).tolist():
            missed = r - last[client] if client in last else PARAMS
            bits += min(PARAMS, missed * message)
            last[client] = r
        expected.append(bits)
    assert [row["bits_down"] for row in history] == expected
    assert len(set(expected)) > 2


def test_what_a_message_loses_is_in_a_later_one():
    # One number of four is sent in a round, and the server's model is reached.
    target = np.array([3.0, -2.0, 0.5, 1.0], np.float32)

    def loss(x, example, key):
        return jnp.sum((x - target) ** 2) / 2 + 0 * example["y"]

    algorithm = eqf.CompressDown(
        eqf.FedAvg(loss, optax.sgd(0.2), BATCHING), eqc.TopK(0.25)
    )
    loader = eqf.data.Loader(DATA, eqf.data.AllClients(), BATCHING)
    solution = eqf.train(
        algorithm,
        jnp.zeros(4),
        loader,
        num_rounds=60,
        key=KEY,
        logger=eqf.NoLogger(),
        rounds_per_call=20,
    )
    np.testing.assert_allclose(solution.model, target, atol=1e-3)


def test_symbols_are_counted_coded_too():
    # 40 signs a round, of which the metrics tell nothing: they are read off the model.
    size, everyone = 40, [0, 1, 2, 3]
    target = np.linspace(-1, 2, size, dtype=np.float32)

    def loss(x, example, key):
        return jnp.sum((x - target * (1 + example["y"])) ** 2) / 2

    algorithm = eqf.CompressDown(
        eqf.FedAvg(loss, optax.sgd(0.2), BATCHING, aggregator=eqf.UniformMean()),
        eqc.Sign(),
    )
    state = algorithm.init(jnp.zeros(size), num_clients=4)
    owed = {name: np.full(4, 32.0 * size) for name in ("", "_entropy", "_arithmetic")}
    for clients in ([0, 1], [0], [0], [1, 2], everyone, [3], [0, 3], everyone):
        cohort = eqf.data.cohort(DATA, BATCHING, clients=clients)
        before = np.asarray(state.model)
        state, metrics = algorithm.round(state, cohort, key=KEY)
        for name, bits in owed.items():
            got = float(metrics["bits_down" + name])
            np.testing.assert_allclose(got, bits[clients].sum(), rtol=1e-6)
        up = int((np.asarray(state.model) > before).sum())
        entropy = sum(n * np.log2(size / n) for n in (up, size - up) if n)
        arithmetic = float(eqc.arithmetic_bits(jnp.asarray([up, size - up])))
        message = {"": size, "_entropy": entropy, "_arithmetic": arithmetic}
        for name, bits in owed.items():
            bits[clients] = 0
            # A scale goes along, and the model itself is never longer.
            bits[:] = np.minimum(bits + message[name] + 32, 32 * size)
    assert len({float(bits[0]) for bits in owed.values()}) == 3


def test_a_round_that_is_rejected_sends_no_message():
    def loss(x, example, key):
        return jnp.sum(x * example["y"] * jnp.where(x[0] > 0, jnp.nan, 1.0))

    algorithm = eqf.CompressDown(eqf.FedAvg(loss, SGD, BATCHING), eqc.Sign())
    state = algorithm.init(jnp.full(40, -1.0), num_clients=4)
    cohort = eqf.data.cohort(DATA, BATCHING, clients=[0])
    state, _ = algorithm.round(state, cohort, key=KEY)
    bad = dataclasses.replace(state, params=state.params.at[0].set(1.0))
    bad, _ = algorithm.round(bad, cohort, key=KEY)
    bad = dataclasses.replace(bad, params=state.params)
    _, metrics = algorithm.round(bad, cohort, key=KEY)
    assert int(metrics["bits_down"]) == 40 + 32
