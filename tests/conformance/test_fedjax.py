"""The numbers that FedJAX's own tests have, from its batches, given row by row.

Those of AgnosticFedAvg's exponentiated gradient are in `test_agnostic.py`. Where a
number is nowhere, FedJAX computes something else on purpose or by mistake:
`docs/from-fedjax.md` says what.
"""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf

from ..orders import FEDJAX


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
