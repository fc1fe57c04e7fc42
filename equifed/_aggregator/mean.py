"""The means."""

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree

from .._tree import safe_divide, tree_divide, tree_scale, tree_wide
from .._wire import Aggregate, Message
from .base import AbstractAggregator, Total


def _weigh(message: Message, weight: Float[Array, ""]) -> Total:
    # A message that counts as absent may hold anything: zero times infinity is not 0.
    present = weight > 0
    payload, stats = jtu.tree_map(
        lambda x: jnp.where(present, x, jnp.zeros_like(x)),
        (message.payload, message.stats),
    )
    payload, stats = tree_wide((payload, stats))
    count = present.astype(weight.dtype)
    return Total(tree_scale(weight, payload), tree_scale(weight, stats), weight, count)


def _divide(total: Total) -> Aggregate:
    payload, stats = tree_divide((total.payload, total.stats), total.weight)
    return Aggregate(payload, stats, total.weight, total.count, total.count > 0)


def uniform_total(message: Message) -> Total:
    """One message, which counts 1 if it is there."""
    present = message.weight > 0
    return _weigh(message, present.astype(message.weight.dtype))


class WeightedMean(AbstractAggregator):
    r"""$\sum_i w_i m_i \big/ \sum_i w_i$, where $w_i$ is the message's weight: the
    client's number of examples, unless its algorithm says otherwise."""

    @property
    def gathers(self):
        return False

    def init(self, payload):
        return None

    def encode(self, message, state, *, key):
        return _weigh(message, message.weight), {}

    def decode(self, encoded, state, *, key):
        return _divide(encoded), state, {}


class UniformMean(AbstractAggregator):
    r"""$\frac{1}{|S|} \sum_{i \in S} m_i$ over the messages of nonzero weight."""

    @property
    def gathers(self):
        return False

    def init(self, payload):
        return None

    def encode(self, message, state, *, key):
        return uniform_total(message), {}

    def decode(self, encoded, state, *, key):
        return _divide(encoded), state, {}


class _Nonzero(eqx.Module):
    """The sums of a mean, and for each number the weights of those that are not 0."""

    total: Total
    weights: PyTree[Array]


class NonzeroMean(AbstractAggregator):
    r"""[`equifed.WeightedMean`][] over those messages, for each number of the payload,
    in which that number is not exactly zero.

    For models of which a client changes only a part, such as the embeddings of the
    words that it has: $\sum_i w_i m_{ij} \big/ \sum_i w_i [m_{ij} \ne 0]$, and 0 where
    all are.
    """

    @property
    def gathers(self):
        return False

    def init(self, payload):
        return None

    def encode(self, message, state, *, key):
        total = _weigh(message, message.weight)
        weights = jtu.tree_map(
            lambda x: jnp.where(x != 0, message.weight.astype(x.dtype), 0),
            total.payload,
        )
        return _Nonzero(total, weights), {}

    def decode(self, encoded, state, *, key):
        aggregate = _divide(encoded.total)
        payload = jtu.tree_map(safe_divide, encoded.total.payload, encoded.weights)
        aggregate = eqx.tree_at(lambda a: a.payload, aggregate, payload)
        return aggregate, state, {}
