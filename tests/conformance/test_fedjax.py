"""The numbers that FedJAX's own tests have of its algorithms and of evaluation, from
its batches, given row by row.

Of its algorithms none is left out; those of AgnosticFedAvg's exponentiated gradient
alone are in `test_agnostic.py`. Those of compressed messages that depend on no draw are
in `test_compress.py`; the others (what DRIVE or a quantiser makes of three clients from
one key of JAX) are nowhere, as all keys are folded otherwise here.
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


def norms(metrics):
    """How long the clients' messages are: FedJAX's `delta_l2_norm`."""
    np.testing.assert_array_equal(metrics["gram_clients"], [0, 1])
    return np.sqrt(np.diagonal(metrics["gram"]))


def after_a_round(algorithm, w, x):
    """The state, and the norms of what both clients sent."""
    x = np.array(x, np.float32)
    dataset = eqf.data.FederatedDataset.from_arrays({"x": x}, by=[0, 0, 0, 1, 1])
    algorithm = eqf.Diagnose(algorithm, gram=True)
    state = algorithm.init(jnp.asarray(w), num_clients=2)
    cohort = eqf.data.cohort(dataset, FEDJAX)
    state, metrics = algorithm.round(state, cohort, key=jr.key(0))
    return state, norms(metrics)


class BySum(eqf.AbstractCriterion):
    """A gradient of $w / \\sum_{e \\in B} x_e$, which is no mean over examples."""

    def begin(self, broadcast, data):
        return None

    def value(self, loss, model, examples, mask, given, *, keys):
        return (model**2).sum() / (2 * jnp.where(mask, examples["x"], 0).sum())


BY_SUM = eqf.LocalSGD(
    lambda w, example, key: example["x"] * w.sum(), SGD, FEDJAX, criterion=BySum()
)


def test_fedavg():
    algorithm = eqf.Algorithm(BY_SUM, eqf.WeightedMean(), eqf.OptaxServer(SGD))
    state, sent = after_a_round(algorithm, [0.0, 2.0, 4.0], LARGE)
    np.testing.assert_allclose(state.model, [0.0, 1.5655555, 3.131111], rtol=1e-6)
    np.testing.assert_allclose(sent, [1.4534444, 0.2484521], rtol=1e-6)


def test_apfl():
    # FedJAX leaves out the factor alpha of a step of the client's own model, which is
    # twice the rate here. Both of its models go the same way, and alpha does not move.
    algorithm = eqf.APFL(
        *(BY_SUM.loss, SGD, FEDJAX),
        alpha=0.5,
        alpha_learning_rate=1.0,
        own_optim=optax.sgd(2.0),
        aggregator=eqf.WeightedMean(),
    )
    algorithm = eqx.tree_at(lambda a: a.client.client, algorithm, BY_SUM)
    state, sent = after_a_round(algorithm, [0.0, 2.0, 4.0], LARGE)
    np.testing.assert_allclose(state.model, [0.0, 1.5655555, 3.131111], rtol=1e-6)
    np.testing.assert_allclose(sent, [1.4534444, 0.2484521], rtol=1e-6)
    own = [[0.0, 1.35, 2.7], [0.0, 1.888889, 3.777778]]
    np.testing.assert_allclose(state.clients.params, own, rtol=1e-6)
    np.testing.assert_array_equal(state.clients.alpha, [0.5, 0.5])


def test_fedprox():
    algorithm = eqf.FedProx(product, SGD, FEDJAX, mu=0.01)
    state, sent = after_a_round(algorithm, 4.0, LARGE)
    np.testing.assert_allclose(state.model, -3.77, rtol=1e-5)
    np.testing.assert_allclose(sent, [6.95, 9.0], rtol=1e-6)


@pytest.mark.parametrize(
    "make, x, clip, expected, lengths",
    (
        (eqf.Mime, LARGE, None, 2.08, [12.0, 6.0]),
        (eqf.MimeLite, SMALL, None, 3.88, [0.7, 0.45]),
        (eqf.MimeLite, SMALL, 0.5, 3.904, [0.7, 0.45]),
    ),
)
def test_mime(make, x, clip, expected, lengths):
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
    state, sent = after_a_round(algorithm, 4.0, x)
    np.testing.assert_allclose(state.model, expected, rtol=1e-6)
    np.testing.assert_allclose(sent, lengths, rtol=1e-6)


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
    algorithm = eqf.Diagnose(algorithm, gram=True)
    state = algorithm.init(jnp.asarray(4.0), num_clients=2)
    before = jnp.asarray([[1.0, 2.0, 3.0, 4.0]] * 2)
    state = eqx.tree_at(lambda s: s.server.window, state, before)
    cohort = eqf.data.cohort(dataset, whole)
    state, metrics = algorithm.round(state, cohort, key=jr.key(0))
    np.testing.assert_allclose(norms(metrics), [2.8333335, 7.666667], rtol=1e-6)
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


def test_evaluation():
    # Eight examples of two clients, evaluated in batches of 3, 3 and 2.
    scores = np.array([[1.2, 0.4], [2.3, 0.1], [0.3, 3.2]] * 3, np.float32)[:8]
    dataset = eqf.data.FederatedDataset.from_arrays(
        {"scores": scores, "y": np.array([1, 0, 1, 0, 1, 1, 0, 1])},
        by=[0] * 6 + [1] * 2,
    )

    def measured(model, example, key):
        right = eqf.accuracy(example["scores"], example["y"])
        return eqf.cross_entropy(example["scores"], example["y"]), {"accuracy": right}

    evaluator = eqf.Evaluator(dataset, measured, batch_size=3)
    whole, each = evaluator(jnp.asarray(3.14)), evaluator.per_client(jnp.asarray(3.14))
    np.testing.assert_allclose(
        [whole["accuracy"], whole["loss"]], [0.625, 0.8419596], rtol=1e-6
    )
    np.testing.assert_allclose(each.values["accuracy"], [4 / 6, 1 / 2], rtol=1e-6)
    np.testing.assert_allclose(each.values["loss"], [0.67658216, 1.338092], rtol=1e-6)
