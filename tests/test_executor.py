"""How a round is run does not show in what each client computes, nor in memory."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import equifed as eqf
from equifed import testing
from equifed._round.step import round_step

from .collect import Collect
from .shared import drawn, line_loss


SIZES = (5, 0, 1, 12, 3, 5, 2)
BATCHING = eqf.data.Epochs(2, batch_size=4)
DATASET = testing.ragged_clients(SIZES)


def mesh_of(count):
    return jax.make_mesh(
        (count,),
        ("clients",),
        axis_types=(AxisType.Auto,),
        devices=jax.devices()[:count],
    )


def deltas(executor, mesh=None):
    client = eqf.LocalSGD(testing.noisy_loss, optax.sgd(0.1), BATCHING)
    server = eqf.OptaxServer(optax.sgd(1.0))
    algorithm = eqf.Algorithm(client, Collect(len(SIZES)), server)
    state = algorithm.init(testing.Linear(), num_clients=len(SIZES))
    cohort = eqf.data.cohort(DATASET, BATCHING, mesh=mesh)
    state, _ = algorithm.round(state, cohort, key=jr.key(0), executor=executor)
    return jtu.tree_map(np.asarray, state.aggregator)


@functools.cache
def expected_deltas():
    return deltas(eqf.Executor())


@pytest.mark.parametrize("block_size", (1, 3))
def test_what_a_client_does_is_traced_once(block_size):
    traces = 0

    class Client(eqf.LocalSGD):
        def __init__(self):
            super().__init__(line_loss, optax.sgd(0.1), BATCHING)

        def round(self, *args, **kwargs):
            nonlocal traces
            traces += 1
            return super().round(*args, **kwargs)

    client = Client()
    server = eqf.OptaxServer(optax.sgd(1.0))
    algorithm = eqf.Algorithm(client, eqf.WeightedMean(), server)
    state = algorithm.init(testing.Linear(), num_clients=len(SIZES))
    cohort = eqf.data.cohort(DATASET, BATCHING)
    executor = eqf.Executor(block_size=block_size)
    how = {"key": jr.key(0), "executor": executor}
    eqx.filter_eval_shape(algorithm.round, state, cohort, **how)
    assert traces == 1


# On four devices there are two slots on each, fewer than a block of three.
@pytest.mark.parametrize(
    "num_devices, block_size", ((None, 3), (1, 1), (2, 3), (4, 1), (4, 3)), ids=str
)
def test_each_client_computes_the_same_on_any_device(num_devices, block_size):
    # Were the model known to be the same on all devices, JAX would silently sum the
    # gradients of clients on different devices.
    expected, weights = expected_deltas()
    np.testing.assert_array_equal(weights, SIZES)
    assert (expected.bias != 0).sum() == 6
    mesh = None if num_devices is None else mesh_of(num_devices)
    got, weights = deltas(eqf.Executor(block_size=block_size), mesh)
    np.testing.assert_array_equal(weights, SIZES)
    np.testing.assert_allclose(got.weight, expected.weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.bias, expected.bias, rtol=1e-5, atol=1e-6)


def test_a_client_computes_what_it_would_alone():
    got, _ = expected_deltas()
    algorithm = eqf.FedAvg(testing.noisy_loss, optax.sgd(0.1), BATCHING)
    state = algorithm.init(testing.Linear(), num_clients=len(SIZES))
    for i in (0, 5):
        cohort = eqf.data.cohort(DATASET, BATCHING, clients=[i])
        new, metrics = algorithm.round(state, cohort, key=jr.key(0))
        assert metrics["clients"] == 1
        moved = np.asarray(new.model.weight) - np.asarray(state.model.weight)
        np.testing.assert_allclose(moved, got.weight[i], rtol=1e-5, atol=1e-6)


MESHES = {
    "two axes": lambda: jax.make_mesh(
        (2, 2), ("model", "clients"), axis_types=(AxisType.Auto,) * 2
    ),
    "explicit": lambda: jax.make_mesh(
        (2,), ("clients",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2]
    ),
    # What the error about a mesh without that axis says to do.
    "default": lambda: jax.make_mesh((jax.device_count(),), ("clients",)),
}


@pytest.mark.parametrize("name", MESHES)
def test_any_mesh_with_a_clients_axis(name):
    mesh = MESHES[name]()
    expected, _ = expected_deltas()
    got, _ = deltas(eqf.Executor(), mesh)
    np.testing.assert_allclose(got.weight, expected.weight, rtol=1e-5, atol=1e-6)
    # A state for each client, and the bits of an ordered sum, over two rounds.
    algorithm = eqf.Scaffold(line_loss, optax.sgd(0.1), BATCHING)
    weights = []
    for where in (None, mesh):
        loader = eqf.data.Loader(DATASET, eqf.data.AllClients(), BATCHING, mesh=where)
        executor = eqf.Executor(ordered=True)
        solution = eqf.train(
            algorithm,
            testing.Linear(),
            loader,
            num_rounds=2,
            key=jr.key(0),
            executor=executor,
        )
        weights.append(solution.model.weight)
    if mesh.size == mesh.shape["clients"]:
        np.testing.assert_array_equal(*weights)
    np.testing.assert_allclose(*weights, rtol=1e-5, atol=1e-6)


def temporary_bytes(aggregator, num_clients, executor, num_features=2**15):
    """The memory that a compiled round needs beside its inputs and outputs."""

    def loss(model, example, key):
        return jnp.sum(model * example["x"])

    dataset = eqf.data.FederatedDataset.from_mapping(
        {str(i): {"x": np.ones((2, 1), np.float32)} for i in range(num_clients)}
    )
    batching = eqf.data.Epochs(1, batch_size=2)
    algorithm = eqf.FedAvg(loss, optax.sgd(0.1), batching, aggregator=aggregator)
    state = algorithm.init(jnp.zeros(num_features), num_clients=num_clients)
    cohort = eqf.data.cohort(dataset, batching)
    arguments = (algorithm, state, cohort, jr.key(0), executor)
    arrays, static = eqx.partition(arguments, eqx.is_array)

    def step(arrays):
        state, metrics = round_step(*eqx.combine(arrays, static))
        return eqx.filter((state, metrics), eqx.is_array)

    compiled = jax.jit(step).lower(arrays).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


MESSAGE = 4 * 2**15


@pytest.mark.parametrize("block_size", (1, 4))
def test_sums_do_not_stack_messages(block_size):
    """They need room for a block's messages, of 64 clients."""
    executor = eqf.Executor(block_size=block_size)
    for aggregator in (
        eqf.WeightedMean(),
        eqf.DropNonfinite(eqf.Clip(eqf.UniformMean(), max_norm=1.0)),
    ):
        room = temporary_bytes(aggregator, 64, executor)
        assert room < (2 * block_size + 2) * MESSAGE


