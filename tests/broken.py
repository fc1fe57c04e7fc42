"""The likeliest mistakes in an algorithm of one's own, and the law that sees each."""

# Fields may be given as properties.
# pyright: reportAssignmentType=false, reportCallIssue=false

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import equifed as eqf


def total(values, mask):
    return jnp.sum(jnp.where(mask, values, 0))


def masked_mean(values, mask):
    count = jnp.maximum(jnp.sum(mask), 1)
    return total(values, mask) / count.astype(values.dtype)


def counted(values, mask):
    return eqf.Average(total(values, mask), jnp.sum(mask).astype(values.dtype))


def step_keys(key, i, batch_size):
    return jr.split(jr.fold_in(key, i), batch_size)


class Own(eqf.AbstractClient):
    """Local SGD written anew; its arguments are where it can go wrong."""

    loss: Callable
    batching: eqf.data.AbstractBatching
    mean: Callable
    metric: Callable
    keys: Callable
    weight: Callable

    def __init__(
        self,
        loss,
        batching,
        mean=masked_mean,
        metric=counted,
        keys=step_keys,
        weight=lambda data: data.weight,
    ):
        self.loss, self.batching = loss, batching
        self.mean, self.metric, self.keys = mean, metric, keys
        self.weight = weight

    def payload(self, params):
        return params

    def init(self, params):
        return None

    def round(self, broadcast, data, state, *, key):
        start, static = broadcast.params, broadcast.rest

        def batch_loss(params, examples, mask, i):
            model = eqx.combine(params, static)
            keys = self.keys(key, i, mask.size)
            values, extra = jax.vmap(self.loss, (None, 0, 0))(model, examples, keys)
            measured = {"loss": values, **extra}
            metrics = {n: self.metric(x, mask) for n, x in measured.items()}
            return self.mean(values, mask), metrics

        def step(carry, examples, mask, i):
            params, metrics = carry
            grad = jax.grad(batch_loss, has_aux=True)
            grads, new = grad(params, examples, mask, i)
            params = jax.tree.map(lambda p, g: p - 0.05 * g, params, grads)
            return params, {name: metrics[name].merge(new[name]) for name in new}

        zeros = {name: eqf.Average(0.0, 0.0) for name in ("loss", "y")}
        params, metrics = data.fold(step, (start, zeros))
        delta = jax.tree.map(jnp.subtract, params, start)
        return eqf.Message(delta, self.weight(data)), state, metrics


def own(**mistake):
    def make(loss, batching):
        server = eqf.OptaxServer(optax.sgd(1.0))
        return eqf.Algorithm(Own(loss, batching, **mistake), eqf.WeightedMean(), server)

    return make


class Wrapped(eqf.AbstractClient):
    """`LocalSGD`, and something done to its key, its message or its state."""

    client: eqf.LocalSGD
    change: Callable
    loss = property(lambda self: self.client.loss)
    batching = property(lambda self: self.client.batching)

    def payload(self, params):
        return params

    def init(self, params):
        return None

    def round(self, broadcast, data, state, *, key):
        def run(key):
            return self.client.round(broadcast, data, state, key=key)

        return self.change(run, data, key)


def wrapped(change):
    def make(loss, batching):
        client = Wrapped(eqf.LocalSGD(loss, optax.sgd(0.05), batching), change)
        server = eqf.OptaxServer(optax.sgd(1.0))
        return eqf.Algorithm(client, eqf.WeightedMean(), server)

    return make


def with_payload(result, change):
    message, state, metrics = result
    payload = jax.tree.map(change, message.payload)
    return eqf.Message(payload, message.weight), state, metrics


def adds_noise_with_the_clients_key(run, data, key):
    noise = 0.01 * jr.normal(key, ())
    return with_payload(run(key), lambda x: x + noise)


def adds_noise_with_a_steps_key(run, data, key):
    def step(total, examples, mask, i):
        return total + 0.01 * jr.normal(key, ())

    noise = data.fold(step, jnp.zeros(()))
    return with_payload(run(jr.fold_in(key, 0)), lambda x: x + noise)


def looks_at_its_place_in_the_plan(run, data, key):
    return run(jr.fold_in(key, data.start))


def looks_at_its_place_in_the_pool(run, data, key):
    return run(jr.fold_in(key, data.first))


def cuts_the_gradient(run, data, key):
    return with_payload(run(key), jax.lax.stop_gradient)


def loops_by_itself(run, data, key):
    def halve(x):
        return jax.lax.while_loop(lambda y: jnp.any(y > 1), lambda y: y / 2, x)

    return with_payload(run(key), halve)


def asks_the_host(run, data, key):
    def ask(x):
        return jax.pure_callback(np.asarray, x, x)

    return with_payload(run(key), ask)


