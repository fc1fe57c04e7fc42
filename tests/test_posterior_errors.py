"""Posterior averaging on posteriors that do not exist, and at its edges."""

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
from equifed.objectives import FederatedProblem, Quadratic, random_least_squares


SGD = optax.sgd(0.1)
LOSS = testing.noisy_loss
WHOLE = eqf.data.Epochs(1, batch_size=8)
PROBLEM = random_least_squares(3, 3, num_examples=12, noise=0.5, key=jr.key(0))
# Fewer examples than params: nothing is known of some directions.
SINGULAR = random_least_squares(3, 3, num_examples=2, key=jr.key(0))
EXACT = eqp.ExactGaussian(4)


def one_round(algorithm, problem=PROBLEM, **kwargs):
    loader = eqf.data.Loader(
        problem.dataset(), eqf.data.AllClients(), algorithm.batching
    )
    state = algorithm.init(jnp.zeros(problem.dim), num_clients=len(problem.objectives))
    return algorithm.round(state, loader(0), key=jr.key(0), **kwargs)


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
            algorithm, jnp.ones(3), loader, num_rounds=2, key=jr.key(0)
        )
    np.testing.assert_array_equal(solution.model, np.ones(3))
    assert [row["nonfinite"] for row in solution.history] == [3, 3]
    assert [row["clients"] for row in solution.history] == [0, 0]


def test_units_do_not_make_a_posterior_singular():
    matrix = jnp.diag(jnp.array([1e8, 1.0, 1e-4]))
    objective = Quadratic(matrix, jnp.array([1e4, 1.0, 1e-2]))
    problem = FederatedProblem([objective, objective])
    algorithm = eqf.FedPA(problem.loss, eqp.ExactGaussian(2000), WHOLE, rho=0.0)
    state, metrics = one_round(algorithm, problem)
    assert int(metrics["clients"]) == 2
    # Standard errors of the mean of 4000 samples.
    errors = (state.model - problem.optimum()) / np.sqrt(1 / jnp.diagonal(matrix))
    assert np.abs(errors).max() < 5 / np.sqrt(4000)


def test_a_singular_posterior_leaves_the_derivatives_alone():
    good, bad = PROBLEM.dataset(), SINGULAR.dataset()
    columns = {"a good one": good.client(0), "bad": bad.client(0)}
    both = eqf.data.FederatedDataset.from_mapping(columns)
    alone = eqf.data.FederatedDataset.from_mapping(dict([*columns.items()][:1]))

    def slope(dataset):
        cohort = eqf.data.Loader(dataset, eqf.data.AllClients(), WHOLE)(0)
        executor = eqf.Executor(differentiable=True)

        @jax.jit
        @jax.grad
        def of(rho):
            algorithm = eqf.FedPA(PROBLEM.loss, EXACT, WHOLE, rho=rho)
            state = algorithm.init(jnp.zeros(3), num_clients=len(dataset))
            new, _ = algorithm.round(state, cohort, key=jr.key(0), executor=executor)
            return (new.model**2).sum()

        return of(jnp.asarray(0.5))

    # A client's key depends on its number: the good one is the first of both.
    expected = float(slope(alone))
    assert abs(expected) > 1e-3
    np.testing.assert_allclose(slope(both), expected, rtol=1e-4)


@pytest.mark.parametrize("kind", (eqp.SGLD, eqp.PreconditionedSGLD))
def test_langevin_dynamics_has_a_derivative_without_temperature(kind):
    def after(rate):
        sampler = kind(rate, temperature=0.0)
        algorithm = eqf.FedPA(
            PROBLEM.loss, sampler, eqf.data.Steps(3, batch_size=4), rho=0.1
        )
        executor = eqf.Executor(differentiable=True)
        state, _ = one_round(algorithm, executor=executor)
        return (state.model**2).sum()

    rate = jnp.asarray(0.01)
    slope = jax.jit(jax.grad(after))(rate)
    value = jax.jit(after)
    finite = (value(1.02 * rate) - value(0.98 * rate)) / (0.04 * rate)
    np.testing.assert_allclose(slope, finite, rtol=0.05)


def test_ep_keeps_the_server_the_product_of_the_factors():
    """Also with clients that take no step, here as no batch of theirs is full."""
    dataset = testing.ragged_clients((5, 9, 3, 8))
    batching = eqf.data.Epochs(2, batch_size=4, last="drop")
    algorithm = eqf.FedEP(LOSS, optax.sgd(0.01), batching, prior_precision=3.0)
    loader = eqf.data.Loader(dataset, eqf.data.UniformSampler(3, seed=0), batching)
    state = start = algorithm.init(testing.Linear(), num_clients=4)
    for number in range(4):
        state, _ = algorithm.round(state, loader(number), key=jr.key(0))
    factors = jtu.tree_map(lambda x: x.sum(0), state.clients)
    product = jtu.tree_map(jnp.add, start.server, factors)
    for got, want in zip(
        jtu.tree_leaves(state.server), jtu.tree_leaves(product), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4)
    third = eqx.filter(jtu.tree_map(lambda x: x[2], state.clients), eqx.is_array)
    assert all(bool((x == 0).all()) for x in jtu.tree_leaves(third))
