"""What `Diagnose` tells of messages, against NumPy, and that it changes no bit."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing

from .shared import only


SGD = optax.sgd(0.1)
BATCHING = eqf.data.Epochs(2, batch_size=2)
RNG = np.random.default_rng(0)
SIZES = (3, 5, 0, 2, 4)
DATASET = eqf.data.FederatedDataset.from_mapping(
    {
        f"{i}": {
            "x": RNG.normal(size=(n, 3)).astype(np.float32),
            "y": RNG.normal(size=n).astype(np.float32),
        }
        for i, n in enumerate(SIZES)
    }
)
MODEL = testing.Linear()
KEY = jr.key(0)
SCALARS = ("gradient_diversity", "cosine_mean", "cosine_min")
SCALARS += ("norm_min", "norm_median", "norm_max")


def loss(model, example, key):
    return (model.weight @ example["x"] + model.bias - example["y"]) ** 2


def fedavg(**kwargs):
    return eqf.FedAvg(loss, SGD, BATCHING, **kwargs)


def one_round(algorithm, clients, model=MODEL, mesh=None, alone=None, **kwargs):
    state = algorithm.init(model, num_clients=len(SIZES))
    cohort = eqf.data.cohort(DATASET, BATCHING, clients=clients, mesh=mesh)
    cohort = cohort if alone is None else only(cohort, alone)
    return algorithm.round(state, cohort, key=KEY, **kwargs)


def changes(clients):
    """Each client's own, from a round of it alone."""
    rows = []
    for client in clients:
        state, _ = one_round(fedavg(), clients, alone=client)
        pairs = zip(
            *map(jax.tree.leaves, (state.params, testing.Linear())), strict=True
        )
        rows.append(np.concatenate([np.ravel(x - y) for x, y in pairs]))
    return np.array(rows, np.float64)


def expected(m):
    total = m.sum(0)
    norms = np.linalg.norm(m, axis=1)
    cosines = m @ total / norms / np.linalg.norm(total)
    return dict(
        zip(
            SCALARS,
            (
                (norms**2).sum() / (total @ total),
                cosines.mean(),
                cosines.min(),
                norms.min(),
                np.median(norms),
                norms.max(),
            ),
            strict=True,
        )
    )


@pytest.mark.parametrize("aggregator", (eqf.WeightedMean(), eqf.Median()))
def test_against_numpy(aggregator):
    # In another order than that of the numbers, with one that has no examples.
    around = eqf.Diagnose(fedavg(aggregator=aggregator), gram=True)
    _, metrics = one_round(around, [4, 1, 2, 0])
    m = changes([0, 1, 4])
    for name, value in expected(m).items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    np.testing.assert_array_equal(metrics["gram_clients"][:3], [0, 1, 4])
    assert (metrics["gram_clients"][3:] == -1).all()
    np.testing.assert_allclose(metrics["gram"][:3, :3], m @ m.T, rtol=1e-4)
    assert np.isnan(metrics["gram"][3:]).all()
    assert np.isnan(metrics["gram"][:, 3:]).all()
    assert metrics["clients"] == 3


def test_messages_that_are_alike_and_that_cancel():
    problem = testing.Quadratics((1.0, 1.0), (1.0, -1.0), (2, 2))
    batching = eqf.data.Epochs(1, batch_size=2)
    algorithm = eqf.Diagnose(eqf.FedAvg(testing.quadratic_loss, SGD, batching))
    cohort = eqf.data.cohort(problem.dataset(), batching)
    found = []
    for start in (100.0, 0.0):
        state = algorithm.init(testing.Point(start), num_clients=2)
        _, metrics = algorithm.round(state, cohort, key=KEY)
        found.append({name: float(metrics[name]) for name in SCALARS})
    alike, opposite = found
    np.testing.assert_allclose(alike["gradient_diversity"], 1 / 2, rtol=1e-3)
    np.testing.assert_allclose(alike["cosine_min"], 1, rtol=1e-6)
    assert opposite["gradient_diversity"] == np.inf
    assert np.isnan(opposite["cosine_mean"])
    np.testing.assert_allclose(opposite["norm_median"], 0.1, rtol=1e-6)


def test_what_is_not_finite_is_left_out_and_of_nobody_there_is_nothing_to_say():
    problem = testing.Quadratics((1.0, 1.0, 1.0), (1.0, np.nan, -3.0), (2, 2, 2))
    batching = eqf.data.Epochs(1, batch_size=2)
    algorithm = eqf.Diagnose(
        eqf.FedAvg(
            *(testing.quadratic_loss, SGD, batching),
            aggregator=eqf.DropNonfinite(eqf.UniformMean()),
        ),
        gram=True,
    )
    state = algorithm.init(testing.Point(0.0), num_clients=3)
    cohort = eqf.data.cohort(problem.dataset(), batching)
    _, metrics = algorithm.round(state, cohort, key=KEY)
    assert list(metrics["gram_clients"])[:3] == [0, 2, -1]
    gram = np.array([[0.01, -0.03], [-0.03, 0.09]])
    np.testing.assert_allclose(metrics["gram"][:2, :2], gram, rtol=1e-5)
    np.testing.assert_allclose(metrics["gradient_diversity"], 0.1 / 0.04, rtol=1e-5)
    cohort = eqf.data.cohort(problem.dataset(), batching, clients=[1])
    _, metrics = algorithm.round(state, cohort, key=KEY)
    assert all(np.isnan(metrics[name]) for name in SCALARS)


