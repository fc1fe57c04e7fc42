"""Quadratics with known answers."""

import numpy as np
import optax
import pytest

import equifed as eqf
import equifed.posterior as eqp
from equifed import testing

from ..shared import settled_at


ETA = 0.05
SGD = optax.sgd(ETA)
# The clients that the checks try where they are given none.
TWO = testing.Quadratics((1.0, 4.0), (1.0, -1.0), (4, 4))
UNEQUAL = testing.Quadratics((1.0, 4.0, 2.0), (1.0, -1.0, 3.0), (4, 8, 20))
A, B, N = (
    np.array(v) for v in (UNEQUAL.curvatures, UNEQUAL.centres, UNEQUAL.num_examples)
)
# One epoch in batches of 4: each client's own number of steps.
EPOCH = eqf.data.Epochs(1, batch_size=4)
STEPS = np.array([1, 2, 5])


def fedavg(loss, batching):
    return eqf.FedAvg(loss, SGD, batching)


def last_of(make, num_rounds, batching: eqf.data.AbstractBatching = EPOCH):
    """Of the unequal clients, where a round is an epoch."""
    return settled_at(make, UNEQUAL, batching, num_rounds)


def test_fedavg_settles_at_its_biased_fixed_point():
    last = testing.run(fedavg, TWO, num_rounds=100, rounds_per_call=100)[-1]
    expected = testing.fedavg_fixed_point(TWO, ETA, [10, 10])
    assert abs(last - expected) < 1e-5
    assert abs(last - TWO.optimum(weighted=True)) > 0.05


def test_fedavg_with_unequal_steps_settles_at_its_fixed_point():
    last = last_of(fedavg, 200)
    expected = testing.fedavg_fixed_point(UNEQUAL, ETA, STEPS.tolist())
    assert abs(last - expected) < 1e-5


def test_one_step_of_every_client_is_central_sgd():
    batching = eqf.data.Epochs(1, batch_size=32)
    x, expected = 3.0, [3.0]
    for _ in range(5):
        x = x - ETA * (N * A * (x - B)).sum() / N.sum()
        expected.append(x)
    for make in (fedavg, lambda loss, batching: eqf.FedSGD(loss, SGD, batching)):
        got = testing.run(make, UNEQUAL, num_rounds=5, batching=batching)
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    for make in (
        lambda loss, batching: eqf.FedNova(loss, SGD, batching),
        lambda loss, batching: eqf.FedProx(loss, SGD, batching, mu=1.0),
        lambda loss, batching: eqf.Scaffold(
            loss, SGD, batching, aggregator=eqf.WeightedMean()
        ),
    ):
        got = testing.run(make, UNEQUAL, num_rounds=1, batching=batching)
        np.testing.assert_allclose(got, expected[:2], rtol=1e-5)


@pytest.mark.parametrize("option, problem", [(1, UNEQUAL), (2, TWO)])
def test_scaffold_reaches_the_optimum(option, problem):
    def make(loss, batching):
        return eqf.Scaffold(loss, SGD, batching, option=option)

    testing.check_reaches_optimum(make, problem, num_rounds=100, tolerance=1e-6)


def test_scaffold_reaches_the_optimum_with_partial_participation():
    def make(loss, batching):
        server = optax.sgd(0.3)
        return eqf.Scaffold(loss, SGD, batching, server_optim=server)

    sampler = eqf.data.UniformSampler(2, seed=0)
    testing.check_reaches_optimum(
        make, UNEQUAL, num_rounds=200, sampler=sampler, tolerance=1e-6
    )


def test_feddyn_reaches_the_optimum():
    def make(loss, batching):
        return eqf.FedDyn(loss, SGD, batching, alpha=1.0)

    testing.check_reaches_optimum(make, UNEQUAL, num_rounds=100, tolerance=1e-6)
    # With a third of the clients missing from each round too.
    sampler = eqf.data.UniformSampler(2, seed=0)
    testing.check_reaches_optimum(
        make, UNEQUAL, num_rounds=200, sampler=sampler, tolerance=1e-6
    )


