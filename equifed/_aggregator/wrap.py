"""Aggregators that change each message before another aggregator sees it."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._check import check_kind, number
from .._tree import tree_isfinite, tree_norm, tree_scale, tree_unit
from .._wire import check_additive, Message
from .base import AbstractAggregator


class AbstractEach(AbstractAggregator):
    """Changes each message before another aggregator sees it, which does the rest."""

    aggregator: eqx.AbstractVar[AbstractAggregator]

    def __check_init__(self):
        check_kind("aggregator", self.aggregator, AbstractAggregator)

    @property
    def gathers(self):
        return self.aggregator.gathers

    def init(self, payload):
        return self.aggregator.init(payload)

    def decode(self, encoded, state, *, key):
        return self.aggregator.decode(encoded, state, key=key)


class Clip(AbstractEach):
    r"""Scales each message down to norm at most $C$: $m \min(1, C / \lVert m \rVert)$.

    The norm is that of the whole payload: for SCAFFOLD, of the change of the params
    and of the control variate together.
    """

    aggregator: AbstractAggregator
    max_norm: Float[Array, ""] = eqx.field(
        converter=number("max_norm", least=0, strict=True)
    )

    def encode(self, message, state, *, key):
        check_additive(message.payload, self)
        small, power = tree_unit(message.payload)
        norm, bound = tree_norm(small), self.max_norm / power
        scale = jnp.minimum(1, bound / jnp.maximum(norm, bound))
        payload = tree_scale(scale * power, small)
        message = Message(payload, message.weight, message.stats)
        return self.aggregator.encode(message, state, key=key)


class DropNonfinite(AbstractEach):
    """Leaves out every message that holds a NaN or an infinity.

    The round's metrics count them as `nonfinite`, with or without this wrapper.
    """

    aggregator: AbstractAggregator

    def encode(self, message, state, *, key):
        finite = tree_isfinite((message.payload, message.stats, message.weight))
        weight = jnp.where(finite, message.weight, jnp.zeros_like(message.weight))
        message = Message(message.payload, weight, message.stats)
        return self.aggregator.encode(message, state, key=key)