MAKE = {
    "FedAvg": fedavg,
    "Scaffold": lambda: eqf.Scaffold(loss, SGD, BATCHING),
    "Mime": lambda: eqf.Mime(loss, optax.sgd(0.1, momentum=0.9), BATCHING),
    "Median": lambda: fedavg(aggregator=eqf.Median()),
    "Clip": lambda: fedavg(aggregator=eqf.Clip(eqf.WeightedMean(), max_norm=0.1)),
    "QFedAvg": lambda: eqf.QFedAvg(loss, 0.1, BATCHING, q=1),
}


@pytest.mark.exact
@pytest.mark.parametrize("name", MAKE)
def test_it_changes_no_bit(name):
    check_same(name)


# Each client is a program by itself here, however it is compiled.
@pytest.mark.parametrize("name", MAKE)
def test_it_changes_no_bit_of_ordered_rounds(name):
    check_same(name, executor=eqf.Executor(ordered=True))


@pytest.mark.exact
@pytest.mark.skipif(jax.device_count() < 2, reason="there is one device")
def test_it_changes_no_bit_on_two_devices():
    auto, devices = (jax.sharding.AxisType.Auto,), jax.devices()[:2]
    mesh = jax.make_mesh((2,), ("clients",), axis_types=auto, devices=devices)
    check_same("FedAvg", mesh=mesh)


def check_same(name, **kwargs):
    plain, around = (
        one_round(x, [4, 1, 2, 0], **kwargs)
        for x in (MAKE[name](), eqf.Diagnose(MAKE[name](), gram=True))
    )
    for x, y in zip(*map(jax.tree.leaves, (plain[0], around[0])), strict=True):
        np.testing.assert_array_equal(x, y)
    added = around[1].keys() - plain[1].keys()
    assert added == {*SCALARS, "gram", "gram_clients"}
    for metric, value in plain[1].items():
        for x, y in zip(*map(jax.tree.leaves, (value, around[1][metric])), strict=True):
            np.testing.assert_array_equal(x, y)


class Rows(eqf.AbstractLogger):
    def __init__(self):
        self.rows = []

    def start(self, num_rounds, first_round):
        pass

    def log(self, round, metrics):
        self.rows.append(metrics)

    def close(self):
        pass


@pytest.mark.parametrize("rounds_per_call", (1, 2))
def test_in_the_history_and_in_the_log(rounds_per_call):
    algorithm = eqf.Diagnose(eqf.Scaffold(loss, SGD, BATCHING), gram=True)
    loader = eqf.data.Loader(DATASET, eqf.data.UniformSampler(3, seed=0), BATCHING)
    logger = Rows()
    solution = eqf.train(
        algorithm,
        MODEL,
        loader,
        num_rounds=2,
        key=KEY,
        logger=logger,
        rounds_per_call=rounds_per_call,
    )
    for number, (row, logged) in enumerate(
        zip(solution.history, logger.rows, strict=True)
    ):
        assert all(isinstance(row[name], float) for name in SCALARS)
        assert logged.keys() >= set(SCALARS)
        assert not logged.keys() & {"gram", "gram_clients"}
        here = [int(i) for i in row["gram_clients"] if i >= 0]
        drawn = eqf.data.UniformSampler(3, seed=0)(number, len(SIZES))
        assert here == sorted(i for i in drawn if SIZES[i])
        gram = row["gram"][: len(here), : len(here)]
        norms = np.sqrt(np.diagonal(gram))
        np.testing.assert_allclose(norms.max(), row["norm_max"], rtol=1e-5)


def test_in_half_precision_products_are_not():
    model = jax.tree.map(lambda x: x.astype(jnp.bfloat16), testing.Linear())

    def in_half(model, example, key):
        x = example["x"].astype(jnp.bfloat16)
        y = example["y"].astype(jnp.bfloat16)
        return (model.weight @ x + model.bias - y) ** 2

    algorithm = eqf.Diagnose(eqf.FedAvg(in_half, SGD, BATCHING), gram=True)
    _, metrics = one_round(algorithm, [0, 1, 3], model)
    assert metrics["gram"].dtype == metrics["norm_max"].dtype == jnp.float32
    diagonal = np.sqrt(np.nanmax(np.diagonal(metrics["gram"])))
    np.testing.assert_allclose(diagonal, metrics["norm_max"], rtol=1e-5)


def test_other_parts_are_those_of_the_algorithm():
    inner = eqf.FedRep(loss, SGD, BATCHING, personal_parts=1, shared_parts=1)
    algorithm = eqf.Diagnose(inner)
    assert algorithm.needs == inner.needs
    roles = eqf.roles(MODEL, personal=lambda m: m.bias)
    state = algorithm.init(MODEL, num_clients=len(SIZES), roles=roles)
    cohort = eqf.data.cohort(DATASET, BATCHING)
    state, metrics = algorithm.round(state, cohort, key=KEY)
    assert 0 < metrics["gradient_diversity"] < np.inf
    kept = jax.tree.map(lambda x: x[1], state.clients)
    same = algorithm.own_model(state, kept), inner.own_model(state, kept)
    for x, y in zip(*map(jax.tree.leaves, same), strict=True):
        np.testing.assert_array_equal(x, y)


def test_large_messages_are_compared_as_small_ones():
    def scaled(by):
        def linear(model, example, key):  # the same changes, times a number
            return by * (model.weight @ example["x"] + model.bias * example["y"])

        algorithm = eqf.Diagnose(eqf.FedAvg(linear, SGD, BATCHING))
        return one_round(algorithm, [0, 1, 3])[1]

    small, large = scaled(1.0), scaled(2.0**80)
    for name in SCALARS:
        factor = 2.0**80 if name.startswith("norm") else 1.0
        np.testing.assert_allclose(large[name], small[name] * factor, rtol=1e-5)
