"""What a step can do: which leaves it trains, whom it asks, what it accepts."""

# Fields may be given as properties.
# pyright: reportAssignmentType=false, reportCallIssue=false

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import optax
import pytest

import equifed as eqf
from equifed import testing


BATCHING = eqf.data.Epochs(1, batch_size=4)
DATASET = testing.ragged_clients((5, 3, 0, 8))
COHORT = eqf.data.cohort(DATASET, BATCHING)
MODEL, KEY = testing.Linear(), jr.key(0)
SGD = optax.sgd(0.1)


def run(algorithm, cohort=COHORT, *, executor=None, **kwargs) -> Any:
    state = algorithm.init(MODEL, num_clients=len(DATASET), **kwargs)
    executor = eqf.Executor() if executor is None else executor
    return state, *algorithm.round(state, cohort, key=KEY, executor=executor)


def without_bias(model, example, key):
    """A loss that does not see the bias as one of the params."""
    model = eqx.tree_at(lambda m: m.bias, model, MODEL.bias)
    return testing.noisy_loss(model, example, key)


WEIGHT = eqf.roles(MODEL, shared=lambda m: m.weight)


@pytest.mark.parametrize("kind", (eqf.FedAvg, eqf.Scaffold, eqf.Mime))
def test_what_is_not_trained_stays_and_does_not_travel(kind):
    decay = optax.sgd(0.1) if kind is eqf.Mime else optax.adamw(0.1, weight_decay=0.5)
    algorithm = kind(testing.noisy_loss, decay, BATCHING)
    before, after, _ = run(algorithm, roles=WEIGHT)
    assert before.params.bias is None
    np.testing.assert_array_equal(after.model.bias, MODEL.bias)
    assert (after.model.weight != MODEL.weight).all()
    _, expected, _ = run(kind(without_bias, decay, BATCHING))
    np.testing.assert_allclose(after.model.weight, expected.model.weight, rtol=1e-5)


def test_training_takes_roles():
    loader = eqf.data.Loader(DATASET, eqf.data.AllClients(), BATCHING)
    algorithm = eqf.FedAvg(testing.noisy_loss, SGD, BATCHING)
    solution = eqf.train(algorithm, MODEL, loader, num_rounds=2, key=KEY, roles=WEIGHT)
    np.testing.assert_array_equal(solution.model.bias, MODEL.bias)
    assert (solution.model.weight != MODEL.weight).all()