def test_fednova_removes_the_bias_of_unequal_steps():
    # With small steps drift vanishes, and what is left is the bias of step counts.
    eta = 0.01
    small = optax.sgd(eta)

    def nova(loss, batching):
        return eqf.FedNova(loss, small, batching)

    def plain(loss, batching):
        return eqf.FedAvg(loss, small, batching)

    optimum = UNEQUAL.optimum(weighted=True)
    # Where a client's change counts by the step.
    pull = N * (1 - (1 - eta * A) ** STEPS) / STEPS
    last = last_of(nova, 200)
    assert abs(last - (pull * B).sum() / pull.sum()) < 1e-5
    assert abs(last - optimum) < 0.02
    assert abs(last_of(plain, 200) - optimum) > 0.2


def test_the_checks_can_fail():
    with pytest.raises(AssertionError, match="the minimum is at"):
        testing.check_reaches_optimum(fedavg, num_rounds=100)


def test_fedprox_without_its_term_is_fedavg():
    def make(loss, batching):
        return eqf.FedProx(loss, SGD, batching, mu=0.0)

    a = testing.run(make, UNEQUAL, num_rounds=5, batching=EPOCH)
    b = testing.run(fedavg, UNEQUAL, num_rounds=5, batching=EPOCH)
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_fedprox_with_many_steps_reaches_its_proximal_point():
    # argmin of a/2 (x - b)^2 + mu/2 (x - x0)^2, averaged over the clients.
    mu = 2.0

    def make(loss, batching):
        return eqf.FedProx(loss, SGD, batching, mu=mu)

    batching = eqf.data.Steps(400, batch_size=4)
    got = testing.run(make, UNEQUAL, num_rounds=1, batching=batching)[-1]
    points = (A * B + mu * 3.0) / (A + mu)
    assert abs(got - (N * points).sum() / N.sum()) < 1e-5


def averaging(k):
    """Smaller and smaller steps of the server, which average the noise away."""
    return 0.5 / (1 + 0.5 * k)


def test_fedpa_with_exact_posteriors_reaches_the_optimum():
    server_optim = optax.sgd(averaging)

    def make(rho):
        return lambda loss, batching: eqf.FedPA(
            loss,
            eqp.ExactGaussian(1000),
            batching,
            rho=rho,
            server_optim=server_optim,
        )

    optimum = UNEQUAL.optimum(weighted=True)
    assert abs(last_of(make(1e3), 300) - optimum) < 0.01
    # Where FedAvg, given the means of the same posteriors, does not: they are at B.
    mean = last_of(make(0.0), 300)
    assert abs(mean - (N * B).sum() / N.sum()) < 0.01
    assert abs(mean - optimum) > 0.3


@pytest.mark.parametrize("steps", (2, 40))
def test_fedep_reaches_the_optimum(steps):
    # Few steps or many: at a fixed point there is no drift.
    def make(loss, batching):
        return eqf.FedEP(
            loss,
            optax.sgd(0.01),
            batching,
            prior_precision=1e-3,
            damping=0.3,
            curvature="hessian",
        )

    batching = eqf.data.Steps(steps, batch_size=4)
    last = last_of(make, 300, batching)
    assert abs(last - UNEQUAL.optimum(weighted=True)) < 1e-3


@pytest.mark.parametrize("covariance", ("diagonal", "dense"))
def test_the_posterior_product_finds_the_optimum_in_one_round(covariance):
    def make(loss, batching):
        client = eqp.PosteriorClient(
            loss,
            eqp.ExactGaussian(20_000),
            batching,
            eqp.GaussianMoments(1e6, covariance=covariance),
        )
        server = eqf.OptaxServer(optax.sgd(1.0))
        return eqf.Algorithm(client, eqp.PosteriorProduct(), server)

    testing.check_reaches_optimum(
        make, UNEQUAL, num_rounds=1, weighted=True, batching=EPOCH, tolerance=0.05
    )
