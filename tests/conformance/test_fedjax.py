"""The numbers that FedJAX's own tests have, from its batches, given row by row.

Those of AgnosticFedAvg's exponentiated gradient alone are in `test_agnostic.py`. Where
a number is nowhere, FedJAX computes something else on purpose or by mistake:
`docs/from-fedjax.md` says what.
"""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf

from ..orders import FEDJAX, GivenOrders


SGD = optax.sgd(1.0)
LARGE, SMALL = (2.0, 4.0, 6.0, 8.0, 10.0), (0.2, 0.4, 0.6, 0.8, 0.1)


def product(w, example, key):
    return example["x"] * w


def after_a_round(algorithm, w, x):
    x = np.array(x, np.float32)
    dataset = eqf.data.FederatedDataset.from_arrays({"x": x}, by=[0, 0, 0, 1, 1])
    state = algorithm.init(jnp.asarray(w), num_clients=2)
    cohort = eqf.data.cohort(dataset, FEDJAX)
    state, _ = algorithm.round(state, cohort, key=jr.key(0))
    return state.model


class BySum(eqf.AbstractCriterion):
    """A gradient of $w / \\sum_{e \\in B} x_e$, which is no mean over examples."""

    def begin(self, broadcast, data):
        return None

    def value(self, loss, model, examples, mask, given, *, keys):
        return (model**2).sum() / (2 * jnp.where(mask, examples["x"], 0).sum())


def test_fedavg():
    client = eqf.LocalSGD(
        lambda w, example, key: example["x"] * w.sum(), SGD, FEDJAX, criterion=BySum()
    )
    algorithm = eqf.Algorithm(client, eqf.WeightedMean(), eqf.OptaxServer(SGD))
    got = after_a_round(algorithm, [0.0, 2.0, 4.0], LARGE)
    np.testing.assert_allclose(got, [0.0, 1.5655555, 3.131111], rtol=1e-6)


def test_fedprox():
    algorithm = eqf.FedProx(product, SGD, FEDJAX, mu=0.01)
    np.testing.assert_allclose(after_a_round(algorithm, 4.0, LARGE), -3.77, rtol=1e-5)


@pytest.mark.parametrize(
    "make, x, clip, expected",
    (
        (eqf.Mime, LARGE, None, 2.08),
        (eqf.MimeLite, SMALL, None, 3.88),
        (eqf.MimeLite, SMALL, 0.5, 3.904),
    ),
)
def test_mime(make, x, clip, expected):
    # FedJAX weighs by numbers of examples, and clips the clients' changes alone.
    mean = eqf.WeightedMean()
    algorithm = make(
        product,
        SGD,
        FEDJAX,
        server_learning_rate=0.2,
        aggregator=mean if clip is None else eqf.Clip(mean, max_norm=clip),
        gradient_aggregator=mean,
    )
    np.testing.assert_allclose(after_a_round(algorithm, 4.0, x), expected, rtol=1e-6)


def test_agnostic_fed_avg():
    # All of a client in one step: FedJAX takes two, each with a batch's sum over the
    # whole client's weight, and these add up to it, as no gradient depends on w.
    x = np.array([1, 2, 4, 3, 6, 1, 8, 10, 5], np.float32)
    domain = np.array([1, 0, 0, 0, 2, 2, 1, 3, 1], np.int32)
    dataset = eqf.data.FederatedDataset.from_arrays(
        {"x": x, "domain": domain}, by=[0] * 6 + [1] * 3
    )
    whole = GivenOrders({6: [[0, 1, 2, 3, 4, 5]], 3: [[0, 1, 2, -1, -1, -1]]})
    algorithm = eqf.AgnosticFedAvg(
        *(product, SGD, whole),
        num_domains=4,
        domain_weights=[0.1, 0.2, 0.3, 0.4],
        domain_learning_rate=0.01,
        window=2,
        server_optim=optax.sgd(0.1),
    )
    state = algorithm.init(jnp.asarray(4.0), num_clients=2)
    before = jnp.asarray([[1.0, 2.0, 3.0, 4.0]] * 2)
    state = eqx.tree_at(lambda s: s.server.window, state, before)
    cohort = eqf.data.cohort(dataset, whole)
    state, _ = algorithm.round(state, cohort, key=jr.key(0))
    np.testing.assert_allclose(state.model, 3.5555556, rtol=1e-6)
    weights = [0.08702461, 0.18604803, 0.2663479, 0.46057943]
    np.testing.assert_allclose(state.server.weights, weights, rtol=1e-5)
    window = [[1.0, 2.0, 3.0, 4.0], [3.0, 3.0, 2.0, 1.0]]
    np.testing.assert_array_equal(state.server.window, window)


def test_hyp_cluster():
    # Of one example a step each, with which a client is at its own minimum at once.
    x = np.array([1.1, 0.9, 0.9, -1.1, -0.9, -0.9, -0.9], np.float32)
    dataset = eqf.data.FederatedDataset.from_arrays({"x": x}, by=[0, 1, 1, 2, 3, 3, 3])
    batching = eqf.data.Epochs(5, batch_size=1)
    algorithm = eqf.HypCluster(
        lambda w, example, key: (w - example["x"]) ** 2,
        *(optax.sgd(0.5), batching),
        num_clusters=2,
        server_optim=optax.sgd(0.25),
    )
    state = algorithm.init(jnp.asarray(0.0), num_clients=4, key=jr.key(0))
    begun = [jnp.asarray(1.0), jnp.asarray(-1.0)]
    state = algorithm.with_models(state, begun)
    cohort = eqf.data.cohort(dataset, batching)
    state, metrics = algorithm.round(state, cohort, key=jr.key(0))
    np.testing.assert_array_equal(metrics["clusters"], [2, 2])
    expected = [1 - 0.25 * 0.1 / 3, -1 + 0.25 * 0.2 / 4]
    np.testing.assert_allclose(algorithm.models(state), expected, rtol=1e-6)
