"""The gradient of a batch, and that of all a client's examples.

Users write the loss of one example. Here it is mapped over a batch, masked, averaged
and differentiated: what a client of one's own is made of.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from .._cohort import ClientData
from .._debug import is_debugging, noted
from .._metrics import masked_sum
from .._tree import (
    tree_add,
    tree_cast_like,
    tree_divide,
    tree_row,
    tree_wide,
    tree_zeros_like,
)
from .._types import Example, Loss, Model, Params
from .._wire import Broadcast
from .criterion import AbstractCriterion, check_value, MeanLoss
from .loss import check_loss, example_metrics, Metrics
from .microbatched import Microbatched, over_parts
from .stateful import over_batch, Stateful


def zero_metrics(loss: Loss, model: Model, example: Example) -> Metrics:
    """The metrics of no example, to which those of batches are merged.

    **Arguments:**

    - `loss`: the loss of one example.
    - `model`, `example`: what it is given; only their shapes count. A client has them
        in `broadcast.model` and `data.example`.

    **Raises:**

    `ValueError` if the loss cannot take the example, or returns anything but a number,
    or a pair of it and a dictionary.
    """
    return tree_zeros_like(check_loss(loss, model, example, "the cohort"))


def merge_metrics(metrics: Metrics, new: Metrics) -> Metrics:
    """The metrics of both sets of examples together, name by name."""
    return {name: metrics[name].merge(new[name]) for name in metrics}


class BatchLoss(eqx.Module):
    r"""The mean loss $\frac1{|B|}\sum_{e \in B} \ell(\theta, e)$ of those examples of a
    batch that the mask keeps (or the sum, if not `mean`), as a function of the params,
    and their summed metrics."""

    loss: Loss
    rest: Model
    examples: Example
    mask: Bool[Array, " batch"]
    key: PRNGKeyArray
    mean: bool = True
    criterion: AbstractCriterion = MeanLoss()
    """What is made of the mean."""
    given: PyTree = None

    def __call__(self, params: Params) -> tuple[Float[Array, ""], Metrics]:
        value, (metrics, _) = self._all(params)
        return value, metrics

    def _all(self, params: Params) -> tuple[Float[Array, ""], tuple[Metrics, PyTree]]:
        """The value, and beside the metrics the model's new state, if it has one."""
        mask = self.mask
        keys = jr.split(self.key, mask.shape[0])
        state = None
        if isinstance(self.loss, Stateful):
            batch = (eqx.combine(params, self.rest), self.examples, mask, keys)
            values, metrics, state = over_batch(self.loss, *batch)
            value, metrics = _kept(values, mask), masked_sum(metrics, mask)
        elif isinstance(self.loss, Microbatched):
            # Whoever takes a derivative of it computes each part again.
            one = jax.checkpoint(lambda *part: self._sum(params, *part))
            size = self.loss.size
            value, metrics = over_parts(one, size, self.examples, keys, mask)
        else:
            value, metrics = self._sum(params, self.examples, keys, mask)
        if self.mean:
            value = value / self._count.astype(value.dtype)
            model = eqx.combine(params, self.rest)
            batch = (model, self.examples, mask, self.given)
            value = self.criterion.value(value, *batch, keys=jr.clone(keys))
            check_value(self.criterion, value)
        return value, (metrics, state)

    def _sum(
        self, params: Params, examples: Example, keys: Array, mask: Array
    ) -> tuple[Float[Array, ""], Metrics]:
        """Of some of the batch, all of it or a part."""
        model = eqx.combine(params, self.rest)
        values, metrics = jax.vmap(
            lambda example, key: example_metrics(self.loss, model, example, key)
        )(examples, keys)
        return _kept(values, mask), masked_sum(metrics, mask)

    @property
    def _count(self) -> Array:
        return jnp.maximum(jnp.sum(self.mask), 1)

    def gradient(self, params: Params) -> tuple[Params, Metrics]:
        grads, metrics, _ = self.gradient_and_state(params)
        return grads, metrics

    def gradient_and_state(self, params: Params) -> tuple[Params, Metrics, PyTree]:
        # What is normalised over a batch cannot be called for one example.
        if is_debugging() and not isinstance(self.loss, Stateful):
            self._call_each(params)
        if isinstance(self.loss, Microbatched):
            return *self._in_parts(params, self.loss.size), None
        grads, (metrics, state) = jax.grad(self._all, has_aux=True)(params)
        return grads, metrics, state

    def _in_parts(self, params: Params, size: int) -> tuple[Params, Metrics]:
        keys = jr.split(self.key, self.mask.shape[0])

        def one(*part: Any) -> tuple[Params, Metrics]:
            grads, metrics = jax.grad(self._sum, has_aux=True)(params, *part)
            return tree_wide(grads), metrics

        grads, metrics = over_parts(one, size, self.examples, keys, self.mask)
        if self.mean:
            grads = tree_divide(grads, self._count.astype(jnp.result_type(float)))
        return tree_cast_like(grads, params), metrics

    def _call_each(self, params: Params) -> None:
        """Calls the loss with plain values, so that it can be looked into."""
        model = eqx.combine(params, self.rest)
        for i, key in enumerate(jr.split(self.key, self.mask.shape[0])):
            if self.mask[i]:
                example = tree_row(self.examples, i)
                with noted(lambda i=i: f"It was raised for example {i} of a batch."):
                    example_metrics(self.loss, model, example, jr.clone(key))