class Rounds:
    """What is kept outside of the state."""

    count = 0

    def __call__(self, x):
        self.count += 1
        return np.asarray(x) * np.float32(self.count)


def keeps_to_itself(run, data, key):
    rounds = Rounds()

    def ask(x):
        return jax.pure_callback(rounds, x, x, vmap_method="sequential")

    return with_payload(run(key), ask)


class Sums(eqf.AbstractAggregator):
    """A mean of its own."""

    weigh: Callable
    """The payload and the weight that are summed."""
    count: Callable

    gathers = False

    def init(self, payload):
        return None

    def encode(self, message, state, *, key):
        payload, weight = self.weigh(message)
        return (payload, weight, (message.weight > 0).astype(jnp.float32)), {}

    def decode(self, encoded, state, *, key):
        payload, weight, count = encoded
        inverse = 1 / jnp.maximum(weight.astype(jnp.float32), 1e-6)
        mean = jax.tree.map(lambda x: x.astype(jnp.float32) * inverse, payload)
        count = self.count(count)
        return eqf.Aggregate(mean, None, weight, count, count > 0), state, {}


def multiplies(message):
    return jax.tree.map(lambda x: message.weight * x, message.payload), message.weight


def weighs_all_alike(message):
    return message.payload, jnp.ones_like(message.weight)


def is_careful(message):
    keep = message.weight > 0
    present = jax.tree.map(lambda x: jnp.where(keep, x, 0), message.payload)
    return multiplies(eqf.Message(present, message.weight))


def sums_in_half_precision(message):
    payload, weight = is_careful(message)
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), payload), weight


class Median(eqf.AbstractAggregator):
    """A median of all that is gathered, whatever its weight."""

    gathers = True

    def init(self, payload):
        return None

    def encode(self, message, state, *, key):
        return message, {}

    def decode(self, encoded, state, *, key):
        count = jnp.sum(encoded.weight > 0).astype(jnp.float32)
        payload = jax.tree.map(lambda x: jnp.median(x, axis=0), encoded.payload)
        weight = encoded.weight.sum()
        return eqf.Aggregate(payload, None, weight, count, count > 0), state, {}


class Noise(eqf.AbstractAggregator):
    """The same noise for every leaf."""

    aggregator: eqf.AbstractAggregator
    gathers = False

    def init(self, payload):
        return self.aggregator.init(payload)

    def encode(self, message, state, *, key):
        return self.aggregator.encode(message, state, key=key)

    def decode(self, encoded, state, *, key):
        key, noise_key = jr.split(key)
        aggregate, state, metrics = self.aggregator.decode(encoded, state, key=key)

        def noisy(x):
            return x + 0.01 * jr.normal(noise_key, x.shape)

        payload = jax.tree.map(noisy, aggregate.payload)
        aggregate = eqx.tree_at(lambda a: a.payload, aggregate, payload)
        return aggregate, state, metrics


def aggregated(aggregator):
    return lambda loss, batching: eqf.FedAvg(
        loss, optax.sgd(0.05), batching, aggregator=aggregator
    )


class Server(eqf.AbstractServer):
    """One that changes what it sends or keeps."""

    change: Callable

    def init(self, params, *, num_clients):
        return jnp.zeros((), jnp.int32)

    def broadcast(self, params, state):
        return None

    def round(self, params, aggregate, state, *, key):
        params = jax.tree.map(jnp.add, params, aggregate.payload)
        return self.change(params, state)


def served(change):
    return lambda loss, batching: eqf.Algorithm(
        eqf.LocalSGD(loss, optax.sgd(0.05), batching),
        eqf.WeightedMean(),
        Server(change),
    )


def server_asks_the_host(params, state):
    return jax.tree.map(lambda x: jax.pure_callback(np.asarray, x, x), params), state


class Adds(eqf.AbstractServer):
    """One with a function of its own."""

    add: Callable

    def init(self, params, *, num_clients):
        return None

    def broadcast(self, params, state):
        return None

    def round(self, params, aggregate, state, *, key):
        return jax.tree.map(self.add, params, aggregate.payload), state


def fresh_function(loss, batching):
    client = eqf.LocalSGD(loss, optax.sgd(0.05), batching)
    return eqf.Algorithm(client, eqf.WeightedMean(), Adds(lambda p, d: p + d))


