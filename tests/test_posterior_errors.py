"""Posterior averaging on posteriors that do not exist, and at its edges."""

import dataclasses

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
from equifed._cohort import NO_CLIENT
from equifed.objectives import FederatedProblem, LeastSquares, Quadratic


SGD = optax.sgd(0.1)
LOSS = testing.noisy_loss
WHOLE = eqf.data.Epochs(1, batch_size=8)


def least_squares(num_examples):
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(num_examples, 3)) for _ in range(3)]
    return FederatedProblem(
        [
            LeastSquares(x, x @ rng.normal(size=3) + rng.normal(size=len(x)) / 2)
            for x in rows
        ]
    )


PROBLEM = least_squares(12)
# Fewer examples than params: nothing is known of some directions.
SINGULAR = least_squares(2)
EXACT = eqp.ExactGaussian(4)


def one_round(algorithm, problem=PROBLEM):
    loader = eqf.data.Loader(
        problem.dataset(), eqf.data.AllClients(), algorithm.batching
    )
    model = jnp.asarray(np.zeros(problem.dim, np.float32))
    state = algorithm.init(model, num_clients=len(problem.objectives))
    return algorithm.round(state, loader(0), key=jr.key(0))


def test_a_metric_of_the_same_name():
    def loss(model, example, key):
        error = jnp.dot(example["x"], model) - example["y"]
        return error**2, {"correction_norm": 123.0}

    with pytest.raises(ValueError, match="called 'correction_norm'.*another name"):
        one_round(eqf.FedPA(loss, EXACT, WHOLE))


@pytest.mark.parametrize("start_round", (0, 5))
def test_without_any_posterior_training_warns(start_round):
    algorithm = eqf.FedPA(SINGULAR.loss, EXACT, WHOLE, start_round=start_round)
    loader = eqf.data.Loader(SINGULAR.dataset(), eqf.data.AllClients(), WHOLE)
    with pytest.warns(UserWarning, match="No client of round 1 had a finite"):
        solution = eqf.train(
            algorithm,
            jnp.asarray(np.ones(3, np.float32)),
            loader,
            num_rounds=2,
            key=jr.key(0),
        )
    np.testing.assert_array_equal(solution.model, np.ones(3))
    assert [row["nonfinite"] for row in solution.history] == [3, 3]
    assert [row["clients"] for row in solution.history] == [0, 0]


def test_units_do_not_make_a_posterior_singular():
    diagonal, optimum = np.array([1e8, 1.0, 1e-4]), np.array([1e-4, 1.0, 1e2])
    objective = Quadratic(np.diag(diagonal), diagonal * optimum)
    problem = FederatedProblem([objective, objective])
    algorithm = eqf.FedPA(problem.loss, eqp.ExactGaussian(2000), WHOLE, rho=0.0)
    state, metrics = one_round(algorithm, problem)
    assert int(metrics["clients"]) == 2
    # Standard errors of the mean of 4000 samples.
    errors = (np.asarray(state.model) - optimum) * np.sqrt(diagonal)
    assert np.abs(errors).max() < 5 / np.sqrt(4000)


def test_a_singular_posterior_leaves_the_derivatives_alone():
    good, bad = PROBLEM.dataset(), SINGULAR.dataset()
    columns = {"a good one": good.client(0), "bad": bad.client(0)}
    dataset = eqf.data.FederatedDataset.from_mapping(columns)
    both = eqf.data.Loader(dataset, eqf.data.AllClients(), WHOLE)(0)
    first = jnp.asarray(np.where(np.asarray(both.index) == 0, 0, NO_CLIENT))
    alone = eqx.tree_at(lambda c: c.index, both, first)
    executor = eqf.Executor(differentiable=True)

    @eqx.filter_jit
    @eqx.filter_grad
    def slope(rho, cohort):
        algorithm = eqf.FedPA(PROBLEM.loss, EXACT, WHOLE, rho=rho)
        state = algorithm.init(jnp.zeros(3), num_clients=2)
        new, _ = algorithm.round(state, cohort, key=jr.key(0), executor=executor)
        return (new.model**2).sum()

    rho = jnp.asarray(0.5)
    expected = float(slope(rho, alone))
    assert abs(expected) > 1e-3
    np.testing.assert_allclose(slope(rho, both), expected, rtol=1e-4)


@pytest.mark.parametrize("kind", (eqp.SGLD, eqp.PreconditionedSGLD))
def test_langevin_dynamics_has_a_derivative_without_temperature(kind):
    batching = eqf.data.Steps(3, batch_size=4)
    loader = eqf.data.Loader(PROBLEM.dataset(), eqf.data.AllClients(), batching)
    # As a client of a round that is differentiated.
    data = dataclasses.replace(loader(0).client(0), differentiable=True)
    sent = eqf.Broadcast.of(jnp.asarray(np.zeros(3, np.float32)))

    def after(rate):
        sampler = kind(rate, temperature=0.0)
        client = eqf.FedPA(PROBLEM.loss, sampler, batching, rho=0.1).client
        message, _, _ = client.round(sent, data, None, key=jr.key(0))
        return (message.payload**2).sum()

    value_and_slope = jax.jit(jax.value_and_grad(after))
    rates = np.array([0.0098, 0.01, 0.0102], np.float32)
    (low, _), (_, slope), (high, _) = map(value_and_slope, rates)
    np.testing.assert_allclose(slope, (high - low) / 0.0004, rtol=0.05)


def test_ep_keeps_the_server_the_product_of_the_factors():
    """Also with clients that take no step, here as no batch of theirs is full."""
    dataset = testing.ragged_clients((5, 9, 3, 8))
    batching = eqf.data.Epochs(2, batch_size=4, last="drop")
    algorithm = eqf.FedEP(LOSS, optax.sgd(0.01), batching, prior_precision=3.0)
    loader = eqf.data.Loader(dataset, eqf.data.UniformSampler(3, seed=0), batching)
    state = start = algorithm.init(testing.Linear(), num_clients=4)
    for number in range(4):
        state, _ = algorithm.round(state, loader(number), key=jr.key(0))
    clients = jtu.tree_map(np.asarray, eqx.filter(state.clients, eqx.is_array))
    product = jtu.tree_map(lambda x, y: np.asarray(x) + y.sum(0), start.server, clients)
    for got, want in zip(
        jtu.tree_leaves(state.server), jtu.tree_leaves(product), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4)
    assert all((x[2] == 0).all() for x in jtu.tree_leaves(clients))
