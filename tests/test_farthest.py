"""Models to begin a clustering with."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing


BATCHING = eqf.data.Epochs(30, batch_size=4)
# Two near each other, one far from them, one between; and one without examples.
CENTRES = (0.0, 0.1, 5.0, 2.0, 9.0)
PROBLEM = testing.Quadratics((1.0,) * 5, CENTRES, (4, 4, 4, 4, 0))
KEY, START = jr.key(0), testing.Point(1.0)


def clustered(number, kind=eqf.HypCluster, rate=0.5):
    loss = testing.quadratic_loss
    return kind(loss, optax.sgd(rate), BATCHING, num_clusters=number)


def test_each_is_of_the_client_that_those_before_it_served_worst():
    dataset = PROBLEM.dataset()
    models = eqf.farthest_first(clustered(4), START, dataset, key=KEY)
    centres = np.array([float(model.x) for model in models])
    first = int(np.abs(np.array(CENTRES[:4]) - centres[0]).argmin())
    chosen, best = [first], np.full(4, np.inf)
    while len(chosen) < 4:
        away = np.array(CENTRES[:4]) - CENTRES[chosen[-1]]
        best = np.minimum(best, away**2 / 2)
        chosen.append(int(np.where(np.isin(range(4), chosen), -1, best).argmax()))
    np.testing.assert_allclose(centres, np.array(CENTRES)[chosen], atol=1e-5)


def test_an_algorithm_begins_with_them():
    dataset = PROBLEM.dataset()
    algorithm = clustered(2)
    state = algorithm.init(START, num_clients=5, key=KEY)
    models = [testing.Point(4.5), testing.Point(0.0)]
    state = algorithm.with_models(state, models)
    assert eqx.tree_equal(algorithm.models(state), models)
    cohort = eqf.data.cohort(dataset, BATCHING)
    state, metrics = algorithm.round(state, cohort, key=KEY)
    np.testing.assert_array_equal(metrics["clusters"], [1, 3])
    np.testing.assert_allclose(state.params.x, [5.0, 0.7], atol=1e-5)


def test_what_is_not_trained_is_the_state_s():
    class Two(eqx.Module):
        point: testing.Point
        scale: jax.Array

    def loss(model, example, key):
        return model.scale * testing.quadratic_loss(model.point, example, key)

    algorithm = eqf.IFCA(loss, optax.sgd(0.1), BATCHING, num_clusters=2)
    model = Two(START, jnp.ones(()))
    roles = eqf.roles(model, frozen=lambda m: m.scale)
    state = algorithm.init(model, num_clients=5, key=KEY, roles=roles)
    models = [Two(testing.Point(x), jnp.ones(())) for x in (2.0, 3.0)]
    state = algorithm.with_models(state, models)
    np.testing.assert_array_equal(state.params.point.x, [2.0, 3.0])
    assert state.params.scale is None


def test_a_client_that_diverges_is_named():
    with pytest.raises(ValueError, match="finite models, and client 'client"):
        eqf.farthest_first(clustered(2, rate=1e38), START, PROBLEM.dataset(), key=KEY)