def test_a_median_stacks_messages():
    """So the measure would notice."""
    assert temporary_bytes(eqf.Median(), 64, eqf.Executor(block_size=4)) > 64 * MESSAGE


PROBLEM = testing.Quadratics((1.0, 4.0, 2.0), (1.0, -1.0, 3.0), (4, 2, 6))


def after_one_round(rate, executor, mesh=None):
    batching = eqf.data.Epochs(2, batch_size=2)
    cohort = eqf.data.cohort(PROBLEM.dataset(), batching, mesh=mesh)
    algorithm = eqf.FedAvg(testing.quadratic_loss, optax.sgd(rate), batching)
    state = algorithm.init(testing.Point(3.0), num_clients=3)
    state, _ = algorithm.round(state, cohort, key=jr.key(0), executor=executor)
    return state.model.x


@pytest.mark.parametrize("num_devices, block_size", ((None, 2), (2, 1)), ids=str)
def test_hypergradient(num_devices, block_size):
    # K steps take client i from x to b + (1 - rate a)^K (x - b).
    mesh = None if num_devices is None else mesh_of(num_devices)
    executor = eqf.Executor(block_size=block_size, differentiable=True)
    run = jax.jit(lambda rate: after_one_round(rate, executor, mesh))
    value, slope = jax.jit(jax.value_and_grad(run))(0.05)
    a, b, n = map(np.array, (PROBLEM.curvatures, PROBLEM.centres, PROBLEM.num_examples))
    steps = 2 * n // 2
    ends = b + (1 - 0.05 * a) ** steps * (3.0 - b)
    slopes = -a * steps * (1 - 0.05 * a) ** (steps - 1) * (3.0 - b)
    np.testing.assert_allclose(value, np.average(ends, weights=n), rtol=1e-5)
    np.testing.assert_allclose(slope, np.average(slopes, weights=n), rtol=1e-5)


