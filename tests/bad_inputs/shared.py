"""What the calls share: a small problem, and short ways to write a call."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import equifed as eqf
from equifed import testing


LOSS = testing.noisy_loss
SGD = optax.sgd(0.1)
BATCHING = eqf.data.Epochs(1, batch_size=4)
WHOLE = eqf.data.Epochs(1, batch_size=8)
DATASET = testing.ragged_clients((5, 3, 0, 8))
MODEL = testing.Linear()
KEY = jr.key(0)
LOADER = eqf.data.Loader(DATASET, eqf.data.AllClients(), BATCHING)
SERVER = eqf.OptaxServer(SGD)
NAN, INF = float("nan"), float("inf")
TWO = np.ones(2)


def fresh_loss():
    """One that nothing was compiled for."""
    return lambda model, example, key: LOSS(model, example, key)


def returns(value):
    return lambda model, example, key: value(model, example)


def mesh_of(axis: str, count: int = 1):
    kind = (jax.sharding.AxisType.Auto,)
    devices = jax.devices()[:count]
    return jax.make_mesh((count,), (axis,), axis_types=kind, devices=devices)


def train(loss=None, *, model=MODEL, algorithm=None, **kwargs):
    algorithm = algorithm or eqf.FedAvg(loss or fresh_loss(), SGD, BATCHING)
    kwargs = {"loader": LOADER, "num_rounds": 3, "key": KEY, **kwargs}
    return eqf.train(algorithm, model, **kwargs)


def rounds(*, algorithm=None, state=None, **kwargs):
    algorithm = algorithm or eqf.FedAvg(fresh_loss(), SGD, BATCHING)
    state = algorithm.init(MODEL, num_clients=4) if state is None else state
    kwargs = {"loader": LOADER, "num_rounds": 3, "key": KEY, **kwargs}
    return next(iter(eqf.rounds(algorithm, state, **kwargs)))


def one_round(algorithm=None, state=None, cohort=None, model=MODEL, **kwargs):
    algorithm = algorithm or eqf.FedAvg(fresh_loss(), SGD, BATCHING)
    state = algorithm.init(model, num_clients=4) if state is None else state
    if cohort is None:
        cohort = eqf.data.cohort(DATASET, algorithm.batching)
    return algorithm.round(state, cohort, **{"key": KEY, **kwargs})


class Client(eqf.AbstractClient):
    """One whose round is given."""

    loss: object
    batching: eqf.data.AbstractBatching
    body: object

    def payload(self, params):
        return params

    def init(self, params):
        return jnp.zeros(3)

    def round(self, broadcast, data, state, *, key):
        return self.body(broadcast.params, data, state)


def client_round(body):
    client = Client(fresh_loss(), BATCHING, body)
    return one_round(eqf.Algorithm(client, eqf.WeightedMean(), SERVER))


class Aggregator(eqf.AbstractAggregator):
    """A mean whose halves may be given."""

    up: object = None
    down: object = None

    @property
    def gathers(self):
        return False

    def init(self, payload):
        return jnp.zeros(2)

    def encode(self, message, state, *, key):
        out, metrics = eqf.WeightedMean().encode(message, None, key=key)
        return self.up(out) if self.up else (out, metrics)

    def decode(self, encoded, state, *, key):
        aggregate, _, metrics = eqf.WeightedMean().decode(encoded, None, key=key)
        return self.down(aggregate, state) if self.down else (aggregate, state, metrics)


def aggregator_round(**halves):
    aggregator = Aggregator(**halves)
    return one_round(eqf.FedAvg(fresh_loss(), SGD, BATCHING, aggregator=aggregator))


class Server(eqf.AbstractServer):
    """One whose round is given."""

    body: object

    def init(self, params, *, num_clients):
        return jnp.zeros(num_clients)

    def broadcast(self, params, state):
        return None

    def round(self, params, aggregate, state, *, key):
        return self.body(params, aggregate, state)


def server_round(body):
    client = eqf.LocalSGD(fresh_loss(), SGD, BATCHING)
    return one_round(eqf.Algorithm(client, eqf.WeightedMean(), Server(body)))
