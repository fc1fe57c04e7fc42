"""Messages that are compressed on their way to an aggregator."""

import jax.numpy as jnp
import jax.tree_util as jtu

from .._aggregator import AbstractAggregator
from .._bits import payload_bits
from .._check import check_kind
from .._wire import check_additive, Message
from .base import AbstractCompressor


class Compress(AbstractAggregator):
    """Compresses each message, and hands what is decoded to another aggregator.

    The round's metrics count in `bits_up` what was sent, the plain `stats` and the
    weight included, and gain `bits_up_entropy` and `bits_up_arithmetic`: the same with
    the symbols coded.

    **Arguments:**

    - `aggregator`: any aggregator, of decoded messages.
    - `compressor`: one that remembers nothing. Those that do, such as
        [`equifed.compress.ErrorFeedback`][], belong to the client:
        [`equifed.compress.CompressedClient`][].
    """

    aggregator: AbstractAggregator
    compressor: AbstractCompressor

    def __check_init__(self):
        check_kind("aggregator", self.aggregator, AbstractAggregator)
        check_kind("compressor", self.compressor, AbstractCompressor)

    @property
    def gathers(self):
        return self.aggregator.gathers

    def init(self, payload):
        if jtu.tree_leaves(self.compressor.init(payload)):
            name = type(self.compressor).__name__
            raise TypeError(
                f"`{name}` remembers something of each client, which an aggregator "
                "cannot. Wrap the client: `CompressedClient(client, compressor)`."
            )
        return self.aggregator.init(payload), jnp.zeros((), jnp.int32)

    def encode(self, message, state, *, key):
        check_additive(message.payload, self)
        inner, round = state
        decoded, _, sent = self.compressor.compress(
            message.payload, None, key=key, round=round
        )
        sent = sent.with_more(payload_bits((message.stats, message.weight)))
        message = Message(decoded, message.weight, message.stats)
        encoded, metrics = self.aggregator.encode(message, inner, key=key)
        there = message.weight > 0
        own = jtu.tree_map(
            lambda x: jnp.where(there, x, jnp.zeros_like(x)), sent.metrics
        )
        # Another one that compresses further says what is left.
        return encoded, {**own, **metrics}

    def decode(self, encoded, state, *, key):
        inner, round = state
        aggregate, inner, metrics = self.aggregator.decode(encoded, inner, key=key)
        return aggregate, (inner, round + 1), metrics
