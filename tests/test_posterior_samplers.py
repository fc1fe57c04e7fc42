"""Posterior samplers against closed forms and NumPy, on one client at a time."""

import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import equifed as eqf
import equifed.posterior as eqp
from equifed import testing
from equifed.objectives import FederatedProblem, LeastSquares

from .shared import line_loss


RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(2, 40, 3)) * np.sqrt([1.0, 2.0, 3.0])
TARGETS = ROWS.sum(2) + 0.5 * RNG.normal(size=(2, 40))
PROBLEM = FederatedProblem([*map(LeastSquares, ROWS, TARGETS)])
WHOLE = eqf.data.Epochs(1, batch_size=16)


def draw(sampler, loss, model, dataset, batching, seed=0, client=0):
    """The samples of one client, as a round would draw them."""
    cohort = eqf.data.Loader(dataset, eqf.data.AllClients(), batching)(0)
    slot = int(np.flatnonzero(np.asarray(cohort.index[0]) == client)[0])
    sample = eqx.filter_jit(sampler.sample)
    data = cohort.client(slot)
    broadcast = eqf.Broadcast.of(model)
    return sample(loss, broadcast, data, batching, key=jr.key(seed))


def draw_linear(sampler, batching: Any = WHOLE, **kwargs):
    start = jnp.asarray(np.full(3, 0.25, np.float32))
    samples, metrics = draw(
        sampler, PROBLEM.loss, start, PROBLEM.dataset(), batching, **kwargs
    )
    return np.asarray(samples.values) + 0.25, samples, metrics


def gaussian():
    """The posterior of the first client: its mean, and its covariance."""
    x, y = ROWS[0], TARGETS[0]
    covariance = np.linalg.inv(x.T @ x / 40)
    return covariance @ (x.T @ y / 40), covariance


def check_moments(values, independent, temperature=1.0, tolerance=5.0):
    """Compares with the posterior's moments, in units of their standard errors."""
    mean, covariance = gaussian()
    covariance = temperature * covariance
    sd = np.sqrt(np.diag(covariance))
    error = np.abs(values.mean(0) - mean) / (sd / np.sqrt(independent))
    assert error.max() < tolerance
    got = np.cov(values.T) / np.outer(sd, sd)
    error = np.abs(got - covariance / np.outer(sd, sd)) * np.sqrt(independent / 2)
    assert error.max() < tolerance


def test_exact_samples():
    values, samples, metrics = draw_linear(eqp.ExactGaussian(4000))
    check_moments(values, 4000)
    last = np.asarray(samples.last) + 0.25
    np.testing.assert_allclose(last, gaussian()[0], rtol=1e-4)
    loss = ((ROWS[0] @ np.full(3, 0.25) - TARGETS[0]) ** 2).mean() / 2
    np.testing.assert_allclose(metrics["loss"].compute(), loss, rtol=1e-5)
    values, _, _ = draw_linear(eqp.ExactGaussian(4000, temperature=0.1))
    check_moments(values, 4000, temperature=0.1)


@pytest.mark.parametrize(
    "sampler",
    [
        eqp.NUTS(1500, num_warmup=200),
        eqp.HMC(1500, num_warmup=200, num_integration_steps=7),
        eqp.HMC(1500, num_warmup=0, num_integration_steps=5, step_size=0.25),
    ],
    ids=["nuts", "hmc", "hmc-plain"],
)
def test_hamiltonian_samples(sampler):
    values, samples, metrics = draw_linear(sampler)
    check_moments(values, 400)
    mean = np.asarray(samples.values).mean(0)
    np.testing.assert_allclose(samples.last, mean, atol=1e-5)
    assert 0.6 < float(metrics["acceptance"].compute()) <= 1
    assert float(metrics["divergences"].compute()) == 0


def test_sgld_samples_its_own_stationary_distribution():
    # With exact gradients theta follows an AR(1) process, and all is known.
    problem = testing.Quadratics((2.0,), (1.0,), (4,))
    sampler = eqp.SGLD(0.1, temperature=0.5, burnin=100)
    batching = eqf.data.Steps(30_100, batch_size=4)
    samples, _ = draw(
        sampler, testing.quadratic_loss, testing.Point(0.0), problem.dataset(), batching
    )
    values = np.asarray(samples.values.x)
    variance = 0.5 / (2.0 * (1 - 0.1 * 2.0 / 2))
    assert abs(values.mean() - 1) < 0.05
    assert abs(values.var() / variance - 1) < 0.05
    centred = values - values.mean()
    correlation = (centred[1:] * centred[:-1]).mean() / values.var()
    assert abs(correlation - 0.8) < 0.02


