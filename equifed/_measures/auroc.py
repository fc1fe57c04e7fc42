"""The area under the ROC curve, from two histograms of a fixed size."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Integer

from .._check import check_count
from .._metrics import AbstractMetric
from .._tree import wide_dtype
from .._words import shown
from .labels import as_array, as_int32


class AUROC(AbstractMetric):
    r"""The area under the ROC curve: how often a positive example has a higher score
    than a negative one, where a tie counts half.

    Scores are rounded to the nearest of `num_bins` equidistant ones, so that what is
    kept and summed is a histogram of each of the two classes, with shares $p_b$ and
    $n_b$. Rounding makes ties, and so the area is wrong by at most

    $$\frac{1}{2} \sum_b p_b n_b,$$

    about a half of `1 / num_bins` for scores that are spread out. It is exact if no two
    different scores of a positive and a negative example share a bin: for scores that
    are multiples of `1 / (num_bins - 1)`, say.

    It is NaN if one of the classes has no example, or if some example's label is not 0
    or 1, or its score no number from 0 to 1.
    """

    positive: Float[Array, " bins"]
    negative: Float[Array, " bins"]

    def __init__(
        self,
        score: Float[ArrayLike, ""],
        label: Integer[ArrayLike, ""] | Bool[ArrayLike, ""],
        *,
        num_bins: int = 201,
    ):
        """**Arguments:**

        - `score`: how likely the example is a positive one, from 0 to 1:
            `jax.nn.sigmoid(logit)`, or `jax.nn.softmax(logits)[1]`.
        - `label`: whether it is one.
        - `num_bins`: the length of the histograms, 2 or more.
        """
        num_bins = check_count("num_bins", num_bins, least=2)
        label = as_int32("The label of `AUROC` must be 0 or 1", label)
        wanted = "The score of `AUROC` must be a floating-point number from 0 to 1"
        number = as_array(wanted, score)
        if not jnp.issubdtype(number.dtype, jnp.floating):
            raise TypeError(f"{wanted}, got {shown(score)}.")
        if number.ndim or label.ndim:
            raise ValueError(
                "`AUROC` is of ONE example: a score and a label. These have the shapes "
                f"{number.shape} and {label.shape}. For many at once write "
                "`jax.vmap(eqf.AUROC)(scores, labels)`."
            )
        number = number.astype(wide_dtype(number.dtype))
        valid = (number >= 0) & (number <= 1) & ((label == 0) | (label == 1))
        place = jnp.round(
            jnp.where(valid, number, jnp.zeros_like(number)) * (num_bins - 1)
        )
        own = jnp.arange(num_bins, dtype=jnp.int32) == place.astype(jnp.int32)

        def histogram(is_there: Array) -> Array:
            counts = (own & is_there).astype(number.dtype)
            return jnp.where(valid, counts, jnp.full_like(counts, jnp.nan))

        self.positive, self.negative = histogram(label == 1), histogram(label == 0)

    def compute(self) -> Array:
        positives, negatives = self.positive.sum(), self.negative.sum()
        nothing = (positives == 0) | (negatives == 0)

        def shares(counts: Array, total: Array) -> Array:
            return counts / jnp.where(nothing, jnp.ones_like(total), total)

        p, n = shares(self.positive, positives), shares(self.negative, negatives)
        area = jnp.sum(p * (jnp.cumsum(n) - n / 2))
        return jnp.where(nothing, jnp.full_like(area, jnp.nan), area)
