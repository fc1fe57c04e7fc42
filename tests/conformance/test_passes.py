"""Methods of more than one pass or more than one model, and those that change with the
round, against their papers' pseudo-code in NumPy: the same quadratics as in
`test_papers.py`.
"""

from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing

from .test_papers import (
    A,
    B,
    BATCHING,
    check,
    COHORTS,
    ETA,
    local,
    N,
    PROBLEM,
    SAMPLER,
    STEPS,
)


def mime(beta, *, lite, rate=1.0, most=np.inf):
    x, m = [3.0], 0.0
    for cohort in COHORTS:
        full = np.mean([A[i] * (x[-1] - B[i]) for i in cohort])
        ends = []
        for i in cohort:
            y = x[-1]
            for _ in range(STEPS[i]):
                g = A[i] * (y - B[i])
                if not lite:
                    g += full - A[i] * (x[-1] - B[i])
                y -= ETA * (beta * m + (1 - beta) * g)
            ends.append(y)
        m = beta * m + (1 - beta) * full
        changes = np.clip(np.subtract(ends, x[-1]), -most, most)
        x.append(x[-1] + rate * float(np.mean(changes)))
    return x


@pytest.mark.parametrize("kind", (eqf.Mime, eqf.MimeLite))
def test_mime(kind):
    momentum = optax.chain(optax.ema(0.8, debias=False), optax.sgd(ETA))
    check(lambda f, b: kind(f, momentum, b), mime(0.8, lite=kind is eqf.MimeLite))


@pytest.mark.parametrize("kind", (eqf.Mime, eqf.MimeLite))
def test_mime_with_changes_that_are_clipped(kind):
    # As FedJAX has it: the changes, not the gradients of the first pass.
    momentum = optax.chain(optax.ema(0.8, debias=False), optax.sgd(ETA))
    rate, most = 0.5, 0.3

    def make(f, b):
        return kind(
            f,
            momentum,
            b,
            server_learning_rate=rate,
            aggregator=eqf.Clip(eqf.UniformMean(), max_norm=most),
            gradient_aggregator=eqf.UniformMean(),
        )

    expected = mime(0.8, lite=kind is eqf.MimeLite, rate=rate, most=most)
    assert not np.allclose(expected, mime(0.8, lite=kind is eqf.MimeLite, rate=rate))
    check(make, expected)


def test_mime_with_plain_sgd_reaches_the_optimum_and_mimelite_is_fedavg():
    last = testing.run(
        lambda f, b: eqf.Mime(f, optax.sgd(ETA), b), PROBLEM, num_rounds=60
    )[-1]
    assert abs(last - PROBLEM.optimum(weighted=False)) < 1e-5
    uniform = eqf.UniformMean()
    runs = [
        testing.run(make, PROBLEM, num_rounds=5)
        for make in (
            lambda f, b: eqf.MimeLite(f, optax.sgd(ETA), b),
            lambda f, b: eqf.FedAvg(f, optax.sgd(ETA), b, aggregator=uniform),
        )
    ]
    np.testing.assert_allclose(*runs, rtol=1e-6)


def test_mimes_optimiser_sees_the_gradient_of_all_examples():
    # `Steps` visits a part of them, and the first pass goes over all.
    losses = testing.Quadratics((1.0, 3.0), (2.0, -1.0), (7, 3))
    state = {}

    def make(f, b):
        return eqf.MimeLite(f, optax.sgd(0.0, momentum=0.5), b)

    batching = eqf.data.Steps(1, batch_size=2)
    algorithm = make(testing.quadratic_loss, batching)
    state = algorithm.init(testing.Point(3.0), num_clients=2)
    cohort = eqf.data.cohort(losses.dataset(), batching)
    state, _ = algorithm.round(state, cohort, key=jr.key(0))
    expected = np.mean([1.0 * (3 - 2), 3.0 * (3 + 1)])
    np.testing.assert_allclose(state.server[0].trace.x, expected, rtol=1e-6)


def test_fedsam():
    rho, x = 0.3, [3.0]
    for cohort in COHORTS:
        deltas = []
        for i in cohort:
            y = x[-1]
            for _ in range(STEPS[i]):
                up = y + rho * np.sign(A[i] * (y - B[i]))
                y -= ETA * A[i] * (up - B[i])
            deltas.append(y - x[-1])
        x.append(x[-1] + (N[cohort] * deltas).sum() / N[cohort].sum())
    check(lambda f, b: eqf.FedSAM(f, optax.sgd(ETA), b, rho=rho), x)


