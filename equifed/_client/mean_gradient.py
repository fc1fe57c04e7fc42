"""A client that takes no step: it sends a gradient."""

import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu

from .._check import checked
from .._tree import tree_add, tree_cast_like, tree_divide, tree_wide, tree_zeros_like
from .._types import Loss
from .._wire import CHANGE, Message
from ..data import AbstractBatching
from .base import AbstractClient
from .gradient import batch_gradient, merge_metrics, zero_metrics


class MeanGradient(AbstractClient):
    r"""Sends minus the mean gradient at the broadcast model, and takes no step.

    The mean is over the examples of the planned batches: `Epochs(1, ...)` gives the
    gradient of all the client's data (FedSGD), `Steps(k, ...)` that of `k`
    mini-batches (mini-batch SGD).
    """

    loss: Loss
    batching: AbstractBatching
    sends = (CHANGE,)
    follows_loss = True

    @checked()
    def __init__(self, loss: Loss, batching: AbstractBatching):
        self.loss = loss
        self.batching = batching

    def init(self, params):
        return None

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        params, rest = broadcast.params, broadcast.rest

        def step(carry, examples, mask, i):
            total, count, metrics = carry
            batch, step_key = (rest, examples, mask), jr.fold_in(key, i)
            grads, new = batch_gradient(
                self.loss, params, *batch, key=step_key, mean=False
            )
            count = count + jnp.sum(mask).astype(count.dtype)
            return tree_add(total, grads), count, merge_metrics(metrics, new)

        carry = (
            tree_wide(tree_zeros_like(params)),
            jnp.zeros((), jnp.result_type(float)),
            zero_metrics(self.loss, broadcast.model, data.example),
        )
        total, count, metrics = data.fold(step, carry)
        mean = tree_cast_like(tree_divide(total, count), params)
        payload = jtu.tree_map(jnp.negative, mean)
        return Message(payload, data.weight), state, metrics
