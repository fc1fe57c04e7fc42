"""A client that only says how high its loss is."""

import jax.numpy as jnp

from .._tree import tree_zeros_like
from .._types import Loss
from .._wire import Message
from ..data import AbstractBatching
from .base import AbstractClient
from .gradient import full_metrics


class MeasuresLoss(AbstractClient):
    """Computes its mean loss over all its examples, which it keeps as its state, and
    sends nothing. One that would take no step has minus infinity."""

    loss: Loss
    batching: AbstractBatching

    def init(self, params):
        return jnp.zeros((), jnp.result_type(float))

    def payload(self, params):
        return self.init(params)

    def round(self, broadcast, data, state, *, key):
        size = self.batching.batch_size
        metrics = full_metrics(self.loss, broadcast, data, size, key=key)
        loss = metrics["loss"].compute().astype(state.dtype)
        loss = jnp.where(data.num_steps > 0, loss, jnp.full_like(loss, -jnp.inf))
        return Message(tree_zeros_like(state), data.weight), loss, metrics
