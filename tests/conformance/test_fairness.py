"""Methods that weigh clients by their losses, against their papers' pseudo-code in
NumPy, and where two clients have a fixed point in closed form."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing
from equifed._algorithm.afl import onto_simplex

from ..shared import settled_at
from .test_papers import check, COHORTS, ETA, local, N, PROBLEM


TWO = testing.Quadratics((1.0, 4.0), (0.0, 3.0), (2, 6))
ALL = eqf.data.Epochs(1, batch_size=6)


def losses(x, problem=PROBLEM):
    a, b = np.array(problem.curvatures), np.array(problem.centres)
    return a / 2 * (x - b) ** 2


def last_of(make, num_rounds=300):
    return settled_at(make, TWO, ALL, num_rounds)


def where_losses_are_equal():
    """Between the centres, where the highest loss is lowest."""
    (a, c), (b, d) = TWO.curvatures, TWO.centres
    ratio = np.sqrt(c / a)
    return (b + ratio * d) / (1 + ratio)


# q-FedAvg.


def q_fedavg(q):
    big, x = 1 / ETA, [3.0]
    for cohort in COHORTS:
        deltas, hs = [], []
        for k in cohort:
            # One client's loss is 0 at the start.
            w, f = local(k, x[-1])[0], max(losses(x[-1])[k], 1e-30)
            change = big * (x[-1] - w)
            deltas.append(f**q * change)
            hs.append(q * f ** (q - 1) * change**2 + big * f**q)
        x.append(x[-1] - sum(deltas) / sum(hs))
    return x


@pytest.mark.parametrize("q", (0.0, 0.5, 1.0, 3.0))
def test_q_fedavg(q):
    check(lambda f, b: eqf.QFedAvg(f, ETA, b, q=q), q_fedavg(q))


def test_at_q_0_it_is_fedavg_with_equal_weights():
    x = [3.0]
    for cohort in COHORTS:
        x.append(sum(local(k, x[-1])[0] for k in cohort) / len(cohort))
    np.testing.assert_allclose(q_fedavg(0), x)
    check(lambda f, b: eqf.QFedAvg(f, ETA, b, q=0), x)


@pytest.mark.parametrize("q", (0, 1, 4))
def test_q_ffl_has_its_optimum(q):
    # sum F^q a (x - b) = 0 between two centres.
    (a, c), (b, d) = TWO.curvatures, TWO.centres
    ratio = (c / a) ** ((q + 1) / (2 * q + 1))
    optimum = (b + ratio * d) / (1 + ratio)
    got = last_of(lambda f, b: eqf.QFedAvg(f, 0.2, b, q=float(q)))
    np.testing.assert_allclose(got, optimum, rtol=1e-4)
    # From the mean towards the fairest of all.
    fairest = where_losses_are_equal()
    np.testing.assert_allclose(abs(got - fairest) < 0.1, q == 4)


def test_a_client_that_loses_nothing_does_not_stop_the_others():
    problem = testing.Quadratics((1.0, 4.0), (3.0, -1.0), (2, 6))  # The start is at 3.
    for q in (0.5, 1.0, 2.0):
        got = testing.run(
            lambda f, b: eqf.QFedAvg(f, 0.1, b, q=q),  # noqa: B023
            problem,
            num_rounds=1,
            batching=ALL,
        )[-1]
        f, g = 4 / 2 * 16, 16
        np.testing.assert_allclose(got, 3 - g / (q * g**2 / f + 10), rtol=1e-5)


def negative(model, example, key):
    return testing.quadratic_loss(model, example, key) - 100


def one_round(algorithm, x=3.0, problem=TWO):
    state = algorithm.init(testing.Point(x), num_clients=len(problem))
    cohort = eqf.data.cohort(problem.dataset(), algorithm.batching)
    return algorithm.round(state, cohort, key=jr.key(0))


def test_a_negative_loss_is_found_out():
    _, metrics = one_round(eqf.QFedAvg(negative, 0.1, ALL, q=2.0))
    assert metrics["nonfinite"] == 2
    assert metrics["nonfinite_model"] == 1
    state, metrics = one_round(eqf.QFedAvg(negative, 0.1, ALL, q=0.0))
    assert metrics["nonfinite"] == 0
    assert state.model.x != 3


# TERM.


def term(t):
    x = [3.0]
    for cohort in COHORTS:
        weights = N[cohort] * np.exp(t * losses(x[-1])[cohort])
        deltas = [local(k, x[-1])[0] - x[-1] for k in cohort]
        x.append(x[-1] + np.dot(weights, deltas) / weights.sum())
    return x


@pytest.mark.parametrize("t", (-0.7, 0.0, 0.3, 2.0))
def test_term(t):
    check(lambda f, b: eqf.TERM(f, optax.sgd(ETA), b, t=t), term(t))


def test_at_t_0_it_is_fedavg():
    found = [
        testing.run(make, PROBLEM, num_rounds=3, batching=ALL)
        for make in (
            lambda f, b: eqf.TERM(f, optax.sgd(ETA), b, t=0),
            lambda f, b: eqf.FedAvg(f, optax.sgd(ETA), b),
        )
    ]
    np.testing.assert_allclose(*found, rtol=1e-6)


@pytest.mark.parametrize("t", (-0.05, 0.1, 1.0))
def test_term_has_its_optimum(t):
    got = last_of(lambda f, b: eqf.TERM(f, optax.sgd(0.05), b, t=t))
    grid = np.linspace(0, 3, 300_001)
    f, n = losses(grid[:, None], TWO), np.array(TWO.num_examples)
    objective = np.log((n * np.exp(t * f)).sum(1)) / t
    np.testing.assert_allclose(got, grid[objective.argmin()], atol=1e-4)
    assert 0.1 < got < 2.9


def test_a_large_t_is_the_highest_loss_and_a_very_negative_one_the_lowest():
    # exp(t F) is beyond any number.
    for t, k in ((1e4, 1), (-1e4, 0), (1e12, 1), (-1e12, 0)):
        state, metrics = one_round(
            eqf.TERM(testing.quadratic_loss, optax.sgd(0.1), ALL, t=t), 0.5
        )
        a, b = TWO.curvatures[k], TWO.centres[k]
        np.testing.assert_allclose(state.model.x, 0.5 - 0.1 * a * (0.5 - b), rtol=1e-6)
        assert metrics["clients"] == 1
    got = last_of(lambda f, b: eqf.TERM(f, optax.sgd(0.02), b, t=40.0))
    np.testing.assert_allclose(got, where_losses_are_equal(), atol=0.1)


def test_a_loss_that_is_not_finite_does_not_take_all_the_weight():
    problem = testing.Quadratics((1.0, 4.0, 1.0), (0.0, 3.0, np.inf), (2, 6, 1))
    algorithm = eqf.TERM(testing.quadratic_loss, optax.sgd(0.1), ALL, t=0.1)
    for clients in ([0, 1], [0, 1, 2]):
        state = algorithm.init(testing.Point(1.0), num_clients=3)
        cohort = eqf.data.cohort(problem.dataset(), ALL, clients=clients)
        state, metrics = algorithm.round(state, cohort, key=jr.key(0))
        assert metrics["nonfinite"] == len(clients) - 2
        w = np.array([2, 6]) * np.exp(0.1 * losses(1.0, TWO))
        step = -0.1 * np.dot(w, [1.0, -8.0]) / w.sum()
        np.testing.assert_allclose(state.model.x, 1 + step, rtol=1e-5)


# AFL.


def nearest(x):
    """The projection, by bisection of what is taken off each."""
    low, high = x.min() - 1, x.max()
    for _ in range(100):
        middle = (low + high) / 2
        total = np.maximum(x - middle, 0).sum()
        low, high = (middle, high) if total > 1 else (low, middle)
    return np.maximum(x - low, 0)


def test_projection_onto_the_simplex():
    rng = np.random.default_rng(0)
    for scale in (0.1, 1, 30):
        x = scale * rng.normal(size=7)
        np.testing.assert_allclose(onto_simplex(jnp.asarray(x)), nearest(x), atol=1e-5)
    np.testing.assert_array_equal(onto_simplex(jnp.array([5.0])), [1])
    np.testing.assert_array_equal(onto_simplex(jnp.full(4, 3.0)), np.full(4, 0.25))


def afl(rate):
    x, weights = [3.0], np.full(3, 1 / 3)
    for cohort in COHORTS:
        steps = [local(k, x[-1])[0] - x[-1] for k in cohort]
        mixture = weights[cohort]
        slope = np.zeros(3)
        slope[cohort] = 3 / len(cohort) * losses(x[-1])[cohort]
        move = np.dot(mixture, steps) / mixture.sum() if mixture.sum() > 0 else 0.0
        x.append(x[-1] + move)
        weights = nearest(weights + rate * slope)
    return x


# The larger rate leaves some cohort without any weight.
@pytest.mark.parametrize("rate", (0.0, 0.02, 1.0))
def test_afl(rate):
    check(
        lambda f, b: eqf.AFL(f, optax.sgd(ETA), b, weight_learning_rate=rate), afl(rate)
    )


def test_afl_solves_the_game():
    got = last_of(
        lambda f, b: eqf.AFL(f, optax.sgd(0.05), b, weight_learning_rate=0.02), 400
    )
    np.testing.assert_allclose(got, where_losses_are_equal(), rtol=1e-3)


def test_clients_without_weight_move_the_weights_alone():
    algorithm = eqf.AFL(
        testing.quadratic_loss, optax.sgd(0.1), ALL, weight_learning_rate=1.0
    )
    state = algorithm.init(testing.Point(0.0), num_clients=2)
    both, first = (
        eqf.data.cohort(TWO.dataset(), ALL, clients=who) for who in ([0, 1], [0])
    )
    # The losses are 0 and 18: the second takes all.
    state, _ = algorithm.round(state, both, key=jr.key(0))
    np.testing.assert_array_equal(state.server.weights, [0, 1])
    x = float(state.model.x)
    state, metrics = algorithm.round(state, first, key=jr.key(0))
    assert state.model.x == x
    assert metrics["clients"] == metrics["nonfinite_model"] == 0
    expected = nearest(np.array([2 * x**2 / 2, 1.0]))
    np.testing.assert_allclose(state.server.weights, expected, rtol=1e-5)
    assert 0 < expected[0] < 1


def test_agnostic_fedavg_plays_the_same_game_with_another_ascent():
    """With a domain for each client, the first step on x is AFL's, and the weights are
    those of exponentiated gradient, not of the projection."""

    def loss(model, example, key):
        return testing.quadratic_loss(model, example, key)

    def of(example):
        return (example["b"] > 0).astype(jnp.int32)

    rate = 0.05
    one, _ = one_round(
        eqf.AFL(loss, optax.sgd(0.1), ALL, weight_learning_rate=rate), 1.0
    )
    other, _ = one_round(
        eqf.AgnosticFedAvg(
            *(loss, optax.sgd(0.1), ALL),
            num_domains=2,
            domain=of,
            domain_learning_rate=rate,
        ),
        1.0,
    )
    np.testing.assert_allclose(one.model.x, other.model.x, rtol=1e-6)
    f = losses(1.0, TWO)
    np.testing.assert_allclose(one.server.weights, nearest(0.5 + rate * f), rtol=1e-5)
    tilted = np.exp(rate * f) / np.exp(rate * f).sum()
    np.testing.assert_allclose(other.server.weights, tilted, rtol=1e-5)
    assert not np.allclose(one.server.weights, other.server.weights, atol=1e-3)
