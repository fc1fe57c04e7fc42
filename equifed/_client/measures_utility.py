"""A client that only says how much there is to learn from it."""

import equinox as eqx
import jax.numpy as jnp

from .._tree import floating, tree_zeros_like
from .._types import Loss
from .._wire import Message
from ..data import AbstractBatching
from .base import AbstractClient
from .gradient import full_metrics
from .loss import example_metrics
from .stateful import alone


class _Squared(eqx.Module):
    """The square of the loss of one example."""

    loss: Loss

    def __call__(self, model, example, key):
        value, _ = example_metrics(alone(self.loss), model, example, key)
        return value**2


class MeasuresUtility(AbstractClient):
    """Computes its number of examples times the root of their mean squared loss, which
    it keeps as its state, and sends nothing. One that would take no step has 0."""

    loss: Loss
    batching: AbstractBatching

    def init(self, params):
        return floating(0.0)

    def payload(self, params):
        return self.init(params)

    def round(self, broadcast, data, state, *, key):
        size, square = self.batching.batch_size, _Squared(self.loss)
        metrics = full_metrics(square, broadcast, data, size, key=key)
        weight = data.weight.astype(state.dtype)
        mean = jnp.where(weight > 0, metrics["loss"].compute().astype(state.dtype), 0)
        utility = weight * jnp.sqrt(mean)
        return Message(tree_zeros_like(state), data.weight), utility, {}
