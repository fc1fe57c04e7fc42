"""The loss and the metrics of a classifier: its logits, and the label of an example.

A label that has no logit (3 among three classes, which begin at 0; or -1) is neither
right nor wrong: whatever is said of it is NaN. So is what is said of logits that are
NaN, which have no largest among them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Integer

from .._check import check_count
from .._metrics import AbstractMetric, Average
from .labels import classes_of, has_logit, one_example


class ConfusionMatrix(AbstractMetric):
    """How often an example of class `i` (row) was taken for class `j` (column).

    All counts are NaN if some example's label has no logit, or its logits are NaN.
    """

    counts: Float[Array, "classes classes"]

    def __init__(self, logits: Float[Array, " classes"], label: Integer[ArrayLike, ""]):
        logits, label, valid = one_example("ConfusionMatrix", logits, label)
        (num_classes,) = logits.shape
        row = jax.nn.one_hot(label, num_classes)
        column = jax.nn.one_hot(jnp.argmax(logits), num_classes)
        counts = row[:, None] * column[None, :]
        self.counts = jnp.where(valid, counts, jnp.full_like(counts, jnp.nan))

    def compute(self) -> Array:
        return self.counts


def cross_entropy(
    logits: Float[Array, "*shape classes"], label: Integer[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    r"""The cross-entropy $-\log \mathrm{softmax}(\text{logits})_\text{label}$.

    It is NaN for a label without a logit, with a gradient of zero, so that
    `jnp.where(label >= 0, cross_entropy(logits, label), 0.0)` leaves out padding that
    is marked by a label of -1.

    **Raises:**

    `TypeError` if the logits are not floating-point numbers or the labels no integers,
    `ValueError` if there is not one label for each vector of logits.
    """
    logits, label = classes_of("cross_entropy", logits, label)
    if logits.ndim == 0 or logits.shape[:-1] != label.shape:
        raise ValueError(
            "`cross_entropy` needs one label for each vector of logits: the logits "
            f"have shape {logits.shape}, the labels {label.shape}."
        )
    # The one-hot product rather than an indexed read: the gradient of a read is a
    # scatter, which is slow inside a compiled loop.
    log_probabilities = jax.nn.log_softmax(logits)
    one_hot = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
    chosen = jnp.where(one_hot > 0, log_probabilities, jnp.zeros_like(one_hot))
    value = -jnp.sum(chosen, axis=-1)
    valid = has_logit(label, logits.shape[-1])
    return jnp.where(valid, value, jnp.full_like(value, jnp.nan))


def accuracy(
    logits: Float[Array, " classes"], label: Integer[ArrayLike, ""]
) -> Average:
    """Whether the largest logit is the label's; the lowest index wins a tie."""
    logits, label, valid = one_example("accuracy", logits, label)
    return _share(jnp.argmax(logits).astype(label.dtype) == label, valid)


def top_k_accuracy(
    logits: Float[Array, " classes"], label: Integer[ArrayLike, ""], *, k: int
) -> Average:
    """Whether the label is among the `k` largest logits; the lowest indices win ties.

    **Raises:**

    `ValueError` if `k` is not between 1 and the number of classes.
    """
    logits, label, valid = one_example("top_k_accuracy", logits, label)
    _, best = jax.lax.top_k(logits, check_count("k", k, most=logits.size))
    return _share(jnp.any(best.astype(label.dtype) == label), valid)


def _share(right: Bool[Array, ""], valid: Bool[Array, ""]) -> Average:
    right = right.astype(jnp.result_type(float))
    return Average(jnp.where(valid, right, jnp.full_like(right, jnp.nan)))
