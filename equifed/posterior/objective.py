"""The loss of all a client's examples, as one function of the params."""

from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Float, PRNGKeyArray

from .._client.gradient import BatchLoss, full_gradient
from .._client.loss import Metrics
from .._client.reach import reached
from .._cohort import ClientData
from .._linalg import dot
from .._tree import (
    safe_divide,
    tree_add,
    tree_divide,
    tree_wide,
    tree_zeros_like,
)
from .._types import Example, Loss, Model, Params
from .._wire import Broadcast
from .base import Samples


class ClientObjective(eqx.Module):
    r"""$f(\theta)$, the client's mean loss; deterministic, as every call gives each
    example the same key."""

    loss: Loss
    rest: Model
    data: ClientData
    batch_size: int
    key: PRNGKeyArray

    def value_and_grad(self, params: Params) -> tuple[Float[Array, ""], Params]:
        grads, metrics = self.full_gradient(params)
        return _loss_of(metrics), grads

    def full_gradient(self, params: Params) -> tuple[Params, Metrics]:
        """The gradient, and the metrics of all the client's examples."""
        at = Broadcast(params, self.rest)
        return full_gradient(self.loss, at, self.data, self.batch_size, key=self.key)

    def log_density(self, params: Params, temperature: Array) -> Float[Array, ""]:
        r"""$-f(\theta) / T$, with a gradient of its own: a loop of a dynamic length
        has none in reverse mode."""
        return _log_density(params, self, temperature)

    def hessian(self, flat: Float[Array, " params"], unravel: Any) -> Array:
        """The matrix of second derivatives, in as many passes as there are params."""

        def step(total, examples, mask, i):
            key = jr.fold_in(self.key, i)
            batch = BatchLoss(self.loss, self.rest, examples, mask, key, mean=False)
            second = jax.hessian(lambda flat: batch(unravel(flat))[0])(flat)
            return total + second.astype(total.dtype)

        wide = tree_wide(flat)
        total = jnp.zeros((flat.size, flat.size), wide.dtype)
        total = self.data.fold_examples(step, total, batch_size=self.batch_size)
        return tree_divide(total, self._count)

    def diagonal_fisher(self, params: Params) -> Params:
        """The mean of the squared gradients of single examples: the diagonal of the
        empirical Fisher information."""

        def one(example, key):
            batch = jtu.tree_map(lambda x: x[None], example)
            there = jnp.ones((1,), bool)
            loss = BatchLoss(self.loss, self.rest, batch, there, key)
            return jax.grad(loss, has_aux=True)(params)[0]

        def step(total, examples, mask, i):
            keys = jr.split(jr.fold_in(self.key, i), mask.shape[0])
            grads = tree_wide(jax.vmap(one)(examples, keys))
            keep = mask.astype(jnp.result_type(float))

            def add(t, g):
                rows = jnp.square(g).reshape(g.shape[0], -1)
                rows = jnp.where(mask[:, None], rows, jnp.zeros_like(rows))
                return t + (dot(keep.astype(g.dtype), rows)).reshape(t.shape)

            return jtu.tree_map(add, total, grads)

        total = tree_zeros_like(tree_wide(params))
        total = self.data.fold_examples(step, total, batch_size=self.batch_size)
        return tree_divide(total, self._count)

    def diagonal_hessian(self, params: Params, *, key: PRNGKeyArray) -> Params:
        r"""$v \odot H v$ for one random vector $v$ of signs: the diagonal of the
        Hessian, if that is all there is to it, and otherwise an unbiased estimate."""
        leaves, treedef = jtu.tree_flatten(params)
        signs = jtu.tree_unflatten(
            treedef,
            [
                jr.rademacher(jr.fold_in(key, i), x.shape, x.dtype)
                for i, x in enumerate(leaves)
            ],
        )

        def step(total, examples, mask, i):
            key = jr.fold_in(self.key, i)
            batch = BatchLoss(self.loss, self.rest, examples, mask, key, mean=False)

            def gradient(params):
                return jax.grad(batch, has_aux=True)(params)[0]

            _, product = jax.jvp(gradient, (params,), (signs,))
            return tree_add(total, product)

        total = tree_zeros_like(tree_wide(params))
        total = self.data.fold_examples(step, total, batch_size=self.batch_size)
        mean = tree_divide(total, self._count)
        return jtu.tree_map(lambda h, v: h * v.astype(h.dtype), mean, signs)

    @property
    def _count(self) -> Float[Array, ""]:
        return self.data.num_examples.astype(jnp.result_type(float))


def learnable(loss: Loss, at: Broadcast, example: Example) -> Broadcast:
    """With those params alone that the loss reaches; the others are of the rest."""
    where = reached(loss, at, example)
    if not any(jtu.tree_leaves(where)):
        return at
    params, others = eqx.partition(at.params, where)
    return Broadcast(params, eqx.combine(at.rest, others))


def with_the_rest(samples: Samples, whole: Params) -> Samples:
    """Samples of those that the loss reaches as samples of all the params: the others
    stay where they are."""
    count = jtu.tree_leaves(samples.values)[0].shape[0]
    stacked = jtu.tree_map(
        lambda x: jnp.zeros((count, *x.shape), x.dtype), tree_wide(whole)
    )
    last = eqx.combine(samples.last, tree_zeros_like(whole))
    return Samples(eqx.combine(samples.values, stacked), last)


def _loss_of(metrics: Any) -> Float[Array, ""]:
    average = metrics["loss"]
    return safe_divide(average.total, average.weight)


@eqx.filter_custom_vjp
def _log_density(
    params: Params, objective: ClientObjective, temperature: Array
) -> Float[Array, ""]:
    return -objective.value_and_grad(params)[0] / temperature


@_log_density.def_fwd
def _forward(perturbed, params, objective, temperature):
    del perturbed
    value, grads = objective.value_and_grad(params)
    return -value / temperature, tree_divide(grads, temperature)


@_log_density.def_bwd
def _backward(grads, cotangent, perturbed, params, objective, temperature):
    del perturbed, params, objective, temperature
    return jtu.tree_map(lambda g: -cotangent.astype(g.dtype) * g, grads)