def test_a_key_of_either_kind():
    algorithm = eqf.FedAvg(testing.noisy_loss, optax.sgd(0.1), BATCHING)
    state = algorithm.init(testing.Linear(), num_clients=len(SIZES))
    cohort = eqf.data.cohort(DATASET, BATCHING)
    typed, _ = algorithm.round(state, cohort, key=jr.key(3))
    raw, _ = algorithm.round(state, cohort, key=jr.PRNGKey(3))
    np.testing.assert_array_equal(typed.model.weight, raw.model.weight)


@functools.cache
def perceptron():
    return drawn(lambda key: eqx.nn.MLP(3, "scalar", 64, 2, key=key), 0, 0.1)


def square_loss(model, example, key):
    return (model(example["x"]) - example["y"]) ** 2


def split_weights(model, mesh):
    """Every hidden layer's outputs are spread over the axis `model`."""

    def put(x):
        spec = PartitionSpec("model") if x.shape[0] == 64 else PartitionSpec()
        return jax.device_put(x, NamedSharding(mesh, spec))

    return jtu.tree_map(lambda x: put(x) if eqx.is_array(x) else x, model)


def train_perceptron(model, mesh=None):
    """Both the server and the clients keep something."""
    server = optax.adam(0.01)
    algorithm = eqf.Scaffold(
        square_loss, optax.sgd(0.01), BATCHING, server_optim=server
    )
    loader = eqf.data.Loader(DATASET, eqf.data.AllClients(), BATCHING, mesh=mesh)
    solution = eqf.train(algorithm, model, loader, num_rounds=3, key=jr.key(0))
    return solution.state


# Those that `make_mesh` makes are explicit, and become automatic.
@pytest.mark.parametrize("types", ({"axis_types": (AxisType.Auto,) * 2}, {}), ids=str)
def test_a_model_spread_over_devices(types):
    """Two devices to a client: the same numbers, each holding half the weights."""
    mesh = jax.make_mesh((2, 2), ("clients", "model"), **types)
    expected = train_perceptron(perceptron())
    got = train_perceptron(split_weights(perceptron(), mesh), mesh)
    for x, y in zip(
        jtu.tree_leaves(eqx.filter(expected.model, eqx.is_array)),
        jtu.tree_leaves(eqx.filter(got.model, eqx.is_array)),
        strict=True,
    ):
        np.testing.assert_allclose(y, x, rtol=1e-5, atol=1e-6)
    weight = got.model.layers[1].weight
    assert {s.data.shape for s in weight.addressable_shards} == {(32, 64)}
    # What the server and the clients keep is spread like the weights.
    kept = [
        [x for x in jtu.tree_leaves(tree) if x.shape[-2:] == (64, 64)]
        for tree in (got.server, got.clients)
    ]
    assert all(kept)
    for x in sum(kept, []):
        assert {s.data.shape[-2:] for s in x.addressable_shards} == {(32, 64)}


class WithEmpty(eqx.Module):
    """A model of which one array has no number."""

    weight: jax.Array
    none: jax.Array


@pytest.mark.parametrize("around", ["ordered", "gathered", "diagnosed"])
def test_an_array_without_numbers_is_trained_as_any(around):
    model = WithEmpty(jnp.zeros(3), jnp.zeros((0, 4)))

    def loss(model, example, key):
        return (model.weight @ example["x"] - example["y"]) ** 2 + model.none.sum()

    aggregator = eqf.Median() if around == "gathered" else None
    algorithm = eqf.FedAvg(loss, optax.sgd(0.1), BATCHING, aggregator=aggregator)
    if around == "diagnosed":
        algorithm = eqf.Diagnose(algorithm)
    state = algorithm.init(model, num_clients=len(SIZES))
    cohort = eqf.data.cohort(DATASET, BATCHING)
    how = eqf.Executor(ordered=around == "ordered")
    state, metrics = algorithm.round(state, cohort, key=jr.key(0), executor=how)
    assert jnp.abs(state.params.weight).max() > 0
    assert state.params.none.shape == (0, 4)
    assert np.isfinite(metrics["loss"])
