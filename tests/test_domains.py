"""A number out of its domain that is traced, where it cannot be refused, is NaN, and
what comes of it is never taken for an answer."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
import equifed.posterior as eqp
from equifed import testing
from equifed.objectives import LeastSquares


SGD = optax.sgd(0.1)
BATCHING = eqf.data.Epochs(1, batch_size=4)
ROWS = jnp.eye(2)

# From a number to where it is kept, with one outside of its domain and one inside.
KEPT = {
    "mu": (lambda x: eqf.Proximal(x).mu, -1.0, 0.1),
    "alpha": (lambda x: eqf.DynServer(x).alpha, -1.0, 0.1),
    "prior_precision": (lambda x: eqp.EPServer(x).prior_precision, 0.0, 0.1),
    "max_norm": (lambda x: eqf.Clip(eqf.WeightedMean(), x).max_norm, 0.0, 0.1),
    "trim": (lambda x: eqf.TrimmedMean(x).trim, 0.5, 0.1),
    "rho": (lambda x: eqp.Shrinkage(x).rho, -0.1, 0.1),
    "rho of Gaussians": (lambda x: eqp.GaussianMoments(x).rho, 0.0, 0.1),
    "temperature": (
        lambda x: eqp.ExactGaussian(2, temperature=x).temperature,
        0.0,
        1.0,
    ),
    "decay": (lambda x: eqp.PreconditionedSGLD(0.1, decay=x).decay, 1.0, 0.5),
    "damping": (lambda x: eqp.Laplace(SGD, 2, damping=x).damping, 0.0, 1.0),
    "l2": (lambda x: LeastSquares(ROWS, jnp.ones(2), l2=x).l2, -1.0, 1.0),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_traced_number_out_of_its_domain_is_nan(name):
    keep, bad, good = KEPT[name]
    kept = eqx.filter_vmap(keep)(jnp.array([bad, good, jnp.nan]))
    np.testing.assert_array_equal(kept, np.array([np.nan, good, np.nan], np.float32))


def sweep(make, values):
    """The state and the metrics of one round, for each of some values."""
    dataset = testing.ragged_clients((5, 3))
    cohort = eqf.data.cohort(dataset, BATCHING)

    @eqx.filter_jit
    @eqx.filter_vmap
    def run(value):
        algorithm = make(value)
        state = algorithm.init(testing.Linear(), num_clients=2)
        new, metrics = algorithm.round(state, cohort, key=jr.key(0))
        return new.model.weight, metrics

    return run(jnp.asarray(values))


def test_a_sweep_over_clients_numbers():
    weight, metrics = sweep(
        lambda mu: eqf.FedProx(testing.noisy_loss, SGD, BATCHING, mu=mu), [-1.0, 0.1]
    )
    # No client had anything to say: there is no loss, and the model stays.
    np.testing.assert_array_equal(metrics["nonfinite"], [2, 0])
    np.testing.assert_array_equal(np.isnan(metrics["loss"]), [True, False])
    np.testing.assert_array_equal(weight[0], testing.Linear().weight)


@pytest.mark.parametrize(
    "name, bad, good", (("b1", 1.5, 0.9), ("tau", 0.0, 0.1), ("b2", -1.0, 0.9))
)
def test_a_sweep_over_the_servers_numbers(name, bad, good):
    def make(value):
        return eqf.FedAdam(testing.noisy_loss, SGD, BATCHING, **{name: value})

    weight, metrics = sweep(make, [bad, good])
    np.testing.assert_array_equal(metrics["nonfinite_model"], [1, 0])
    np.testing.assert_array_equal(weight[0], testing.Linear().weight)
    assert bool((weight[1] != testing.Linear().weight).any())