def test_the_norm_of_sharpness_is_that_of_all_leaves():
    def loss(model, example, key):
        return (model["a"] ** 2).sum() / 2 + model["b"] ** 2

    batching = eqf.data.Steps(1, batch_size=1)
    dataset = eqf.data.FederatedDataset.from_mapping({"0": {"x": np.ones(1)}})
    start = {"a": jnp.array([3.0, 0.0]), "b": jnp.array(2.0)}
    algorithm = eqf.FedSAM(loss, optax.sgd(1.0), batching, rho=1.0)
    state = algorithm.init(start, num_clients=1)
    state, _ = algorithm.round(state, eqf.data.cohort(dataset, batching), key=jr.key(0))
    # The gradient is (3, 0, 4), of length 5.
    np.testing.assert_allclose(state.model["a"], [3 - 3.6, 0], atol=1e-6)
    np.testing.assert_allclose(state.model["b"], 2 - 2 * 2.8, rtol=1e-6)


def test_fedexp():
    eps, x = 0.01, [3.0]
    rates = []
    for cohort in COHORTS:
        deltas = np.array([local(i, x[-1])[0] - x[-1] for i in cohort])
        rate = (deltas**2).sum() / (2 * len(cohort) * (deltas.mean() ** 2 + eps))
        rates.append(max(1, rate))
        x.append(x[-1] + rates[-1] * deltas.mean())
    assert max(rates) > 1.01
    assert min(rates) == 1
    check(lambda f, b: eqf.FedExP(f, optax.sgd(ETA), b, epsilon=eps), x)


def test_power_of_choice():
    x = [3.0]
    for cohort in COHORTS:
        losses = [A[i] * (x[-1] - B[i]) ** 2 / 2 for i in cohort]
        chosen = cohort[int(np.argmax(losses))]
        x.append(local(chosen, x[-1])[0])

    def make(f, b):
        return eqf.PowerOfChoice(eqf.FedAvg(f, optax.sgd(ETA), b), 1)

    check(make, x)


def test_power_of_choice_leaves_the_states_of_others():
    def make(f, b):
        return eqf.PowerOfChoice(eqf.Scaffold(f, optax.sgd(ETA), b), 1)

    algorithm = make(testing.quadratic_loss, BATCHING)
    state = algorithm.init(testing.Point(3.0), num_clients=3)
    cohort = eqf.data.cohort(PROBLEM.dataset(), BATCHING)
    state, metrics = algorithm.round(state, cohort, key=jr.key(0))
    chosen = np.argmax(A * (3 - B) ** 2)
    assert list(np.flatnonzero(state.clients.x)) == [chosen]
    assert metrics["clients"] == 1


def test_among_equals_the_first_is_chosen_and_nan_is_last():
    def loss(model, example, key):
        return (model.x - example["b"]) ** 2 / 2

    rate, batching = 0.25, eqf.data.Epochs(1, batch_size=1)
    dataset = eqf.data.FederatedDataset.from_mapping(
        {i: {"b": np.array([b], np.float32)} for i, b in enumerate((np.nan, 1.0, 5.0))}
    )
    algorithm = eqf.PowerOfChoice(eqf.FedAvg(loss, optax.sgd(rate), batching), 1)
    state = algorithm.init(testing.Point(3.0), num_clients=3)
    for clients in ([0, 1, 2], [2, 1, 0]):
        cohort = eqf.data.cohort(dataset, batching, clients=clients)
        new, _ = algorithm.round(state, cohort, key=jr.key(0))
        np.testing.assert_allclose(new.model.x, 3 - rate * 2, rtol=1e-6)


def test_ifca():
    algorithm = eqf.IFCA(
        testing.quadratic_loss, optax.sgd(ETA), BATCHING, num_clusters=2, spread=2.0
    )
    loader = eqf.data.Loader(PROBLEM.dataset(), eqf.data.AllClients(), BATCHING)
    state = algorithm.init(testing.Point(1.0), num_clients=3, key=jr.key(2))
    x = np.asarray(state.params.x, float)
    assert x[0] != x[1]
    rounds = eqf.rounds(algorithm, state, loader, num_rounds=4, key=jr.key(0))
    for state, metrics in rounds:  # noqa: B020
        ends, counts = [[], []], np.zeros(2)
        for i in range(3):
            best = int(np.argmin(A[i] * (x - B[i]) ** 2))
            ends[best].append(local(i, x[best])[0])
            counts[best] += 1
        x = np.array([np.mean(e) if e else y for e, y in zip(ends, x, strict=True)])
        np.testing.assert_allclose(state.params.x, x, rtol=2e-5)
        np.testing.assert_array_equal(metrics["clusters"], counts)
    assert [float(m.x) for m in algorithm.models(state)] == list(state.params.x)
    with pytest.raises(ValueError, match="needs a key, got None"):
        algorithm.init(testing.Point(1.0), num_clients=3)
    other = eqf.IFCA(testing.quadratic_loss, optax.sgd(ETA), BATCHING, num_clusters=3)
    with pytest.raises(ValueError, match="The state is not of 3 models"):
        other.models(state)
    with pytest.raises(ValueError, match="The state is not of 3 models"):
        other.round(state, loader(0), key=jr.key(0))


