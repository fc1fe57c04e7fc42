"""Clients that take no step: they send a gradient."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import PRNGKeyArray

from .._check import checked
from .._cohort import ClientData
from .._tree import (
    split_params,
    tree_add,
    tree_cast_like,
    tree_divide,
    tree_wide,
    tree_zeros_like,
)
from .._types import Loss, Model, Params
from ..data import AbstractBatching
from .base import AbstractClient, Message
from .loss import batch_gradient, merge_metrics, Metrics, zero_metrics


def full_pass(
    loss: Loss,
    params: Params,
    static: Model,
    data: ClientData,
    batch_size: int,
    *,
    key: PRNGKeyArray,
) -> tuple[Params, Metrics]:
    """The mean gradient over all the client's examples, and their metrics, in one plain
    pass."""

    def step(carry, examples, mask, i):
        total, metrics = carry
        grads, new = batch_gradient(
            loss,
            params,
            static,
            examples,
            mask,
            key=jr.fold_in(key, i),
            mean=False,
        )
        return tree_add(total, grads), merge_metrics(metrics, new)

    metrics = zero_metrics(loss, eqx.combine(params, static), data.example)
    carry = (tree_wide(tree_zeros_like(params)), metrics)
    total, metrics = data.fold_examples(step, carry, batch_size=batch_size)
    mean = tree_divide(total, data.num_examples.astype(jnp.result_type(float)))
    return tree_cast_like(mean, params), metrics


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

    def round(self, broadcast, data, state, *, key):
        params, static = split_params(broadcast.model)

        def step(carry, examples, mask, i):
            total, count, metrics = carry
            grads, new = batch_gradient(
                self.loss,
                params,
                static,
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