class Noise(eqf.AbstractAggregator):
    """A mean that has something to say whoever came, and says how long messages are."""

    name: str = "length"

    @property
    def gathers(self):
        return False

    def init(self, payload):
        return None

    def encode(self, message, state, *, key):
        encoded, metrics = eqf.WeightedMean().encode(message, state, key=key)
        there = (message.weight > 0).astype(jnp.float32)
        length = jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(message.payload)))
        return encoded, {**metrics, self.name: eqf.Average(there * length, there)}

    def decode(self, encoded, state, *, key):
        aggregate, state, _ = eqf.WeightedMean().decode(encoded, state, key=key)
        leaves, treedef = jax.tree.flatten(aggregate.payload)
        keys = jr.split(key, len(leaves))
        noise = [jr.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        payload = jax.tree.map(jnp.add, aggregate.payload, treedef.unflatten(noise))
        where = lambda a: (a.payload, a.accept)  # noqa: E731
        aggregate = eqx.tree_at(where, aggregate, (payload, jnp.asarray(True)))
        return aggregate, state, {"noise": eqf.Sum(jnp.asarray(1.0))}


def test_an_aggregator_reports_and_says_whether_to_act():
    algorithm = eqf.FedAvg(testing.noisy_loss, SGD, BATCHING, aggregator=Noise())
    _, after, metrics = run(algorithm)
    assert metrics["length"] > 0
    assert metrics["noise"] == 1
    nobody = eqx.tree_at(
        lambda c: c.index, COHORT, jnp.full_like(COHORT.index, np.iinfo(np.int32).max)
    )
    _, moved, metrics = run(algorithm, nobody)
    assert metrics["clients"] == 0
    assert np.isnan(metrics["length"])
    assert (moved.model.weight != MODEL.weight).all()
    # A mean has nothing to say.
    _, stayed, _ = run(eqf.FedAvg(testing.noisy_loss, SGD, BATCHING), nobody)
    np.testing.assert_array_equal(stayed.model.weight, MODEL.weight)


def test_a_metric_has_one_owner():
    def loss(model, example, key):
        return model.bias * example["y"], {"length": 1.0}

    with pytest.raises(ValueError, match="'length'.*another name"):
        run(eqf.FedAvg(loss, SGD, BATCHING, aggregator=Noise()))
    taken = eqf.FedAvg(loss, SGD, BATCHING, aggregator=Noise("clients"))
    with pytest.raises(ValueError, match="`Noise.encode`.*'clients'"):
        run(taken)


class Reads(eqf.AbstractClient):
    """Sends what the loader says of it."""

    loss: Callable
    batching: eqf.data.AbstractBatching

    def init(self, params):
        return None

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        payload = jax.tree.map(lambda x: x + data.info, broadcast.params)
        one = jnp.ones_like(data.weight)
        return eqf.Message(payload, one), state, {"loss": eqf.Average(one)}


@pytest.mark.parametrize("block_size", (1, 3))
def test_a_client_reads_its_info(block_size):
    info = 10.0 * (1 + COHORT.index.astype(float))
    cohort = dataclasses.replace(COHORT, info=info)
    assert cohort.client(1).info == info[0, 1]
    server = eqf.OptaxServer(optax.sgd(1.0))
    client = Reads(testing.noisy_loss, BATCHING)
    algorithm = eqf.Algorithm(client, eqf.UniformMean(), server)
    executor = eqf.Executor(block_size=block_size)
    _, after, _ = run(algorithm, cohort, executor=executor)
    np.testing.assert_allclose(after.model.bias, 2 * MODEL.bias + 25)


class Again(eqf.AbstractAlgorithm):
    """FedAvg that goes over its clients three times a round, in a loop."""

    loss: Callable
    batching: eqf.data.AbstractBatching

    def begin(self, params, *, num_clients, key):
        return eqf.Beginning(params)

    def step(self, state, clients, *, key):
        client = eqf.LocalSGD(self.loss, SGD, self.batching)

        def once(params, i):
            sent = eqf.Broadcast(params, state.rest)
            out = clients(client, eqf.WeightedMean(), sent, key=jr.fold_in(key, i))
            params = jax.tree.map(jnp.add, params, out.aggregate.payload)
            return params, (out.metrics, out.aggregate.accept)

        params, (metrics, accept) = jax.lax.scan(once, state.params, jnp.arange(3))
        metrics = jax.tree.map(lambda x: x.sum(0), metrics)
        return dataclasses.replace(state, params=params), metrics, accept.all()

    def model(self, state):
        return state.model


def test_passes_in_a_loop():
    # Where sums are ordered, such a round is one program after all.
    algorithm = Again(testing.noisy_loss, BATCHING)
    _, plain, metrics = run(algorithm)
    _, ordered, _ = run(algorithm, executor=eqf.Executor(ordered=True))
    assert metrics["clients"] == 9
    np.testing.assert_allclose(ordered.model.weight, plain.model.weight, rtol=1e-5)


def test_a_rejected_round_keeps_what_clients_keep():
    def loss(model, example, key):
        return testing.noisy_loss(model, example, key)

    class Diverges(eqf.AbstractServer):
        def init(self, params, *, num_clients):
            return None

        def broadcast(self, params, state):
            return jax.tree.map(jnp.zeros_like, params)

        def round(self, params, aggregate, state, *, key):
            return jax.tree.map(lambda x: x + jnp.nan, params), state

    client = eqf.LocalSGD(loss, SGD, BATCHING, eqf.ControlVariate())
    for server, moved in ((Diverges(), False), (None, True)):
        if server is None:
            algorithm = eqf.Scaffold(loss, SGD, BATCHING)
        else:
            algorithm = eqf.Algorithm(client, eqf.UniformMean(), server)
        before, after, metrics = run(algorithm)
        assert bool(metrics["nonfinite_model"]) == (not moved)
        assert bool((after.clients.weight != before.clients.weight).any()) == moved
        assert after.round == 1


class Chooses(eqf.AbstractAlgorithm):
    """FedAvg of some of the clients."""

    algorithm: eqf.FedAvg
    choose: Callable = eqx.field(static=True)
    loss = property(lambda self: self.algorithm.loss)
    batching = property(lambda self: self.algorithm.batching)

    def begin(self, params, *, num_clients, key):
        return self.algorithm.begin(params, num_clients=num_clients, key=key)

    def step(self, state, clients, *, key):
        return self.algorithm.step(state, clients.only(self.choose(clients)), key=key)

    def model(self, state):
        return state.model


@contextlib.contextmanager
def as_users_have_it():
    """Without the checks of types that only the tests switch on."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    "choose",
    (lambda c: c.index, lambda c: c.present[0], lambda c: c.index.astype(float)),
    ids=("numbers", "another shape", "scores"),
)
def test_only_takes_a_truth_for_each_slot(choose):
    fedavg = eqf.FedAvg(testing.noisy_loss, SGD, BATCHING)
    with as_users_have_it(), pytest.raises(TypeError, match="takes a boolean for each"):
        run(Chooses(fedavg, choose))


class Keeps(eqf.AbstractClient):
    """Sends nothing new, and keeps a model of its own."""

    loss: Callable
    batching: eqf.data.AbstractBatching

    def init(self, params):
        return params

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        message, _, metrics = eqf.LocalSGD(self.loss, SGD, self.batching).round(
            broadcast, data, None, key=key
        )
        own = jax.tree.map(lambda x: x + 1, broadcast.params)
        return message, own, metrics


class OwnModels(eqf.AbstractOnePass):
    """One whose clients have models of their own, which its server knows of."""

    client: eqf.AbstractClient
    aggregator: eqf.AbstractAggregator
    server: eqf.AbstractServer

    def own_model(self, state, kept):
        assert state.server == SERVER.init(state.params, num_clients=4)
        return eqx.combine(kept, state.rest)


SERVER = eqf.OptaxServer(optax.sgd(1.0))


def test_a_client_uses_the_model_that_was_trained_or_its_own_around_it_too():
    plain = eqf.Scaffold(testing.noisy_loss, SGD, BATCHING)
    _, state, _ = run(plain)
    kept = jax.tree.map(lambda x: x[0], state.clients)
    assert eqx.tree_equal(plain.own_model(state, kept), state.model)
    several = eqf.IFCA(testing.noisy_loss, SGD, BATCHING, num_clusters=2)
    assert several.own_model(several.init(MODEL, num_clients=4, key=KEY), None) is None

    own = OwnModels(Keeps(testing.noisy_loss, BATCHING), eqf.UniformMean(), SERVER)
    unused = eqf.compress.Whole(eqf.compress.RandomK(0.5, scaled=False))
    for around in (
        own,
        eqf.PowerOfChoice(own, 2),
        eqf.OverRounds(lambda t: own),
        eqf.CompressDown(own, unused),
    ):
        state = around.init(MODEL, num_clients=4)
        state = eqx.tree_at(lambda s: s.clients.bias, state, jnp.arange(4.0))
        kept = jax.tree.map(lambda x: x[2], state.clients)
        model = around.own_model(state, kept)
        assert isinstance(model, testing.Linear)
        np.testing.assert_array_equal(model.weight, MODEL.weight)
        assert model.bias == 2