class Warm(eqf.AbstractAlgorithm):
    """Begins each round from the mean of a pass before it, with an aggregator that is
    none of its fields."""

    algorithm: eqf.FedAvg
    aggregator: eqf.AbstractAggregator
    add: Callable
    loss = property(lambda self: self.algorithm.loss)
    batching = property(lambda self: self.algorithm.batching)

    def begin(self, params, *, num_clients, key):
        return self.algorithm.begin(params, num_clients=num_clients, key=key)

    def step(self, state, clients, *, key):
        broadcast = eqf.Broadcast(state.params, state.rest)
        out = clients(self.algorithm.client, self.aggregator, broadcast, key=key)
        params = jax.tree.map(jnp.add, state.params, out.aggregate.payload)
        state = dataclasses.replace(state, params=params)
        key = jr.fold_in(key, 0)
        state, metrics, accept = self.algorithm.step(state, clients, key=key)
        return state, self.add(metrics, out.metrics), accept

    def model(self, state):
        return state.model


def warm(aggregator, add):
    return lambda loss, batching: Warm(
        eqf.FedAvg(loss, optax.sgd(0.05), batching), aggregator, add
    )


def of_the_last_pass(metrics, first):
    return metrics


def of_nobody(metrics, first):
    more = {"bits_down": metrics["bits_down"].merge(eqf.Bits(32))}
    return {**eqf.add_bits(metrics, first), **more}


def mean(values, mask):
    return jnp.mean(values)


def mean_over_the_batch_size(values, mask):
    return jnp.sum(jnp.where(mask, values, 0)) / mask.size


def metric_of_all_places(values, mask):
    return eqf.Average(jnp.sum(values), jnp.ones((), values.dtype) * mask.size)


def mean_of_batches(values, mask):
    return eqf.Average(masked_mean(values, mask), 1.0)


def same_in_every_step(key, i, batch_size):
    return jr.split(key, batch_size)


def same_in_a_batch(key, i, batch_size):
    return jnp.broadcast_to(jr.fold_in(key, i), (batch_size,))


def same_for_every_client(key, i, batch_size):
    return step_keys(jr.key(0), i, batch_size)


def in_turns(key, i, batch_size):
    return step_keys(key, i % 2, batch_size)


# Where it goes wrong, and the law that sees it.
BROKEN = {
    "plain mean": (own(mean=mean), "empty_places"),
    "over the batch size": (own(mean=mean_over_the_batch_size), "empty_places"),
    "metrics without the mask": (own(metric=metric_of_all_places), "empty_places"),
    "mean of batches": (own(metric=mean_of_batches), "metrics_are_means"),
    "a key for all steps": (own(keys=same_in_every_step), "keys"),
    "two keys in turns": (own(keys=in_turns), "keys"),
    "a key for a batch": (own(keys=same_in_a_batch), "keys"),
    "a key for all clients": (own(keys=same_for_every_client), "keys"),
    "noise with the client's key": (
        wrapped(adds_noise_with_the_clients_key),
        "key_reuse",
    ),
    "noise with one key": (wrapped(adds_noise_with_a_steps_key), "key_reuse"),
    "noise of all leaves": (aggregated(Noise(eqf.UniformMean())), "key_reuse"),
    "weight 1": (own(weight=lambda data: jnp.ones(())), "silent_clients"),
    "weight without a step": (
        own(weight=lambda data: data.num_examples.astype(jnp.float32)),
        "silent_clients",
    ),
    "all messages alike": (
        aggregated(Sums(weighs_all_alike, lambda n: n)),
        "silent_clients",
    ),
    "zero times NaN": (aggregated(Sums(multiplies, lambda n: n)), "absent_messages"),
    "zero times NaN in another pass": (
        warm(Sums(multiplies, lambda n: n), eqf.add_bits),
        "absent_messages",
    ),
    "a pass that is not counted": (
        warm(eqf.WeightedMean(), of_the_last_pass),
        "ledger",
    ),
    "bits that are nobody's": (warm(eqf.WeightedMean(), of_nobody), "ledger"),
    "median of all": (aggregated(Median()), "absent_messages"),
    "a count of one": (
        aggregated(Sums(is_careful, lambda n: jnp.maximum(n, 1))),
        "nobody",
    ),
    "a state outside": (wrapped(keeps_to_itself), "resume"),
    "a fresh function": (fresh_function, "one_trace"),
    "half precision": (
        aggregated(Sums(sums_in_half_precision, lambda n: n)),
        "permutation",
    ),
    "place in the pool": (wrapped(looks_at_its_place_in_the_pool), "streamed"),
    "host without vmap": (wrapped(asks_the_host), "block_size"),
    "place in the plan": (wrapped(looks_at_its_place_in_the_plan), "devices"),
    "server's host without vmap": (served(server_asks_the_host), "sweep"),
    "no gradient": (wrapped(cuts_the_gradient), "differentiable"),
    "a loop of its own": (wrapped(loops_by_itself), "differentiable"),
}