def test_hyp_cluster():
    # With momentum at the server: that of a model that nobody picked waits too.
    beta, rate = 0.5, 0.8
    algorithm = eqf.HypCluster(
        testing.quadratic_loss,
        optax.sgd(ETA),
        BATCHING,
        num_clusters=2,
        spread=2.0,
        server_optim=optax.sgd(rate, momentum=beta),
    )
    state = algorithm.init(testing.Point(1.0), num_clients=3, key=jr.key(2))
    x, m = np.asarray(state.params.x, float), np.zeros(2)
    unpicked = 0
    loader = eqf.data.Loader(PROBLEM.dataset(), SAMPLER, BATCHING)
    for r, cohort in enumerate(COHORTS):
        deltas, weights = np.zeros(2), np.zeros(2)
        for i in cohort:
            j = int(np.argmin(A[i] * (x - B[i]) ** 2))
            deltas[j] += N[i] * (local(i, x[j])[0] - x[j])
            weights[j] += N[i]
        for j in np.flatnonzero(weights):
            m[j] = beta * m[j] + deltas[j] / weights[j]
            x[j] += rate * m[j]
        unpicked += int((weights == 0).sum())
        state, _ = algorithm.round(state, loader(r), key=jr.key(0))
        np.testing.assert_allclose(state.params.x, x, rtol=2e-5)
        np.testing.assert_allclose(state.server[0].trace.x, -m, rtol=2e-5)
    assert unpicked > 0


def test_one_cluster_is_fedavg():
    def only_one(f, b):
        kwargs = {"num_clusters": 1, "spread": 0.0, "server_optim": optax.adam(0.1)}
        return eqf.HypCluster(f, optax.sgd(ETA), b, **kwargs)

    algorithms = (
        only_one(testing.quadratic_loss, BATCHING),
        eqf.FedAvg(
            testing.quadratic_loss,
            optax.sgd(ETA),
            BATCHING,
            server_optim=optax.adam(0.1),
        ),
    )
    cohort = eqf.data.cohort(PROBLEM.dataset(), BATCHING)
    ends = []
    for algorithm in algorithms:
        state = algorithm.init(testing.Point(3.0), num_clients=3, key=jr.key(0))
        for _ in range(4):
            state, _ = algorithm.round(state, cohort, key=jr.key(0))
        ends.append(state.params.x.reshape(()))
    np.testing.assert_allclose(*ends, rtol=1e-6)


def test_several_models_are_not_evaluated_as_one():
    algorithm = eqf.IFCA(
        testing.quadratic_loss, optax.sgd(ETA), BATCHING, num_clusters=2
    )
    dataset = PROBLEM.dataset()
    loader = eqf.data.Loader(dataset, eqf.data.AllClients(), BATCHING)
    arguments = {"num_rounds": 2, "key": jr.key(0)}
    with pytest.raises(ValueError, match="trains several models"):
        eqf.train(
            algorithm,
            testing.Point(1.0),
            loader,
            evaluation={"test": dataset},
            **arguments,
        )
    solution = eqf.train(algorithm, testing.Point(1.0), loader, **arguments)
    assert solution.model is None
    assert len(algorithm.models(solution.state)) == 2
    assert solution.history[-1]["clusters"].sum() == 3


def test_numbers_over_rounds():
    x = [3.0]
    for t, cohort in enumerate(COHORTS):
        eta, mu, start, ends = ETA * 0.7**t, 1 / (1 + t), x[-1], []
        for i in cohort:
            y = start
            for _ in range(STEPS[i]):
                y -= eta * (A[i] * (y - B[i]) + mu * (y - start))
            ends.append(y)
        x.append((N[cohort] * ends).sum() / N[cohort].sum())
    decay: Any = optax.exponential_decay(ETA, transition_steps=1, decay_rate=0.7)
    check(
        lambda f, b: eqf.OverRounds(
            lambda t: eqf.FedProx(f, optax.sgd(decay(t)), b, mu=1 / (1 + t))
        ),
        x,
    )


def test_a_client_knows_its_round():
    class Counts(eqf.AbstractClient):
        loss: object
        batching: eqf.data.AbstractBatching

        def payload(self, params):
            return params

        def init(self, params):
            return None

        def round(self, broadcast, data, state, *, key):
            one = testing.Point(data.round.astype(float))
            return eqf.Message(one, data.weight), state, {"loss": eqf.Average(1.0)}

    server = eqf.OptaxServer(optax.sgd(1.0))

    def make(f, b):
        return eqf.Algorithm(Counts(f, b), eqf.UniformMean(), server)

    check(make, np.cumsum([3, *range(len(COHORTS))]))
