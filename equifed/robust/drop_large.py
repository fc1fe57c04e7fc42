"""Leaves out messages beyond a bound."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._aggregator import AbstractAggregator, AbstractEach
from .._check import number
from .._metrics import Sum
from .._tree import tree_norm
from .._wire import check_additive, Message


class DropLarge(AbstractEach):
    r"""Leaves out each message whose norm is more than $M$, or not finite.

    Norm bounding (Sun et al., 2019, arXiv 1911.07963) assumes that boosted messages are
    known by their norm: here they are ignored, and [`equifed.Clip`][] scales them down.
    The round's metric `dropped` counts them.

    **Arguments:**

    - `aggregator`: any other, of those that are left, with their weights.
    - `max_norm`: the $M$, of the whole payload.
    """

    aggregator: AbstractAggregator
    max_norm: Float[Array, ""] = eqx.field(
        converter=number("max_norm", least=0, strict=True)
    )

    def encode(self, message, state, *, key):
        check_additive(message.payload, self)
        small = tree_norm(message.payload) <= self.max_norm
        dropped = (message.weight > 0) & ~small
        weight = jnp.where(small, message.weight, jnp.zeros_like(message.weight))
        message = Message(message.payload, weight, message.stats)
        encoded, metrics = self.aggregator.encode(message, state, key=key)
        count = Sum(dropped.astype(jnp.result_type(float)))
        return encoded, {**metrics, "dropped": count}
