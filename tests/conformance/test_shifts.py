"""Methods that shift a client's gradients by what it, or all, have measured, against
their papers' pseudo-code in NumPy: the same quadratics as in `test_papers.py`.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing
from equifed._algorithm.scaffnew import steps_until_heads

from .test_papers import A, B, check, COHORTS, ETA, PROBLEM, ROUNDS, STEPS


SGD, ROOT = optax.sgd(ETA), jr.key(0)
OPTIMUM = (A * B).mean() / A.mean()


def grad(i, y):
    return A[i] * (y - B[i])


@pytest.mark.parametrize("rho", (0.0, 0.2))
def test_fedsmoo(rho):
    alpha, x, agreed = 0.4, [3.0], 0.0
    drift, dual = np.zeros(3), np.zeros(3)
    for cohort in COHORTS:
        ends, sent = [], []
        for i in cohort:
            y = x[-1]
            for _ in range(STEPS[i]):
                s = rho * np.sign(grad(i, y) - dual[i] - agreed)
                dual[i] += s - agreed
                y -= ETA * (grad(i, y + s) + alpha * (y - x[-1] + drift[i]))
            drift[i] += y - x[-1]
            ends.append(y)
            sent.append(dual[i] - s)
        x.append(float(np.mean(ends) + drift.mean()))
        agreed = rho * np.sign(np.mean(sent))
    check(lambda f, b: eqf.FedSMOO(f, SGD, b, alpha=alpha, rho=rho), x)


def test_fedsmoo_without_perturbation_is_feddyn():
    steps = eqf.data.Steps(4, batch_size=2)
    runs = [
        testing.run(make, num_rounds=4, batching=steps)
        for make in (
            lambda f, b: eqf.FedSMOO(f, SGD, b, alpha=0.4, rho=0),
            lambda f, b: eqf.FedDyn(f, SGD, b, alpha=0.4),
        )
    ]
    np.testing.assert_allclose(*runs, rtol=1e-5)


def test_fedlin():
    rate, x = 0.3, [3.0]
    for cohort in COHORTS:
        mean, ends = float(np.mean([grad(i, x[-1]) for i in cohort])), []
        for i in cohort:
            y = x[-1]
            for _ in range(STEPS[i]):
                y -= rate / STEPS[i] * (grad(i, y) - grad(i, x[-1]) + mean)
            ends.append(y)
        x.append(float(np.mean(ends)))
    check(lambda f, b: eqf.FedLin(f, rate, b), x)


def test_fedlin_converges_where_clients_take_unequal_numbers_of_steps():
    batching = eqf.data.Epochs(3, batch_size=4)
    x = testing.run(
        lambda f, b: eqf.FedLin(f, 0.3, b), PROBLEM, num_rounds=60, batching=batching
    )
    np.testing.assert_allclose(x[-1], OPTIMUM, atol=1e-5)


def coins(probability):
    """How many steps each round of `check` takes, by the keys that a round folds."""

    @jax.jit
    def of(r):
        key, _ = jr.split(jr.fold_in(ROOT, r))
        return steps_until_heads(key, jnp.asarray(probability))

    return [int(of(r)) for r in range(ROUNDS)]


@pytest.mark.parametrize("probability", (0.4, 1.0))
def test_scaffnew(probability):
    x, shift = [3.0], np.zeros(3)
    for cohort, steps in zip(COHORTS, coins(probability), strict=True):
        ends = np.zeros(3)
        for i in cohort:
            ends[i] = x[-1]
            for _ in range(min(steps, STEPS[i])):
                ends[i] -= ETA * (grad(i, ends[i]) - shift[i])
        x.append(float(ends[cohort].mean()))
        shift[cohort] += probability / ETA * (x[-1] - ends[cohort])
        np.testing.assert_allclose(shift.sum(), 0, atol=1e-6)
    assert probability == 1 or len(set(coins(probability))) > 1
    check(lambda f, b: eqf.Scaffnew(f, ETA, b, probability=probability), x)


def test_scaffnew_converges_to_the_optimum_of_all():
    batching = eqf.data.Steps(40, batch_size=4)
    x = testing.run(
        lambda f, b: eqf.Scaffnew(f, 0.2, b, probability=0.3),
        PROBLEM,
        num_rounds=60,
        batching=batching,
    )
    np.testing.assert_allclose(x[-1], OPTIMUM, atol=1e-4)


def test_coins_are_thrown_until_heads():
    keys = jr.split(jr.key(1), 20_000)
    thrown = jax.jit(jax.vmap(steps_until_heads, (0, None)))
    p = jnp.asarray(0.3)
    steps = np.asarray(thrown(keys, p))
    for k in range(1, 6):
        share, wanted = (steps == k).mean(), 0.3 * 0.7 ** (k - 1)
        assert abs(share - wanted) < 5 * np.sqrt(wanted / len(steps))
    assert (np.asarray(thrown(keys[:100], jnp.asarray(1.0))) == 1).all()
    assert (np.asarray(thrown(keys[:100], jnp.asarray(1e-30))) >= 1).all()
