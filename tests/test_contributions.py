"""The Shapley values of docs/fairness.md, against their definition, and the coalitions'
models against rounds of these clients alone."""

import itertools
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf

from .test_docs import blocks


PAGE = pathlib.Path(__file__).parents[1] / "docs" / "fairness.md"
RNG = np.random.default_rng(0)
DATASET = eqf.data.FederatedDataset.from_mapping(
    {
        f"{i}": {
            "image": RNG.normal(size=(3 + i, 2)).astype(np.float32),
            "label": RNG.normal(size=3 + i).astype(np.float32),
        }
        for i in range(8)
    }
)
BATCHING = eqf.data.Epochs(1, batch_size=2)


def loss(model, example, key):
    return (model @ example["image"] - example["label"]) ** 2


@pytest.fixture(scope="module")
def page():
    """What the page's last two blocks define, on a smaller problem."""
    namespace = {"__name__": "__main__", "eqf": eqf, "eqx": eqx, "jax": jax}
    namespace |= {"jnp": jnp, "jr": jr, "np": np, "loss": loss, "test": DATASET}
    namespace |= {"sgd": optax.sgd(0.1), "batching": BATCHING, "model": jnp.ones(2)}
    loader = eqf.data.Loader(DATASET, eqf.data.AllClients(), BATCHING)
    namespace["loader"] = loader
    for code, _ in blocks(PAGE)[-2:]:
        exec(compile(code, PAGE, "exec"), namespace)
    return namespace


def by_permutations(values, n):
    """What a client adds to those before it, in the mean over all orders."""
    total = np.zeros(n)
    orders = list(itertools.permutations(range(n)))
    for order in orders:
        before = 0
        for k in order:
            after = before | 1 << (n - 1 - k)
            total[k] += values[after] - values[before]
            before = after
    return total / len(orders)


def test_shapley_values_are_means_over_all_orders(page):
    for n in (1, 2, 4):
        values = RNG.normal(size=2**n)
        got = page["shapley"](values)
        np.testing.assert_allclose(got, by_permutations(values, n), atol=1e-12)
        np.testing.assert_allclose(got.sum(), values[-1] - values[0])


def test_a_coalition_is_as_a_round_of_it_alone(page):
    algorithm = eqf.FedAvg(loss, optax.sgd(0.1), BATCHING)
    for place in (0, 1, 7, 0b10010010, 255):
        (clients,) = np.nonzero(page["masks"][place])
        # Client 0 is the left-most bit.
        assert place == sum(1 << (7 - k) for k in clients)
        model = jnp.ones(2)
        if clients.size:
            state = algorithm.init(model, num_clients=8)
            cohort = eqf.data.cohort(
                DATASET, BATCHING, clients=[int(k) for k in clients], seed=0
            )
            model = algorithm.round(state, cohort, key=jr.key(1))[0].model
        value = -eqf.evaluate(model, DATASET, loss)["loss"]
        np.testing.assert_allclose(page["values"][place], value, rtol=1e-5)
    total = page["contributions"].sum()
    np.testing.assert_allclose(total, page["values"][255] - page["values"][0], 1e-4)
