"""The loss and the metrics of a classifier: its logits, and the label of an example.

A label that has no logit (3 among three classes, which begin at 0; or -1) is neither
right nor wrong: whatever is said of it is NaN. So is what is said of logits that are
NaN, which have no largest among them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Integer

from ._check import check_count
from ._metrics import AbstractMetric, Average
from ._words import shown


class ConfusionMatrix(AbstractMetric):
    """How often an example of class `i` (row) was taken for class `j` (column).

    All counts are NaN if some example's label has no logit, or its logits are NaN.
    """

    counts: Float[Array, "classes classes"]

    def __init__(self, logits: Float[Array, " classes"], label: Integer[ArrayLike, ""]):
        logits, label, valid = _one_example("ConfusionMatrix", logits, label)
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
    logits, label = _classes("cross_entropy", logits, label)
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
    valid = _has_logit(label, logits.shape[-1])
    return jnp.where(valid, value, jnp.full_like(value, jnp.nan))


def accuracy(
    logits: Float[Array, " classes"], label: Integer[ArrayLike, ""]
) -> Average:
    """Whether the largest logit is the label's; the lowest index wins a tie."""
    logits, label, valid = _one_example("accuracy", logits, label)
    return _share(jnp.argmax(logits).astype(label.dtype) == label, valid)


def top_k_accuracy(
    logits: Float[Array, " classes"], label: Integer[ArrayLike, ""], *, k: int
) -> Average:
    """Whether the label is among the `k` largest logits; the lowest indices win ties.

    **Raises:**

    `ValueError` if `k` is not between 1 and the number of classes.
    """
    logits, label, valid = _one_example("top_k_accuracy", logits, label)
    _, best = jax.lax.top_k(logits, check_count("k", k, most=logits.size))
    return _share(jnp.any(best.astype(label.dtype) == label), valid)


def _share(right: Bool[Array, ""], valid: Bool[Array, ""]) -> Average:
    right = right.astype(jnp.result_type(float))
    return Average(jnp.where(valid, right, jnp.full_like(right, jnp.nan)))


def _one_example(
    name: str, logits: Array, label: ArrayLike
) -> tuple[Array, Array, Bool[Array, ""]]:
    """The logits, the label, and whether they say anything."""
    logits, label = _classes(name, logits, label)
    if logits.ndim != 1 or label.ndim != 0:
        raise ValueError(
            f"`{name}` is of ONE example: a vector of logits and one label. These "
            f"logits have shape {logits.shape}, the label {label.shape}. For many "
            f"at once write `jax.vmap(eqf.{name})(logits, labels)`."
        )
    return logits, label, _has_logit(label, logits.size) & ~jnp.isnan(logits).any()


def _classes(
    name: str, logits: Array, label: ArrayLike
) -> tuple[Array, Integer[Array, "..."]]:
    """The logits and the labels as arrays, if they can be that."""
    logits = _array(f"The logits of `{name}` must be floating-point numbers", logits)
    wanted = f"The label of `{name}` must be an integer, the number of a class"
    label = _array(wanted, _narrow(label))
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(
            f"The logits of `{name}` must be floating-point numbers, got "
            f"{logits.dtype}{list(logits.shape)}. They come first, then the label."
        )
    if logits.shape[-1:] == (0,):
        raise ValueError(f"`{name}` needs one logit at least, got an empty vector.")
    if label.dtype == bool:
        label = label.astype(jnp.int32)
    if not jnp.issubdtype(label.dtype, jnp.integer):
        raise TypeError(f"{wanted}, got {label.dtype}{list(label.shape)}.")
    # The number of classes may not fit a narrow type: 300 is 44 in 8 bits.
    return logits, label if label.dtype.itemsize >= 4 else label.astype(jnp.int32)


def _array(wanted: str, x: ArrayLike) -> Array:
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError):
        raise TypeError(f"{wanted}, got {shown(x)}.") from None


def _narrow(label: ArrayLike) -> ArrayLike:
    """The label in 32 bits, which JAX would cut it to, or another without a logit."""
    if isinstance(label, jax.Array):
        return label
    wide = np.asarray(label)
    if wide.dtype.kind not in "iu" or wide.dtype.itemsize <= 4:
        return label
    fits = (wide >= 0) & (wide < 2**31)
    return np.where(fits, np.where(fits, wide, 0).astype(np.int32), np.int32(-1))


def _has_logit(
    label: Integer[Array, "*shape"], num_classes: int
) -> Bool[Array, "*shape"]:
    return (label >= 0) & (label < num_classes)
