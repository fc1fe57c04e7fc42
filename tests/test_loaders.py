"""Loaders of one's own, and what a loader says of clients beside their examples."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing

from .test_data_loader import mesh_of


BATCHING = eqf.data.Epochs(1, batch_size=4)
# Of unlike sizes, but any two make a cohort of the same shape.
DATASET = testing.ragged_clients((9, 10, 10, 9))
SAMPLER = eqf.data.UniformSampler(2, seed=4)
KEY = jr.key(1)


class Own(eqf.data.AbstractLoader):
    """As `Loader`, but for what the tests break."""

    def __init__(
        self, *, last=None, shift=0, mesh=None, batching: Any = BATCHING, make=None
    ):
        self.batching, self.mesh = batching, mesh
        self._last, self._shift, self._make = last, shift, make

    @property
    def num_clients(self):
        return DATASET.num_clients

    def cohorts(self, start=0, stop=None):
        assert stop is not None
        stop = stop if self._last is None else min(stop, self._last)
        for round in range(start, stop):
            numbers = SAMPLER(round, DATASET.num_clients)
            cohort = eqf.data.cohort(
                DATASET, BATCHING, clients=numbers, round=round, seed=4, mesh=self.mesh
            )
            yield round + self._shift, cohort if self._make is None else self._make


def algorithm():
    return eqf.Scaffold(testing.noisy_loss, optax.sgd(0.1), BATCHING)


def train(loader, **options):
    model = testing.Linear()
    return eqf.train(algorithm(), model, loader, num_rounds=5, key=KEY, **options)


@pytest.mark.parametrize(("rounds_per_call", "count"), [(1, 2), (2, 1)])
def test_a_loader_of_ones_own_trains_as_the_librarys(rounds_per_call, count):
    mesh = None if count == 1 else mesh_of(count)
    loader = eqf.data.Loader(DATASET, SAMPLER, BATCHING, mesh=mesh)
    expected = train(loader)
    got = train(Own(mesh=mesh), rounds_per_call=rounds_per_call)
    for a, b in zip(
        jax.tree.leaves(got.state), jax.tree.leaves(expected.state), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert [row["loss"] for row in got.history] == pytest.approx(
        [row["loss"] for row in expected.history], rel=1e-5
    )


@pytest.mark.parametrize(
    "loader, words",
    (
        (Own(last=3), "ended before round 3"),
        (Own(shift=1), "but where 0 was due it gave 1"),
        (Own(make=DATASET), "must give a `Cohort`"),
        (Own(batching=None), "`loader.batching`"),
        (
            Own(make=eqf.data.cohort(testing.ragged_clients((3,) * 9), BATCHING)),
            "gave a client number 8 in round 0, but the loader's `num_clients` is 4",
        ),
        (
            Own(make=eqf.data.cohort(DATASET, BATCHING, mesh=mesh_of(2))),
            "another mesh than the loader's",
        ),
    ),
    ids=("ends", "numbers", "kind", "batching", "clients", "mesh"),
)
@pytest.mark.parametrize("rounds_per_call", (1, 2))
def test_a_loader_that_breaks_its_promise_is_refused(loader, words, rounds_per_call):
    with pytest.raises((TypeError, ValueError), match=words):
        train(loader, rounds_per_call=rounds_per_call)


def test_a_missing_row_is_found_in_a_loader_of_ones_own():
    def loss(model, example, key):
        return model[example["y"].astype(jnp.int32)] * 1.0

    class Ids(Own):
        def cohorts(self, start=0, stop=None):
            columns = {"y": np.array([0, 1, 9], np.int32)}
            data = eqf.data.FederatedDataset.from_arrays(columns, by=[0, 0, 1])
            yield 0, eqf.data.cohort(data, BATCHING)

        @property
        def num_clients(self):
            return 2

    fedavg = eqf.FedAvg(loss, optax.sgd(0.1), BATCHING)
    with pytest.raises(ValueError, match="9"):
        eqf.train(fedavg, jnp.zeros(3), Ids(), num_rounds=1, key=KEY)


def slope_loss(model, example, key):
    return (model * example["x"] - example["y"]) ** 2


def test_rounds_of_a_stream_in_one_call():
    import datasets

    # Client i has i + 1 rows, of which each asks for a slope of 2.
    rows = [
        {"who": f"c{i}", "x": np.float32(i), "y": np.float32(2 * i)}
        for i in range(7)
        for _ in range(i + 1)
    ]
    stream = datasets.Dataset.from_list(rows).to_iterable_dataset()
    loader = eqf.data.StreamLoader(
        eqf.data.ClientStream(stream, by="who"), 3, BATCHING, seed=1
    )
    fedavg = eqf.FedAvg(slope_loss, optax.sgd(0.01), BATCHING)
    solution = eqf.train(
        fedavg, jnp.zeros(()), loader, num_rounds=5, key=KEY, rounds_per_call=2
    )
    slope, seen = 0.0, set()
    for (_, cohort), row in zip(loader.cohorts(0, 5), solution.history, strict=True):
        sizes = np.asarray(cohort.num_examples[0])
        clients, slopes, losses = sizes[sizes > 0] - 1, [], []
        for i in clients:
            own = slope
            for batch in np.array_split(np.ones(i + 1), range(4, i + 1, 4)):
                losses += [*((own - 2) ** 2 * i**2 * batch)]
                own -= 0.01 * 2 * i**2 * (own - 2)
            slopes.append(own)
        slope = np.average(slopes, weights=clients + 1)
        np.testing.assert_allclose(row["loss"], np.mean(losses), rtol=1e-5)
        seen |= {*clients}
    assert seen == {*range(7)}
    np.testing.assert_allclose(solution.model, slope, rtol=1e-6)


class Says(eqf.AbstractClient):
    """Sends what the loader says of it, and keeps its round."""

    loss: Any
    batching: eqf.data.AbstractBatching

    def init(self, params):
        return jnp.zeros((), jnp.float32)

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        payload = jax.tree.map(jnp.zeros_like, broadcast.params)
        said = data.info["age"].astype(jnp.float32) + 10 * data.info["pair"][1]
        return eqf.Message(payload, data.weight), said, {"loss": eqf.Sum(0.0)}


def said(round, clients):
    return {"age": clients + 100 * round, "pair": np.stack([clients, clients / 8], 1)}


@pytest.mark.parametrize("resident", (True, False))
@pytest.mark.parametrize("count", (1, 2))
@pytest.mark.parametrize("rounds_per_call", (1, 2))
def test_what_a_loader_says_of_clients_reaches_them(resident, count, rounds_per_call):
    mesh = None if count == 1 else mesh_of(count)
    loader = eqf.data.Loader(
        DATASET, SAMPLER, BATCHING, mesh=mesh, resident=resident, info=said
    )
    server = eqf.OptaxServer(optax.sgd(1.0))
    client = Says(testing.noisy_loss, BATCHING)
    solution = eqf.train(
        eqf.Algorithm(client, eqf.UniformMean(), server),
        testing.Linear(),
        loader,
        num_rounds=3,
        key=KEY,
        rounds_per_call=rounds_per_call,
    )
    expected = np.zeros(4)
    for round in range(3):
        clients = SAMPLER(round, 4)
        expected[clients] = clients + 100 * round + 10 * clients / 8
    np.testing.assert_allclose(solution.state.clients, expected)


@pytest.mark.parametrize(
    "info", (lambda r, c: c[:1], lambda r, c: 3, lambda r, c: c.astype(str))
)
def test_what_is_not_said_of_each_client_is_refused(info):
    loader = eqf.data.Loader(DATASET, SAMPLER, BATCHING, info=info)
    with pytest.raises(ValueError, match="an entry for each of the 2 clients"):
        loader(0)
