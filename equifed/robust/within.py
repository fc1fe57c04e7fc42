"""An aggregator of messages that were made of others, at the server."""

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._aggregator import AbstractAggregator
from .._aggregator.base import Gathered
from .._bits import SENT
from .._metrics import AbstractMetric, masked_sum
from .._tree import rowwise, tree_wide
from .._types import AggregatorState
from .._wire import Aggregate, Message


def mixed(messages: Gathered, weights: Float[Array, "new messages"]) -> PyTree[Array]:
    """Payloads and `stats` of new messages: a row of weights for each of them."""

    def mix(x):
        rows = tree_wide(x.reshape(x.shape[0], -1))
        new = jnp.matmul(weights.astype(rows.dtype), rows, precision="highest")
        return new.reshape(-1, *x.shape[1:])

    return jtu.tree_map(mix, (messages.message.payload, messages.message.stats))


def ranks(present: Array) -> Int[Array, " messages"]:
    """The places of the messages among those that are there, which does not depend on
    how many are not."""
    return jnp.cumsum(present) - 1


def aggregated(
    aggregator: AbstractAggregator,
    means: PyTree[Array],
    weight: Float[Array, " new"],
    state: AggregatorState,
    *,
    key: PRNGKeyArray,
) -> tuple[Aggregate, AggregatorState, dict[str, AbstractMetric]]:
    """What an aggregator makes of new messages, of these payloads and `stats` and of
    these weights, as an executor would have it."""
    encode_key, decode_key = jr.split(key)
    present = weight > 0
    keys = jax.vmap(lambda i: jr.fold_in(encode_key, i))(ranks(present))

    def encode(means, weight, key):
        payload, stats = means
        message = Message(payload, weight, stats)
        return aggregator.encode(message, state, key=key)

    encoded, metrics = jax.vmap(encode)(means, weight, keys)
    if aggregator.gathers:
        keep = lambda x: jnp.where(rowwise(present, x), x, jnp.zeros_like(x))  # noqa: E731
        encoded = jtu.tree_map(keep, encoded)
    else:
        encoded = masked_sum(encoded, present)
    aggregate, state, measured = aggregator.decode(encoded, state, key=decode_key)
    metrics = {**masked_sum(metrics, present), **measured}
    # These are made where all messages are: nothing is sent.
    return aggregate, state, {n: x for n, x in metrics.items() if n not in SENT}
