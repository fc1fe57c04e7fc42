"""Methods that give each client a model of its own, or let it keep its last one,
against their papers' pseudo-code in NumPy: the quadratics of `test_papers.py`, and the
classifier of `test_criteria.py`.
"""

import equinox as eqx
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing

from .test_papers import A, B, BATCHING, COHORTS, ETA, PROBLEM, ROUNDS, SAMPLER, STEPS


SGD = optax.sgd(ETA)
LOADER = eqf.data.Loader(PROBLEM.dataset(), SAMPLER, BATCHING)


def grad(i, y):
    return A[i] * (y - B[i])


def ran(make):
    """The server's number after each round, and every client's own after the last."""
    algorithm = make(testing.quadratic_loss, BATCHING)
    state, x = algorithm.init(testing.Point(3.0), num_clients=3), [3.0]
    first = own_numbers(algorithm, state)
    np.testing.assert_array_equal(first, [3.0] * 3)
    for state, _ in eqf.rounds(  # noqa: B020
        algorithm, state, LOADER, num_rounds=ROUNDS, key=jr.key(0)
    ):
        x.append(float(state.model.x))
    return np.array(x), own_numbers(algorithm, state)


def own_numbers(algorithm, state):
    own = eqx.filter_vmap(algorithm.own_model, in_axes=(None, 0))
    return np.asarray(eqx.filter_jit(own)(state, state.clients).x)


def check(make, server, own):
    x, models = ran(make)
    np.testing.assert_allclose(x, server, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(models, own, rtol=2e-5, atol=2e-5)


def of_fedavg():
    x = [3.0]
    for cohort in COHORTS:
        ends = []
        for i in cohort:
            y = x[-1]
            for _ in range(STEPS[i]):
                y -= ETA * grad(i, y)
            ends.append(y)
        x.append(float(np.mean(ends)))
    return x


def test_not_everybody_takes_part():
    # There is a round before which somebody was absent, and one after it.
    assert len(COHORTS[0]) < 3
    assert len({i for cohort in COHORTS for i in cohort}) == 3


@pytest.mark.parametrize("lam", (0.0, 0.8))
def test_ditto(lam):
    rate, x, v = 0.07, of_fedavg(), np.full(3, 3.0)
    for w, cohort in zip(x, COHORTS, strict=False):
        for i in cohort:
            for _ in range(STEPS[i]):
                v[i] -= rate * (grad(i, v[i]) + lam * (v[i] - w))
    own = optax.sgd(rate)
    check(lambda f, b: eqf.Ditto(f, SGD, b, lam=lam, own_optim=own), x, v)


@pytest.mark.parametrize("first, alpha_rate", ((0.0, 0.0), (0.6, 0.0), (0.6, 0.02)))
def test_apfl(first, alpha_rate):
    rate, x = 0.07, [3.0]
    v, alpha = np.full(3, 3.0), np.full(3, first)
    for cohort in COHORTS:
        ends = []
        for i in cohort:
            w = x[-1]
            for k in range(STEPS[i]):
                slope = grad(i, alpha[i] * v[i] + (1 - alpha[i]) * w)
                new = alpha[i] - alpha_rate * (v[i] - w) * slope
                w, v[i] = w - ETA * grad(i, w), v[i] - rate * alpha[i] * slope
                alpha[i] = np.clip(new, 0, 1) if k == 0 else alpha[i]
            ends.append(w)
        x.append(float(np.mean(ends)))
    np.testing.assert_allclose(x, of_fedavg())
    assert (len(set(alpha)) > 1) == (alpha_rate > 0)
    check(
        lambda f, b: eqf.APFL(
            *(f, SGD, b),
            alpha=first,
            alpha_learning_rate=alpha_rate,
            own_optim=optax.sgd(rate),
        ),
        x,
        alpha * v + (1 - alpha) * x[-1],
    )


def test_pfedme():
    lam, rate, steps, beta = 1.5, 0.1, 3, 0.7
    x, own = [3.0], np.full(3, 3.0)
    for cohort in COHORTS:
        ends = []
        for i in cohort:
            w, theta = x[-1], x[-1]
            for _ in range(STEPS[i]):
                for _ in range(steps):
                    theta -= rate * (grad(i, theta) + lam * (theta - w))
                w -= ETA * lam * (w - theta)
            own[i] = theta
            ends.append(w)
        x.append((1 - beta) * x[-1] + beta * float(np.mean(ends)))
    check(
        lambda f, b: eqf.PFedMe(
            *(f, SGD, b),
            lam=lam,
            own_learning_rate=rate,
            own_steps=steps,
            server_optim=optax.sgd(beta),
        ),
        x,
        own,
    )