CURVATURE, CENTRE, START = 2.0, 1.5, 3.0
POINT = testing.Quadratics((CURVATURE,), (CENTRE,), (10,))


def path(num_steps, update):
    """Iterates of a method on the quadratic, whose every batch gives its gradient."""
    theta, iterates = START, []
    for k in range(num_steps):
        theta = theta + update(CURVATURE * (theta - CENTRE), k)
        iterates.append(theta)
    return np.array(iterates)


def check_path(sampler, batching, expected, last):
    samples, metrics = draw(
        sampler, testing.quadratic_loss, testing.Point(START), POINT.dataset(), batching
    )
    got = np.asarray(samples.values.x) + START
    assert got.shape == (sampler.count(batching),)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    np.testing.assert_allclose(float(samples.last.x) + START, last, rtol=1e-5)
    # Every visit counts; a last batch may be short.
    visits = {"short": 10, "drop": 8}
    if isinstance(batching, eqf.data.Steps):
        expected = batching.num_batches * batching.batch_size
    else:
        expected = batching.num_epochs * visits[batching.last]
    assert int(metrics["loss"].weight) == expected


def heavy_ball(eta, momentum):
    velocity = 0.0

    def update(gradient, _):
        nonlocal velocity
        velocity = momentum * velocity + gradient
        return -eta * velocity

    return update


def test_iasg_in_steps():
    x = path(13, heavy_ball(0.05, 0.9))
    sampler = eqp.IASG(optax.sgd(0.05, momentum=0.9), burnin=2, average=3, discard=1)
    expected = [x[2:5].mean(), x[6:9].mean(), x[10:13].mean()]
    check_path(sampler, eqf.data.Steps(13, batch_size=4), expected, x[-1])


def test_iasg_in_epochs():
    # Ten examples in batches of 4: an epoch has three steps.
    x = path(15, heavy_ball(0.05, 0.9)).reshape(5, 3)
    sampler = eqp.IASG(optax.sgd(0.05, momentum=0.9), burnin=1)
    check_path(sampler, eqf.data.Epochs(5, batch_size=4), x[1:].mean(1), x[-1, -1])
    sampler = eqp.IASG(optax.sgd(0.05, momentum=0.9), average=2, discard=1)
    expected = [x[:2].mean(), x[3:].mean()]
    check_path(sampler, eqf.data.Epochs(5, batch_size=4), expected, x[-1, -1])
    # With `drop` an epoch has two.
    x = path(10, heavy_ball(0.05, 0.9)).reshape(5, 2)
    sampler = eqp.IASG(optax.sgd(0.05, momentum=0.9), burnin=3)
    batching = eqf.data.Epochs(5, batch_size=4, last="drop")
    check_path(sampler, batching, x[3:].mean(1), x[-1, -1])


def test_chains_share_the_steps():
    # Each begins at the server's model with a momentum of its own.
    x = path(6, heavy_ball(0.05, 0.9))
    sampler = eqp.IASG(optax.sgd(0.05, momentum=0.9), burnin=2, average=2, chains=3)
    expected = [x[2:4].mean(), x[4:6].mean()] * 3
    check_path(sampler, eqf.data.Steps(18, batch_size=4), expected, x[-1])


def test_chains_visit_different_batches():
    sampler = eqp.IASG(optax.sgd(0.05), chains=4)
    values, _, metrics = draw_linear(sampler, eqf.data.Steps(4, batch_size=10))
    assert len(np.unique(values[:, 0])) == 4
    assert int(metrics["loss"].weight) == 40


def test_sgld_without_temperature_is_sgd_with_its_schedule():
    x = path(8, lambda g, k: -0.1 / (1 + k) * g)
    sampler = eqp.SGLD(lambda k: 0.1 / (1 + k), temperature=0.0, discard=1)
    batching = eqf.data.Steps(7, batch_size=4)
    check_path(sampler, batching, x[:7:2], x[6])


def test_preconditioned_sgld_without_temperature():
    second = 0.0

    def update(gradient, _):
        nonlocal second
        second = 0.9 * second + 0.1 * gradient**2
        return -0.1 * gradient / (0.01 + np.sqrt(second))

    x = path(6, update)
    sampler = eqp.PreconditionedSGLD(0.1, temperature=0.0, decay=0.9, eps=0.01)
    check_path(sampler, eqf.data.Steps(6, batch_size=4), x, x[-1])


