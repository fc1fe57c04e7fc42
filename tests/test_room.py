"""Room for nearly every round: one program for a training, and the same numbers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing
from equifed.data._plan import ladder
from equifed.data._room import Needs


class CNN(eqx.Module):
    conv: eqf.nn.Conv2d
    dense: eqx.nn.Linear

    def __init__(self, key):
        keys = jr.split(key)
        self.conv = eqf.nn.Conv2d(1, 4, 3, padding=1, key=keys[0])
        self.dense = eqx.nn.Linear(4 * 8 * 8, 10, key=keys[1])

    def __call__(self, image):
        x = image[:, :, None].astype(jnp.float32) / 16
        return self.dense(jax.nn.relu(self.conv(x)).reshape(-1))


def test_a_cnn_is_compiled_once():
    traces = []

    def loss(model, example, key):
        traces.append(None)
        return eqf.cross_entropy(model(example["image"]), example["label"])

    columns = {n: np.asarray(c) for n, c in eqf.data.digits().columns.items()}
    partition = eqf.data.DirichletPartition(20, alpha=0.5, seed=0)
    train = eqf.data.FederatedDataset.from_arrays(columns, by=partition)
    batching = eqf.data.Epochs(2, batch_size=8)
    algorithm = eqf.FedAvg(loss, optax.sgd(0.05, momentum=0.9), batching)
    loader = eqf.data.Loader(train, eqf.data.UniformSampler(5, seed=0), batching)
    model = CNN(jr.key(0))
    state = algorithm.init(model, num_clients=loader.num_clients)
    counts = [
        len(traces)
        for _ in eqf.rounds(algorithm, state, loader, num_rounds=30, key=jr.key(0))
    ]
    assert len(set(counts)) == 1
    # Rounded up by themselves, its rounds would need several programs.
    needs = [int(c.stop.max()) for _, c in loader.cohorts(0, 30)]
    assert len({ladder(need) for need in needs[:5]}) > 1


@pytest.mark.exact
def test_room_changes_no_number():
    dataset = testing.ragged_clients((5, 0, 3, 18, 6, 1, 9))
    batching = eqf.data.Epochs(1, batch_size=2)
    algorithm = eqf.Scaffold(testing.noisy_loss, optax.sgd(0.1), batching)
    results, shapes = [], []
    # Nor does it where the data lies.
    rooms = {None: False, Needs(): True, Needs(steps=100, slots=7, rows=300): False}
    for room, resident in rooms.items():
        sampler = eqf.data.PoissonSampler(0.4, seed=1)
        loader = eqf.data.Loader(dataset, sampler, batching, resident=resident)
        if room is not None:
            vars(loader)["_room"] = room
        shapes.append({loader(r).order.shape for r in range(8)})
        solution = eqf.train(
            algorithm, testing.Linear(), loader, num_rounds=8, key=jr.key(0)
        )
        results.append(solution)
    assert [len(some) for some in shapes] == [1, len(shapes[1]), 1]
    assert len(shapes[1]) > 1
    for other in results[1:]:
        assert str(other.history) == str(results[0].history)
        for a, b in zip(
            jax.tree.leaves(other.state), jax.tree.leaves(results[0].state), strict=True
        ):
            np.testing.assert_array_equal(a, b)
