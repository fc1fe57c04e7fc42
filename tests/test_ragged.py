"""Whatever the clients' sizes, a round is local SGD on what the plan says."""

import jax
import jax.random as jr
import numpy as np
import optax
from hypothesis import example, given, settings, strategies as st
from jax.sharding import AxisType

import equifed as eqf
from equifed import testing
from equifed.data._room import Needs


RATE = 0.1


def loss(model, example, key):
    error = model.weight @ example["x"] + model.bias - example["y"]
    return error**2 / 2, {"squares": error**2}


def dataset_of(sizes):
    rng = np.random.default_rng(sum(sizes) + len(sizes))
    clients = {}
    for i, size in enumerate(sizes):
        x = rng.normal(size=(size, 3)).astype(np.float32)
        y = (x @ rng.normal(size=3) + rng.normal()).astype(np.float32)
        clients[f"client{i}"] = {"x": x, "y": y}
    return eqf.data.FederatedDataset.from_mapping(clients)


def reference(model, cohort):
    """A round in NumPy, from the integers of the plan."""
    cohort = jax.tree.map(np.asarray, cohort)
    start = np.append(np.asarray(model.weight, np.float64), float(model.bias))
    total, weight, losses = np.zeros(4), 0, []
    for d in range(cohort.num_devices):
        pool = {n: np.asarray(x[d], np.float64) for n, x in cohort.examples.items()}
        for s in range(cohort.num_slots):
            w = start.copy()
            steps = slice(int(cohort.start[d, s]), int(cohort.stop[d, s]))
            for row in cohort.order[d, steps]:
                rows = row[row >= 0]
                x = np.column_stack([pool["x"][rows], np.ones(len(rows))])
                error = x @ w - pool["y"][rows]
                losses += [*(error**2 / 2)]
                w = w - RATE * x.T @ error / len(rows)
            total += int(cohort.num_examples[d, s]) * (w - start)
            weight += int(cohort.num_examples[d, s])
    mean_loss = np.mean(losses) if losses else np.nan  # a mean over nothing
    return start + total / max(weight, 1), mean_loss


class These(eqf.data.AbstractSampler):
    """The same clients in every round, of whom there might be more."""

    clients: tuple[int, ...]
    seed: int

    def __init__(self, clients):
        self.clients, self.seed = tuple(clients), 0

    def __call__(self, round, num_clients):
        return np.array(self.clients, np.int64)

    def max_clients(self, num_clients):
        return 16


def cohort_of(dataset, clients, batching, room, *, round=0, **options):
    """A cohort of these clients with room for all that are drawn here: each shape is
    compiled, and a loader, too, makes the same room in all rounds."""
    loader = eqf.data.Loader(dataset, These(clients), batching, **options)
    loader._room = room
    return loader(round)


def check_plan(cohort, dataset, clients, batching, resident):
    """The plan itself: every client's own examples, as often as it should be."""
    cohort = jax.tree.map(np.asarray, cohort)
    present = cohort.index[0] < len(dataset)
    assert sorted(cohort.index[0][present]) == sorted(clients)
    for s in np.flatnonzero(present):
        client = int(cohort.index[0, s])
        size = int(dataset.client_sizes[client])
        assert int(cohort.num_examples[0, s]) == size
        rows = cohort.order[0, cohort.start[0, s] : cohort.stop[0, s]]
        assert len(rows) == batching.num_steps(np.array([size]))[0]
        visits = np.bincount(rows[rows >= 0] - int(cohort.first[0, s]), minlength=size)
        assert len(visits) == size
        if isinstance(batching, eqf.data.Epochs):
            assert (visits == batching.num_epochs).all()
        own = cohort.examples["y"][0][int(cohort.first[0, s]) :][:size]
        np.testing.assert_array_equal(own, dataset.client(client)["y"])
    if not resident:
        # No one else's examples are sent.
        kept = np.count_nonzero(cohort.examples["y"])
        assert kept <= dataset.client_sizes[clients].sum()


BATCHINGS = (
    eqf.data.Epochs(1, batch_size=3),
    eqf.data.Epochs(2, batch_size=3),
    eqf.data.Steps(4, batch_size=3),
    eqf.data.Epochs(1, batch_size=64),  # larger than every client
)

# All rows together are of one number too, which is a step of the ladder.
SIZES = st.lists(
    st.one_of(st.integers(0, 3), st.integers(0, 12)), min_size=5, max_size=5
).map(lambda sizes: [*sizes, 64 - sum(sizes)])

# Each batching, with blocks of one client, of two and of four.
WAYS = [*zip(BATCHINGS, (1, 2, 4, 2), strict=True), (BATCHINGS[0], 4)]


@given(
    sizes=SIZES,
    way=st.sampled_from(WAYS),
    resident=st.booleans(),
    number=st.integers(0, 5),
    data=st.data(),
)
@settings(deadline=None, max_examples=25, derandomize=True)
def test_a_round_is_local_sgd(sizes, way, resident, number, data):
    batching, block_size = way
    dataset = dataset_of(sizes)
    clients = data.draw(st.lists(st.integers(0, 5), unique=True, min_size=2), "clients")
    room = Needs(steps=48, slots=6, rows=64)
    cohort = cohort_of(
        dataset, clients, batching, room, round=number, resident=resident
    )
    check_plan(cohort, dataset, clients, batching, resident)
    algorithm = eqf.FedAvg(loss, optax.sgd(RATE), batching)
    state = algorithm.init(testing.Linear(), num_clients=len(sizes))
    executor = eqf.Executor(block_size=block_size)
    new, metrics = algorithm.round(state, cohort, key=jr.key(0), executor=executor)

    expected, mean_loss = reference(state.model, cohort)
    got = np.append(new.model.weight, new.model.bias)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics["loss"], mean_loss, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["squares"], 2 * mean_loss, rtol=1e-4, atol=1e-6)
    assert int(metrics["clients"]) == np.count_nonzero(np.array(sizes)[clients])
    assert new.round == 1


@given(sizes=SIZES, cohort_size=st.sampled_from((1, 3, 8, 16)), seed=st.integers(0, 99))
@example(sizes=[64, 0, 0, 0, 0, 0], cohort_size=1, seed=0)  # only an empty client
@settings(deadline=None, max_examples=12, derandomize=True)
def test_a_round_on_two_devices_is_too(sizes, cohort_size, seed):
    # Clients drawn with replacement: a cohort may be larger than the population.
    dataset = dataset_of(sizes)
    rng = np.random.default_rng(seed)
    clients = rng.integers(0, len(sizes), cohort_size)
    batching = BATCHINGS[0]
    algorithm = eqf.FedAvg(loss, optax.sgd(RATE), batching)
    state = algorithm.init(testing.Linear(), num_clients=len(sizes))
    mesh = jax.make_mesh(
        (2,), ("clients",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]
    )
    room = Needs(steps=320, slots=8, rows=64)
    cohort = cohort_of(dataset, clients, batching, room, mesh=mesh)
    expected, _ = reference(state.model, cohort)
    executor = eqf.Executor(block_size=2)
    new, metrics = algorithm.round(state, cohort, key=jr.key(0), executor=executor)
    got = np.append(new.model.weight, new.model.bias)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert int(metrics["clients"]) == np.count_nonzero(np.array(sizes)[clients])
    if metrics["clients"] == 0:
        jax.tree.map(np.testing.assert_array_equal, new.model, state.model)
