"""Quadratics with known answers."""

import numpy as np
import optax
import pytest

import equifed as eqf
import equifed.posterior as eqp
from equifed import testing


ETA = 0.05
SGD = optax.sgd(ETA)
UNEQUAL = testing.Quadratics((1.0, 4.0, 2.0), (1.0, -1.0, 3.0), (4, 8, 20))


def fedavg(loss, batching):
    return eqf.FedAvg(loss, SGD, batching)


def test_fedavg_settles_at_its_biased_fixed_point():
    problem = testing.Quadratics((1.0, 4.0), (1.0, -1.0), (4, 4))
    last = testing.run(fedavg, problem, num_rounds=100, rounds_per_call=100)[-1]
    expected = testing.fedavg_fixed_point(problem, ETA, [10, 10])
    assert abs(last - expected) < 1e-5
    assert abs(last - problem.optimum(weighted=True)) > 0.05


def test_fedavg_with_unequal_steps_settles_at_its_fixed_point():
    # One epoch in batches of 4: 1, 2 and 5 steps.
    batching = eqf.data.Epochs(1, batch_size=4)
    kwargs = {"num_rounds": 300, "batching": batching, "rounds_per_call": 100}
    last = testing.run(fedavg, UNEQUAL, **kwargs)[-1]
    expected = testing.fedavg_fixed_point(UNEQUAL, ETA, [1, 2, 5])
    assert abs(last - expected) < 1e-5


def test_one_step_of_every_client_is_central_sgd():
    batching = eqf.data.Epochs(1, batch_size=32)
    a, b, n = (
        np.array(v) for v in (UNEQUAL.curvatures, UNEQUAL.centres, UNEQUAL.num_examples)
    )
    x, expected = 3.0, [3.0]
    for _ in range(5):
        x = x - ETA * (n * a * (x - b)).sum() / n.sum()
        expected.append(x)
    for make in (
        fedavg,
        lambda loss, batching: eqf.FedSGD(loss, SGD, batching),
        lambda loss, batching: eqf.FedNova(loss, SGD, batching),
        lambda loss, batching: eqf.FedProx(loss, SGD, batching, mu=1.0),
        lambda loss, batching: eqf.Scaffold(
            loss, SGD, batching, aggregator=eqf.WeightedMean()
        ),
    ):
        got = testing.run(make, UNEQUAL, num_rounds=1, batching=batching)
        np.testing.assert_allclose(got, expected[:2], rtol=1e-5)
    for make in (fedavg, lambda loss, batching: eqf.FedSGD(loss, SGD, batching)):
        got = testing.run(make, UNEQUAL, num_rounds=5, batching=batching)
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("option", (1, 2))
def test_scaffold_reaches_the_optimum(option):
    def make(loss, batching):
        return eqf.Scaffold(loss, SGD, batching, option=option)

    testing.check_reaches_optimum(make)
    testing.check_reaches_optimum(make, UNEQUAL, num_rounds=600)


def test_scaffold_reaches_the_optimum_with_partial_participation():
    def make(loss, batching):
        server = optax.sgd(0.3)
        return eqf.Scaffold(loss, SGD, batching, server_optim=server)

    sampler = eqf.data.UniformSampler(2, seed=0)
    testing.check_reaches_optimum(
        make, UNEQUAL, num_rounds=1500, sampler=sampler, tolerance=1e-3
    )


def test_feddyn_reaches_the_optimum():
    def make(loss, batching):
        return eqf.FedDyn(loss, SGD, batching, alpha=1.0)

    testing.check_reaches_optimum(make)
    testing.check_reaches_optimum(make, UNEQUAL, num_rounds=1000)
    # With a third of the clients missing from each round too.
    testing.check_reaches_optimum(
        make,
        UNEQUAL,
        num_rounds=3000,
        sampler=eqf.data.UniformSampler(2, seed=0),
        tolerance=1e-3,
    )


def test_fednova_removes_the_bias_of_unequal_steps():
    # With small steps drift vanishes, and what is left is the bias of step counts.
    small = optax.sgd(1e-3)
    batching = eqf.data.Epochs(1, batch_size=4)

    def nova(loss, batching):
        return eqf.FedNova(loss, small, batching)

    def plain(loss, batching):
        return eqf.FedAvg(loss, small, batching)

    optimum = UNEQUAL.optimum(weighted=True)
    kwargs = {"num_rounds": 2500, "batching": batching, "start": optimum}
    kwargs["rounds_per_call"] = 100
    assert abs(testing.run(nova, UNEQUAL, **kwargs)[-1] - optimum) < 0.02
    assert abs(testing.run(plain, UNEQUAL, **kwargs)[-1] - optimum) > 0.2


def test_the_checks_can_fail():
    with pytest.raises(AssertionError, match="the minimum is at"):
        testing.check_reaches_optimum(fedavg)


def test_fedprox_without_its_term_is_fedavg():
    def make(loss, batching):
        return eqf.FedProx(loss, SGD, batching, mu=0.0)

    a = testing.run(make, UNEQUAL, num_rounds=5)
    b = testing.run(fedavg, UNEQUAL, num_rounds=5)
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_fedprox_with_many_steps_reaches_its_proximal_point():
    # argmin of a/2 (x - b)^2 + mu/2 (x - x0)^2, averaged over the clients.
    mu = 2.0

    def make(loss, batching):
        return eqf.FedProx(loss, SGD, batching, mu=mu)

    batching = eqf.data.Steps(400, batch_size=4)
    got = testing.run(make, UNEQUAL, num_rounds=1, batching=batching)[-1]
    a, b, n = (
        np.array(v) for v in (UNEQUAL.curvatures, UNEQUAL.centres, UNEQUAL.num_examples)
    )
    points = (a * b + mu * 3.0) / (a + mu)
    assert abs(got - (n * points).sum() / n.sum()) < 1e-5


def exact_fedpa(loss, batching):
    # The noise of the samples is averaged away by smaller and smaller steps.
    return eqf.FedPA(
        loss,
        eqp.ExactGaussian(2000),
        batching,
        rho=1e3,
        server_optim=optax.sgd(lambda k: 0.2 / (1 + 0.05 * k)),
    )


def test_fedpa_with_exact_posteriors_reaches_the_optimum():
    batching = eqf.data.Epochs(1, batch_size=4)
    kwargs = {"num_rounds": 200, "tolerance": 0.01, "batching": batching}
    testing.check_reaches_optimum(exact_fedpa, **kwargs)
    testing.check_reaches_optimum(exact_fedpa, UNEQUAL, weighted=True, **kwargs)
    # Where FedAvg, given the means of the same posteriors, does not.
    mean = testing.run(
        lambda loss, batching: eqf.FedPA(
            loss, eqp.ExactGaussian(100), batching, rho=0.0
        ),
        num_rounds=50,
        batching=batching,
    )[-1]
    assert abs(mean - (1 * 1.0 - 4 * 1.0) / (1 + 4)) > 0.3  # 0 instead of -0.6


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
    kwargs = {"weighted": True, "batching": batching, "tolerance": 1e-3}
    testing.check_reaches_optimum(make, UNEQUAL, **kwargs)


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

    batching = eqf.data.Epochs(1, batch_size=4)
    testing.check_reaches_optimum(
        make, UNEQUAL, num_rounds=1, weighted=True, batching=batching, tolerance=0.05
    )