@eqx.filter_jit
def first_step(sampler, grads, key):
    grads = jtu.tree_map(jnp.asarray, grads)
    return sampler.update(grads, grads, sampler.begin(grads), key=key)[0]


def test_preconditioned_noise_has_the_spread_of_its_step():
    # Where the gradient is zero, v stays 0 and G is 1 / eps.
    sampler = eqp.PreconditionedSGLD(0.02, temperature=2.0, eps=0.5)
    step = first_step(sampler, np.zeros(40_000, np.float32), jr.key(0))
    assert abs(np.asarray(step).std() / np.sqrt(2 * 0.02 * 2.0 / 0.5) - 1) < 0.02


def test_noise_is_different_at_every_step_and_leaf():
    sampler = eqp.SGLD(0.1)
    zeros = {"a": np.zeros(3, np.float32), "b": np.zeros(3, np.float32)}
    one, two = (first_step(sampler, zeros, jr.key(i)) for i in range(2))
    numbers = np.concatenate([one["a"], one["b"], two["a"], two["b"]])
    assert len(np.unique(numbers)) == 12


@pytest.mark.parametrize("curvature", ["hessian", "fisher"])
def test_laplace(curvature):
    # Columns of one number each: the Hessian is diagonal.
    rows = np.repeat(np.diag([1.0, 2.0, 3.0]), [3, 4, 5], axis=0)
    noise = np.random.default_rng(0).normal(size=12)
    dataset = eqf.data.FederatedDataset.from_mapping(
        {"one": {"x": rows.astype(np.float32), "y": noise.astype(np.float32)}}
    )
    batching = eqf.data.Epochs(3, batch_size=5)
    sampler = eqp.Laplace(
        optax.sgd(0.1), 5000, damping=0.5, curvature=curvature, temperature=0.2
    )
    start = jnp.asarray(np.zeros(3, np.float32))
    samples, _ = draw(sampler, PROBLEM.loss, start, dataset, batching)
    mode = np.asarray(samples.last)
    assert np.abs(mode).min() > 1e-3
    if curvature == "hessian":
        diagonal = (rows**2).mean(0)
    else:
        gradients = (rows @ mode - noise)[:, None] * rows
        diagonal = (gradients**2).mean(0)
    variance = 0.2 / (diagonal + 0.5)
    values = np.asarray(samples.values)
    np.testing.assert_allclose(values.var(0), variance, rtol=0.1)
    error = np.abs(values.mean(0) - mode) / np.sqrt(variance / 5000)
    assert error.max() < 5


@pytest.mark.parametrize(
    "sampler, batching",
    [
        (eqp.ExactGaussian(3), WHOLE),
        (eqp.NUTS(3, num_warmup=10), WHOLE),
        (eqp.Laplace(optax.sgd(0.01), 3), WHOLE),
        (eqp.SGLD(0.01), eqf.data.Epochs(3, batch_size=8)),
        (eqp.PreconditionedSGLD(0.01), eqf.data.Epochs(3, batch_size=8)),
    ],
    ids=["exact", "nuts", "laplace", "sgld", "psgld"],
)
def test_clients_side_by_side(sampler, batching):
    """How many clients run side by side does not matter, nor do empty clients."""
    dataset = testing.ragged_clients((5, 0, 9, 6))
    client = eqf.FedPA(line_loss, sampler, batching, rho=0.1).client
    cohort = eqf.data.Loader(dataset, eqf.data.AllClients(), batching)(0)
    sent = eqf.Broadcast.of(testing.Linear())
    clients = [cohort.client(slot) for slot in range(4)]
    keys = jr.split(jr.key(0), 4)

    @eqx.filter_jit
    def alone(data, key):
        message, _, metrics = client.round(sent, data, None, key=key)
        return message, metrics["correction_norm"].compute()

    stacked = jtu.tree_map(lambda *x: jnp.asarray(np.stack(x)), *clients)
    together = eqx.filter_jit(eqx.filter_vmap(alone))
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        messages, corrections = together(stacked, keys)
        each = [alone(data, key) for data, key in zip(clients, keys, strict=True)]
    for i, (message, correction) in enumerate(each):
        got = jtu.tree_map(lambda x: x[i], jax.device_get(messages))  # noqa: B023
        for x, y in zip(jtu.tree_leaves(got), jtu.tree_leaves(message), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)
        assert np.isfinite(np.append(got.payload.weight, got.payload.bias)).all()
        if clients[i].num_examples == 0:
            assert got.weight == 0
        else:
            assert got.weight > 0
            assert np.abs(got.payload.weight).max() > 0
            assert min(float(correction), float(corrections[i])) > 0


