"""Clients that take no step: they send a gradient."""

import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import PRNGKeyArray

from .._check import checked
from .._cohort import ClientData
from .._tree import (
    tree_add,
    tree_cast_like,
    tree_divide,
    tree_wide,
    tree_zeros_like,
)
from .._types import Loss, Params
from .._wire import Broadcast, Message
from ..data import AbstractBatching
from .base import AbstractClient
from .loss import batch_gradient, BatchLoss, merge_metrics, Metrics, zero_metrics


def full_pass(
    loss: Loss,
    at: Broadcast,
    data: ClientData,
    batch_size: int,
    *,
    key: PRNGKeyArray,
) -> tuple[Params, Metrics]:
    """The mean gradient over all the client's examples at the params of `at`, and their
    metrics, in one plain pass."""

    def step(carry, examples, mask, i):
        total, metrics = carry
        grads, new = batch_gradient(
            loss,
            at.params,
            at.rest,
            examples,
            mask,
            key=jr.fold_in(key, i),
            mean=False,
        )
        return tree_add(total, grads), merge_metrics(metrics, new)

    metrics = zero_metrics(loss, at.model, data.example)
    carry = (tree_wide(tree_zeros_like(at.params)), metrics)
    total, metrics = data.fold_examples(step, carry, batch_size=batch_size)
    mean = tree_divide(total, data.num_examples.astype(jnp.result_type(float)))
    return tree_cast_like(mean, at.params), metrics


def full_metrics(
    loss: Loss, at: Broadcast, data: ClientData, batch_size: int, *, key: PRNGKeyArray
) -> Metrics:
    """The metrics of all the client's examples at the params of `at`, without any
    gradient."""

    def step(metrics, examples, mask, i):
        batch = BatchLoss(loss, at.rest, examples, mask, jr.fold_in(key, i))
        return merge_metrics(metrics, batch(at.params)[1])

    metrics = zero_metrics(loss, at.model, data.example)
    return data.fold_examples(step, metrics, batch_size=batch_size)


class FullGradient(AbstractClient):
    r"""Sends minus the mean gradient at the broadcast model, and takes no step.

    The mean is over the examples of the planned batches: `Epochs(1, ...)` gives the
    gradient of all the client's data (FedSGD), `Steps(k, ...)` that of `k`
    mini-batches (mini-batch SGD).
    """

    loss: Loss
    batching: AbstractBatching

    @checked()
    def __init__(self, loss: Loss, batching: AbstractBatching):
        self.loss = loss
        self.batching = batching

    def init(self, params):
        return None

    def payload(self, params):
        return params

    def round(self, broadcast, data, state, *, key):
        params = broadcast.params

        def step(carry, examples, mask, i):
            total, count, metrics = carry
            grads, new = batch_gradient(
                self.loss,
                params,
                broadcast.rest,
                examples,
                mask,
                key=jr.fold_in(key, i),
                mean=False,
            )
            metrics = merge_metrics(metrics, new)
            count = count + jnp.sum(mask).astype(count.dtype)
            return tree_add(total, grads), count, metrics

        carry = (
            tree_wide(tree_zeros_like(params)),
            jnp.zeros((), jnp.result_type(float)),
            zero_metrics(self.loss, broadcast.model, data.example),
        )
        total, count, metrics = data.fold(step, carry)
        mean = tree_cast_like(tree_divide(total, count), params)
        payload = jtu.tree_map(jnp.negative, mean)
        return Message(payload, data.weight), state, metrics
