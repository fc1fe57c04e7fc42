"""Metrics are sums, and functions of sums.

A metric of one example is a small PyTree of numbers; the metric of many examples is
the leaf-by-leaf sum of theirs; what a person wants to read is `compute()` of that sum.
An average kept as (total, weight) is therefore exact over any grouping: examples into
batches, batches into clients, clients into devices.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike, Float, Integer

from ._tree import floating, safe_divide, wide_dtype


def _wide(x: ArrayLike) -> Array:
    """Sums are kept in float32 at least, whatever the model computes in."""
    x = jnp.asarray(x)
    return x.astype(wide_dtype(x.dtype))


class AbstractMetric(eqx.Module):
    """A statistic whose leaves are added when two of them are merged."""

    @abc.abstractmethod
    def compute(self) -> Array:
        """What the sum says."""

    def merge(self, other: "AbstractMetric") -> "AbstractMetric":
        """The metric of both sets of examples together."""
        return jtu.tree_map(jnp.add, self, other)


class Average(AbstractMetric):
    """A weighted mean, kept as its total and its weight; zero over no example.

    !!! example

        The accuracy of a sequence counts its tokens:
        `Average(jnp.sum(correct), jnp.sum(is_token))`.
    """

    total: Float[Array, "..."] = eqx.field(converter=_wide)
    weight: Float[Array, "..."] = eqx.field(converter=_wide, default=1.0)

    def compute(self) -> Array:
        return safe_divide(self.total, jnp.broadcast_to(self.weight, self.total.shape))


class Sum(AbstractMetric):
    """A plain sum: a number of tokens, a number of clients."""

    total: Float[Array, "..."] = eqx.field(converter=_wide)

    def compute(self) -> Array:
        return self.total


class ConfusionMatrix(AbstractMetric):
    """How often an example of class `i` (row) was taken for class `j` (column)."""

    counts: Float[Array, "classes classes"]

    def __init__(self, logits: Float[Array, " classes"], label: Integer[ArrayLike, ""]):
        (num_classes,) = logits.shape
        row = jax.nn.one_hot(label, num_classes)
        column = jax.nn.one_hot(jnp.argmax(logits), num_classes)
        self.counts = row[:, None] * column[None, :]

    def compute(self) -> Array:
        return self.counts


def cross_entropy(
    logits: Float[Array, "*shape classes"], label: Integer[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    r"""The cross-entropy $-\log \mathrm{softmax}(\text{logits})_\text{label}$."""
    # The one-hot product rather than an indexed read: the gradient of a read is a
    # scatter, which is slow inside a compiled loop.
    log_probabilities = jax.nn.log_softmax(logits)
    one_hot = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
    chosen = jnp.where(one_hot > 0, log_probabilities, jnp.zeros_like(one_hot))
    return -jnp.sum(chosen, axis=-1)


def accuracy(
    logits: Float[Array, " classes"], label: Integer[ArrayLike, ""]
) -> Average:
    """Whether the largest logit is the label's; the lowest index wins a tie."""
    return Average(jnp.argmax(logits) == label)


def top_k_accuracy(
    logits: Float[Array, " classes"], label: Integer[ArrayLike, ""], *, k: int
) -> Average:
    """Whether the label is among the `k` largest logits; the lowest indices win ties.

    **Raises:**

    `ValueError` if `k` is not between 1 and the number of classes.
    """
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"`k` must be between 1 and {logits.shape[-1]}, got {k}.")
    _, best = jax.lax.top_k(logits, k)
    return Average(jnp.any(best == label))


RESERVED = ("loss", "round", "clients", "nonfinite", "nonfinite_model")


def as_metrics(loss: Array | None, values: dict[str, Any]) -> dict[str, AbstractMetric]:
    """The metrics of one example: its loss, and whatever else it reports."""
    metrics: dict[str, AbstractMetric] = {} if loss is None else {"loss": Average(loss)}
    for name, value in values.items():
        if loss is not None and name in RESERVED:
            raise ValueError(
                f"The loss reports a metric called {name!r}, which is the name of one "
                f"that every round has ({', '.join(RESERVED)}). Give it another name."
            )
        is_metric = isinstance(value, AbstractMetric)
        metrics[name] = value if is_metric else Average(floating(value))
    return metrics


def masked_sum(metrics: Any, mask: Array) -> Any:
    """Sums metrics with a leading axis of examples, leaving out those masked."""

    def total(x):
        keep = mask.reshape(mask.shape + (1,) * (x.ndim - 1))
        return jnp.sum(jnp.where(keep, x, jnp.zeros_like(x)), axis=0)

    return jtu.tree_map(total, metrics)


def compute_metrics(metrics: dict[str, AbstractMetric]) -> dict[str, Array]:
    return {name: metric.compute() for name, metric in metrics.items()}
