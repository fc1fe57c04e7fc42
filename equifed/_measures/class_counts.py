"""Precision, recall and F1, from counts for each class.

A class of which a quantity is a ratio of nothing has none: it is NaN there, and takes
no part in the mean over classes. (With the zero that is often put in its place a rare
class that a client lacks would count as one that the model fails at.)
"""

from typing import Literal, TypeAlias

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Integer

from .._check import check_choice
from .._metrics import AbstractMetric
from .labels import one_example


Mean: TypeAlias = Literal["macro", "micro"] | None
Counts: TypeAlias = Float[Array, " classes"]


class Precision(AbstractMetric):
    """The share of right guesses among the guesses of a class.

    A class that was never guessed has none (NaN). All is NaN if some example's label
    has no logit, or its logits are NaN.
    """

    hits: Counts
    guesses: Counts
    labels: Counts
    average: Mean = eqx.field(static=True)

    def __init__(
        self,
        logits: Float[Array, " classes"],
        label: Integer[ArrayLike, ""],
        *,
        average: Mean = "macro",
    ):
        """**Arguments:**

        - `logits`, `label`: those of one example. The largest logit is the guess; the
            lowest index wins a tie.
        - `average`: `"macro"` is the mean over the classes that have one, `"micro"` the
            ratio of all classes' sums, and `None` gives one for each class.
        """
        self.average = _known(average)
        self.hits, self.guesses, self.labels = _counts("Precision", logits, label)

    def compute(self) -> Array:
        return _ratio(self.hits, self.guesses, self.average)


class Recall(AbstractMetric):
    """The share of a class's examples that were guessed right.

    A class without examples has none (NaN). All is NaN if some example's label has no
    logit, or its logits are NaN.
    """

    hits: Counts
    guesses: Counts
    labels: Counts
    average: Mean = eqx.field(static=True)

    def __init__(
        self,
        logits: Float[Array, " classes"],
        label: Integer[ArrayLike, ""],
        *,
        average: Mean = "macro",
    ):
        """**Arguments:** as those of [`equifed.Precision`][]."""
        self.average = _known(average)
        self.hits, self.guesses, self.labels = _counts("Recall", logits, label)

    def compute(self) -> Array:
        return _ratio(self.hits, self.labels, self.average)


class F1(AbstractMetric):
    r"""The harmonic mean of precision and recall,
    $2 \, \text{hits} / (\text{guesses} + \text{examples})$ of a class.

    A class that was never guessed and has no examples has none (NaN). All is NaN if
    some example's label has no logit, or its logits are NaN. With `average="macro"` it
    is the mean of the classes' F1, not the F1 of two means.
    """

    hits: Counts
    guesses: Counts
    labels: Counts
    average: Mean = eqx.field(static=True)

    def __init__(
        self,
        logits: Float[Array, " classes"],
        label: Integer[ArrayLike, ""],
        *,
        average: Mean = "macro",
    ):
        """**Arguments:** as those of [`equifed.Precision`][]."""
        self.average = _known(average)
        self.hits, self.guesses, self.labels = _counts("F1", logits, label)

    def compute(self) -> Array:
        return _ratio(2 * self.hits, self.guesses + self.labels, self.average)


def _known(average: Mean) -> Mean:
    check_choice("average", average, ("macro", "micro", None))
    return average


def _counts(
    name: str, logits: Array, label: ArrayLike
) -> tuple[Counts, Counts, Counts]:
    """Of one example: 1 at the class that was guessed right, guessed, and right."""
    logits, label, valid = one_example(name, logits, label)
    classes = jnp.arange(logits.size, dtype=jnp.int32)
    guessed = classes == jnp.argmax(logits).astype(jnp.int32)
    labelled = classes == label

    def count(x: Array) -> Array:
        x = x.astype(jnp.result_type(float))
        return jnp.where(valid, x, jnp.full_like(x, jnp.nan))

    return count(guessed & labelled), count(guessed), count(labelled)


def _ratio(part: Counts, whole: Counts, average: Mean) -> Array:
    if average == "micro":
        part, whole = part.sum(), whole.sum()
    nothing = whole == 0
    ratio = part / jnp.where(nothing, jnp.ones_like(whole), whole)
    if average == "macro":
        # NaN counts are no zeros, and stay.
        total = jnp.where(nothing, jnp.zeros_like(ratio), ratio).sum()
        number = jnp.sum(~nothing).astype(ratio.dtype)
        nothing = number == 0
        ratio = total / jnp.where(nothing, jnp.ones_like(number), number)
    return jnp.where(nothing, jnp.full_like(ratio, jnp.nan), ratio)
