"""Krum: the message with the closest neighbours."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._aggregator import AbstractAggregator
from .._check import check_count, known_int
from .base import answer, check_capacity, gathered, weighted
from .distances import pairwise_squares


def krum_scores(
    squares: Float[Array, "messages messages"],
    among: Bool[Array, " messages"],
    num_byzantine: int,
) -> Float[Array, " messages"]:
    """The sum of the squared distances to the $n - f - 2$ nearest of the others, and to
    one at least; infinite for those that are not among them."""
    size = among.size
    others = among[:, None] & among[None, :] & ~jnp.eye(size, dtype=bool)
    near = jnp.sort(jnp.where(others, squares, jnp.full_like(squares, jnp.inf)), axis=1)
    count = jnp.maximum(among.sum() - num_byzantine - 2, 1)
    near = jnp.where(jnp.arange(size)[None] < count, near, jnp.zeros_like(near))
    score = near.sum(1)
    return jnp.where(among, score, jnp.full_like(score, jnp.inf))


def lowest(
    scores: Float[Array, " messages"], count: int | Int[Array, ""]
) -> Bool[Array, " messages"]:
    """Which have the lowest scores; of equals, those of the smaller client numbers."""
    rank = jnp.argsort(jnp.argsort(scores, stable=True), stable=True)
    return rank < count


class Krum(AbstractAggregator):
    r"""The message whose neighbours are closest; multi-Krum is the mean of the $m$
    first.

    The score of a message is the sum of the squared distances to the $n - f - 2$ that
    are nearest to it, of the $n$ messages of a round (Blanchard et al., 2017, arXiv
    1703.02757). Every client counts the same, whatever its number of examples.

    **Arguments:**

    - `num_byzantine`: the $f$: how many of a round's clients may send anything.
    - `num_selected`: the $m$; 1 is Krum.

    A round needs $n > 2f + 2$ messages, and $m \le n - f$, or a mean would have a
    Byzantine one in it for sure. One that has fewer is rejected: the metric `rejected`
    is 1 then, and the model stays as it was. A message that is not finite counts as
    absent. `stats` are the mean of those that are selected.

    **Raises:**

    `ValueError` in a round whose cohort has no room for as many.
    """

    num_byzantine: int = eqx.field(converter=known_int)
    num_selected: int = eqx.field(converter=known_int, default=1)

    def __check_init__(self):
        check_count("num_byzantine", self.num_byzantine, least=0)
        check_count("num_selected", self.num_selected)

    @property
    def gathers(self):
        return True

    def init(self, payload):
        return None

    def encode(self, message, state, *, key):
        return gathered(message, self), {}

    def decode(self, encoded, state, *, key):
        f, m = self.num_byzantine, self.num_selected
        least = max(2 * f + 3, m + f)
        check_capacity(self, encoded, least, "n > 2f + 2, m <= n - f")
        scores = krum_scores(pairwise_squares(encoded), encoded.present, f)
        chosen = lowest(scores, m) & encoded.present
        means = weighted(encoded, chosen.astype(scores.dtype))
        aggregate, metrics = answer(encoded, means, encoded.count >= least)
        return aggregate, state, metrics
