"""Bulyan: Krum again and again, and what is near the median of those."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool

from .._aggregator import AbstractAggregator
from .._aggregator.base import Gathered
from .._aggregator.columns import by_columns
from .._check import check_count, known_int
from .base import answer, check_capacity, gathered, weighted
from .distances import pairwise_squares
from .krum import krum_scores


class Bulyan(AbstractAggregator):
    r"""Near the coordinate-wise median of those messages that Krum selects.

    Krum takes one message after another from those that are left, $\theta = n - 2f$
    times. Then each number is the mean of the $\theta - 2f$ values that are nearest to
    the median of the selected ones (El Mhamdi et al., 2018, arXiv 1802.07927): a large
    change of a single number does not hide in the distance of many. Every client counts
    the same.

    **Arguments:**

    - `num_byzantine`: the $f$: how many of a round's clients may send anything.

    A round needs $n \ge 4f + 3$ messages, and is rejected if it has fewer (the metric
    `rejected` is 1 then). A message that is not finite counts as absent. The scores are
    those of [`equifed.robust.Krum`][] among what is left, over one neighbour at least.
    `stats` are the mean of those that are selected.

    **Raises:**

    `ValueError` in a round whose cohort has no room for as many.
    """

    num_byzantine: int = eqx.field(converter=known_int)

    def __check_init__(self):
        check_count("num_byzantine", self.num_byzantine, least=0)

    @property
    def gathers(self):
        return True

    def init(self, payload):
        return None

    def encode(self, message, state, *, key):
        return gathered(message, self), {}

    def decode(self, encoded, state, *, key):
        f = self.num_byzantine
        least = 4 * f + 3
        check_capacity(self, encoded, least, "n >= 4f + 3")
        chosen = _selected(encoded, f)
        count = chosen.sum()

        def near_median(x):
            missing = ~chosen[:, None]
            values = jnp.sort(jnp.where(missing, jnp.full_like(x, jnp.inf), x), axis=0)
            last = jnp.maximum(count, 1)
            middle = values[(last - 1) // 2] + values[last // 2]
            median = middle * jnp.asarray(0.5, x.dtype)
            away = jnp.abs(values - median[None])
            # The others are infinities, infinitely far or NaN: they are last.
            _, values = jax.lax.sort((away, values), dimension=0, num_keys=1)
            kept = jnp.maximum(count - 2 * f, 0)
            keep = jnp.arange(x.shape[0])[:, None] < kept
            total = jnp.where(keep, values, jnp.zeros_like(values)).sum(0)
            return total / jnp.maximum(kept, 1).astype(x.dtype)

        payload = encoded.message.payload
        payload = jtu.tree_map(lambda x: by_columns(near_median, x), payload)
        _, stats = weighted(encoded, chosen.astype(jnp.result_type(float)))
        accept = encoded.count >= least
        aggregate, metrics = answer(encoded, (payload, stats), accept)
        return aggregate, state, metrics


def _selected(messages: Gathered, num_byzantine: int) -> Bool[Array, " messages"]:
    """The messages that Krum takes, one after another."""
    squares = pairwise_squares(messages)

    def take(_, left):
        scores = krum_scores(squares, left, num_byzantine)
        # The last one of all has no neighbour, and yet is one of those left.
        most = jnp.full_like(scores, jnp.finfo(scores.dtype).max)
        scores = jnp.where(left, jnp.minimum(scores, most), scores)
        return left & (jnp.arange(left.size) != jnp.argmin(scores))

    times = jnp.maximum(messages.count - 2 * num_byzantine, 0)
    left = jax.lax.fori_loop(0, times, take, messages.present)
    return messages.present & ~left