def _kept(values: Float[Array, " batch"], mask: Bool[Array, " batch"]) -> Array:
    """The sum of those that the mask keeps."""
    return jnp.sum(jnp.where(mask, values, jnp.zeros_like(values)))


def batch_gradient(
    loss: Loss,
    params: Params,
    rest: Model,
    examples: Example,
    mask: Bool[Array, " batch"],
    *,
    key: PRNGKeyArray,
    mean: bool = True,
) -> tuple[Params, Metrics]:
    r"""The gradient of a batch's loss, $\nabla \frac1{|B|} \sum_{e \in B}
    \ell(\theta, e)$, and the metrics of its examples, summed.

    What the mask leaves out counts for nothing: a client's last batch may be short.

    **Arguments:**

    - `loss`: the loss of one example, `loss(model, example, key)`.
    - `params`: where; `broadcast.params` or what they have become.
    - `rest`: the rest of the model, `broadcast.rest`.
    - `examples`, `mask`: a batch, as [`equifed.ClientData`][] gives it to a step.
    - `key`: this batch's; it is split over the examples.
    - `mean`: whether of the mean, or of the sum.

    !!! example

        ```python
        def step(carry, examples, mask, i):
            params, metrics = carry
            batch, step_key = (broadcast.rest, examples, mask), jr.fold_in(key, i)
            grads, new = eqf.batch_gradient(loss, params, *batch, key=step_key)
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
            return params, eqf.merge_metrics(metrics, new)

        metrics = eqf.zero_metrics(loss, broadcast.model, data.example)
        params, metrics = data.fold(step, (broadcast.params, metrics))
        ```
    """
    batch = BatchLoss(loss, rest, examples, mask, key, mean)
    return batch.gradient(params)


def full_gradient(
    loss: Loss,
    at: Broadcast,
    data: ClientData,
    batch_size: int,
    *,
    key: PRNGKeyArray,
) -> tuple[Params, Metrics]:
    r"""The mean gradient over all the client's examples, and their metrics, summed: one
    plain pass, whatever the plan visits.

    **Arguments:**

    - `loss`: the loss of one example.
    - `at`: the params at which, and the rest of the model.
    - `data`: the client's examples.
    - `batch_size`: how many are looked at side by side.
    - `key`: folded for each batch.
    """

    def step(carry, examples, mask, i):
        total, metrics = carry
        batch, step_key = (at.rest, examples, mask), jr.fold_in(key, i)
        grads, new = batch_gradient(loss, at.params, *batch, key=step_key, mean=False)
        return tree_add(total, grads), merge_metrics(metrics, new)

    metrics = zero_metrics(loss, at.model, data.example)
    carry = (tree_wide(tree_zeros_like(at.params)), metrics)
    total, metrics = data.fold_examples(step, carry, batch_size=batch_size)
    mean = tree_divide(total, data.num_examples.astype(jnp.result_type(float)))
    return tree_cast_like(mean, at.params), metrics


def full_metrics(
    loss: Loss, at: Broadcast, data: ClientData, batch_size: int, *, key: PRNGKeyArray
) -> Metrics:
    """The metrics of all the client's examples, summed, without any gradient: its loss
    among them. The arguments are those of [`equifed.full_gradient`][]."""

    def step(metrics, examples, mask, i):
        batch = BatchLoss(loss, at.rest, examples, mask, jr.fold_in(key, i))
        return merge_metrics(metrics, batch(at.params)[1])

    metrics = zero_metrics(loss, at.model, data.example)
    return data.fold_examples(step, metrics, batch_size=batch_size)
