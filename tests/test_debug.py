"""`Executor(debug=True)`: the same round in Python, and where it went wrong."""

import jax
import jax.core
import jax.random as jr
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing


BATCHING = eqf.data.Epochs(1, batch_size=3)
DATA = testing.ragged_clients((4, 0, 2))
SGD, KEY, DEBUG = optax.sgd(0.1), jr.key(0), eqf.Executor(debug=True)
LOADER = eqf.data.Loader(DATA, eqf.data.AllClients(), BATCHING)


def assert_close(x, y):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), x, y
    )


def both(algorithm, cohort):
    state = algorithm.init(testing.Linear(), num_clients=3)
    return (
        algorithm.round(state, cohort, key=KEY, executor=executor)
        for executor in (eqf.Executor(), DEBUG)
    )


@pytest.mark.parametrize(
    "make",
    (
        lambda loss: eqf.Scaffold(loss, optax.adam(0.1), BATCHING, option=1),
        lambda loss: eqf.FedAvg(loss, SGD, BATCHING, aggregator=eqf.Median()),
        lambda loss: eqf.Mime(loss, SGD, BATCHING),
    ),
)
def test_it_is_the_round(make):
    algorithm = make(testing.noisy_loss)
    (state, metrics), (again, measured) = both(algorithm, LOADER(0))
    assert metrics.keys() == measured.keys()
    assert_close((state.params, state.clients), (again.params, again.clients))
    assert_close(metrics, measured)


def test_on_two_devices():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("clients",))
    cohort = eqf.data.cohort(DATA, BATCHING, mesh=mesh)
    (state, _), (again, _) = both(eqf.FedAvg(testing.noisy_loss, SGD, BATCHING), cohort)
    assert_close(state.params, again.params)


def test_without_a_client():
    empty = eqf.data.cohort(DATA, BATCHING, clients=[1])
    (state, metrics), (again, measured) = both(
        eqf.FedAvg(testing.noisy_loss, SGD, BATCHING), empty
    )
    assert_close(state.params, again.params)
    assert np.isnan(metrics["loss"])
    assert np.isnan(measured["loss"])


def test_the_loss_sees_plain_values():
    seen = []

    def loss(model, example, key):
        y = example["y"]
        if not isinstance(y, jax.core.Tracer):
            assert not isinstance(model.bias, jax.core.Tracer)
            seen.append(float(y))
        return testing.noisy_loss(model, example, key)

    algorithm = eqf.FedAvg(loss, SGD, BATCHING)
    state = algorithm.init(testing.Linear(), num_clients=3)
    algorithm.round(state, LOADER(0), key=KEY, executor=DEBUG)
    values = [float(y) for client in DATA for y in DATA[client]["y"]]
    np.testing.assert_allclose(sorted(seen), sorted(values))


def failing(at):
    def loss(model, example, key):
        y = example["y"]
        if not isinstance(y, jax.core.Tracer) and float(y) == at:
            raise KeyError("here")
        return testing.noisy_loss(model, example, key)

    return loss


def test_an_error_says_where_it_was_raised():
    client = DATA.client_ids[0]
    cohort = LOADER(0)
    # The last example that the client visits: alone in its second batch.
    row = int(np.asarray(cohort.order)[0, int(cohort.stop[0, 0]) - 1, 0])
    at = float(cohort.examples["y"][0, row])
    algorithm = eqf.FedAvg(failing(at), SGD, BATCHING)
    state = algorithm.init(testing.Linear(), num_clients=3)
    with pytest.raises(KeyError, match="here") as raised:
        next(
            eqf.rounds(algorithm, state, LOADER, num_rounds=2, key=KEY, executor=DEBUG)
        )
    notes = [x for x in raised.value.__notes__ if x.startswith("It was raised")]
    assert notes == [
        "It was raised for example 0 of a batch.",
        "It was raised in step 1 (the first is 0).",
        "It was raised in `LocalSGD.round`.",
        f"It was raised for client 0, {client!r}.",
        "It was raised in round 1.",
    ]


def test_training_in_debug():
    algorithm = eqf.FedAvg(testing.noisy_loss, SGD, BATCHING)
    one, other = (
        eqf.train(
            algorithm,
            testing.Linear(),
            LOADER,
            num_rounds=2,
            key=KEY,
            executor=executor,
            logger=eqf.NoLogger(),
        )
        for executor in (eqf.Executor(), DEBUG)
    )
    assert_close(one.model, other.model)
    assert_close([x["loss"] for x in one.history], [x["loss"] for x in other.history])


def test_notes_are_not_made_elsewhere():
    def loss(model, example, key):
        raise KeyError("here")

    algorithm = eqf.FedAvg(loss, SGD, BATCHING)
    state = algorithm.init(testing.Linear(), num_clients=3)
    with pytest.raises(ValueError, match="The loss failed") as raised:
        algorithm.round(state, LOADER(0), key=KEY)
    notes = getattr(raised.value, "__notes__", [])
    assert not any(x.startswith("It was raised") for x in notes)
