"""A client that compresses what it sends, and remembers what that lost."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu

from .._bits import payload_bits
from .._check import checked
from .._client import AbstractClient, AbstractWrapper
from .._tree import tree_cast_like, tree_where
from .._wire import check_additive
from .base import AbstractCompressor


class CompressedClient(AbstractWrapper):
    """Compresses a client's messages, with the compressor's memory in its state.

    The memory stays as it is in a round in which the client's message counts as absent
    or is not finite, and where the round is rejected. The metrics are those of
    [`equifed.compress.Compress`][].

    **Arguments:**

    - `client`: any client.
    - `compressor`: any compressor, `ErrorFeedback(TopK(0.01))` say.

    !!! example

        ```python
        algorithm = eqf.FedAvg(loss, optax.sgd(0.1), batching)
        algorithm = eqx.tree_at(
            lambda a: a.client, algorithm,
            eqf.compress.CompressedClient(algorithm.client, compressor),
        )
        ```
    """

    client: AbstractClient
    compressor: AbstractCompressor

    @checked()
    def __init__(self, client: AbstractClient, compressor: AbstractCompressor):
        self.client = client
        self.compressor = compressor

    @property
    def sends(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.client.sends

    def init(self, params):
        payload = self.client.payload(params)
        return self.client.init(params), self.compressor.init(payload)

    def payload(self, params):
        return self.client.payload(params)

    def round(self, broadcast, data, state, *, key):
        inner, memory = state
        train_key, key = jr.split(key)
        message, inner, metrics = self.client.round(
            broadcast, data, inner, key=train_key
        )
        check_additive(message.payload, self)
        decoded, new, sent = self.compressor.compress(
            message.payload, memory, key=key, round=data.round
        )
        there = message.weight > 0
        memory = tree_where(there, new, memory)
        aside = (message.stats, message.statistics, message.weight)
        sent = sent.with_more(payload_bits(aside))
        counts: Any = jtu.tree_map(
            lambda x: jnp.where(there, x, jnp.zeros_like(x)), sent.metrics
        )
        payload = tree_cast_like(decoded, message.payload)
        message = dataclasses.replace(message, payload=payload)
        return message, (inner, memory), {**metrics, **counts}