def test_a_singular_posterior_counts_for_nothing():
    # The second client says nothing of the last weight.
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 3)).astype(np.float32)
    flat = x * np.array([1, 1, 0], np.float32)
    y = np.ones(6, np.float32)
    dataset = eqf.data.FederatedDataset.from_mapping(
        {"full": {"x": x, "y": y}, "flat": {"x": flat, "y": y}}
    )
    loader = eqf.data.Loader(dataset, eqf.data.AllClients(), WHOLE)
    rounds = {}
    for name, aggregator in (("w", eqf.WeightedMean()), ("u", eqf.UniformMean())):
        algorithm = eqf.FedPA(
            PROBLEM.loss,
            eqp.ExactGaussian(4),
            WHOLE,
            rho=1.0,
            aggregator=aggregator,
        )
        model = jnp.asarray(np.zeros(3, np.float32))
        state = algorithm.init(model, num_clients=2)
        state, metrics = algorithm.round(state, loader(0), key=jr.key(0))
        assert int(metrics["nonfinite"]) == 1
        assert int(metrics["clients"]) == 1
        assert np.isfinite(float(metrics["correction_norm"]))
        rounds[name] = np.asarray(state.model)
    assert np.isfinite(rounds["w"]).all()
    np.testing.assert_allclose(rounds["w"], rounds["u"], rtol=1e-5)


def test_schedules_that_do_not_fit():
    sgd = optax.sgd(0.1)

    def check(match, batching, **kwargs):
        with pytest.raises(ValueError, match=match):
            eqf.FedPA(testing.noisy_loss, eqp.IASG(sgd, **kwargs), batching)

    epochs, steps = eqf.data.Epochs(5, batch_size=4), eqf.data.Steps(10, batch_size=4)
    check("burn-in leaves no room.*of 5 epochs a chain", epochs, burnin=5)
    check("burn-in leaves no room.*of 10 steps", steps, burnin=9, average=2)
    check("1 of a chain's 10 steps would be left over", steps, average=3)
    check("Make `burnin` 3", steps, average=3, burnin=2, discard=1)
    check("3 chains cannot share 10 steps", steps, chains=3)
    check("`last='fill'`", eqf.data.Epochs(5, batch_size=4, last="fill"))
    check("`average` must be at least 1, got 0", steps, average=0)
    check("`burnin` must be at least 0, got -1", steps, burnin=-1)


@pytest.mark.parametrize(
    "batching",
    [
        eqf.data.Steps(10, batch_size=4),
        eqf.data.Epochs(2, batch_size=4),
        eqf.data.Epochs(1, batch_size=4, last="drop"),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "sampler",
    [eqp.ExactGaussian(3), eqp.NUTS(3), eqp.HMC(3)],
    ids=["exact", "n", "h"],
)
def test_whole_objectives_take_no_mini_batches(sampler, batching):
    with pytest.raises(ValueError, match=r"takes no mini-batches.*Epochs\(1, batch"):
        eqf.FedPA(testing.noisy_loss, sampler, batching)


def test_numbers_that_make_no_sense():
    for make, match in (
        (
            lambda: eqp.ExactGaussian(0),
            "`num_samples` must be at least 1, got 0",
        ),
        (lambda: eqp.NUTS(0), "`num_samples` must be at least 1, got 0"),
        (lambda: eqp.Laplace(optax.sgd(0.1), 0), "`num_samples`"),
        (lambda: eqp.SGLD(-0.1), "`learning_rate` must be more than 0"),
        (lambda: eqp.SGLD(0.1, temperature=-1.0), "`temperature`"),
        (
            lambda: eqp.PreconditionedSGLD(0.1, decay=1.0),
            "`decay` must be less than 1",
        ),
        (lambda: eqp.HMC(3, step_size=0.0), "`step_size`"),
        (lambda: eqp.HMC(3, num_warmup=-1), "`num_warmup`"),
        (
            lambda: eqp.NUTS(3, target_acceptance=1.0),
            "`target_acceptance` must be less than 1",
        ),
        (lambda: eqp.Laplace(optax.sgd(0.1), 3, damping=0.0), "`damping`"),
    ):
        with pytest.raises(ValueError, match=match):
            make()


def test_without_blackjax(monkeypatch):
    monkeypatch.setitem(sys.modules, "blackjax", None)
    for make in (eqp.NUTS, eqp.HMC):
        with pytest.raises(ImportError, match=r'pip install "equifed\[mcmc\]"'):
            make(10)
