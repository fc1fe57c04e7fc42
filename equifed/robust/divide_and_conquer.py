"""Divide and conquer: what stands out where messages differ most is left out."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Float, Int

from .._aggregator import AbstractAggregator
from .._aggregator.base import Gathered
from .._check import check_count, known_int, number
from .._share import floor_share
from .._tree import tree_wide
from .base import answer, check_capacity, gathered, weighted
from .krum import lowest


class DnC(AbstractAggregator):
    r"""The mean of what is left when outliers along the top singular direction are
    taken away.

    Each time, of $b$ numbers of the messages that are drawn at random, centred at their
    mean, the first right singular vector $v$ is found, and the $\lfloor c f \rfloor$
    messages with the largest $\langle m_i - \mu, v \rangle^2$ are bad; the mean is
    of those that never were (Shejwalkar and Houmansadr, *Manipulating the Byzantine*,
    NDSS 2021, algorithm 2). Every client counts the same.

    **Arguments:**

    - `num_byzantine`: the $f$: how many of a round's clients may send anything.
    - `num_coordinates`: $b$, how many coordinates are looked at each time.
    - `filter_share`: the $c$; 1 if not given. The paper leaves open what is done where
        $c f$ is not whole: it is rounded down.
    - `num_iterations`: how often; 1 if not given.

    A round needs $n > k \lfloor c f \rfloor$ messages, of $k$ iterations, so that some
    are left for sure, and $n > 2f$. It is rejected if it has fewer (the metric
    `rejected` is 1 then). A message that is not finite counts as absent. `stats` are
    the mean of those that are left.

    **Raises:**

    `ValueError` in a round whose cohort has no room for $2f + 1$ messages, and for
    messages of fewer than `num_coordinates` numbers.
    """

    num_byzantine: int = eqx.field(converter=known_int)
    num_coordinates: int = eqx.field(converter=known_int)
    filter_share: Float[Array, ""] = eqx.field(
        converter=number("filter_share", least=0, strict=True), default=1.0
    )
    num_iterations: int = eqx.field(converter=known_int, default=1)

    def __check_init__(self):
        check_count("num_byzantine", self.num_byzantine, least=0)
        check_count("num_coordinates", self.num_coordinates)
        check_count("num_iterations", self.num_iterations)

    @property
    def gathers(self):
        return True

    def init(self, payload):
        return None

    def encode(self, message, state, *, key):
        return gathered(message, self), {}

    def decode(self, encoded, state, *, key):
        f, k = self.num_byzantine, self.num_iterations
        check_capacity(self, encoded, 2 * f + 1, "n > 2f")
        cut = floor_share(self.filter_share, jnp.asarray(f))
        good = encoded.present
        for i in range(k):
            index = self._drawn(encoded, jr.fold_in(key, i))
            scores = _scores(encoded, index)
            good = good & lowest(scores, encoded.count - cut)
        means = weighted(encoded, good.astype(jnp.result_type(float)))
        accept = (encoded.count > k * cut) & (encoded.count > 2 * f)
        # A share that is no number is no reason to keep everyone.
        accept = accept & ~jnp.isnan(self.filter_share)
        aggregate, metrics = answer(encoded, means, accept)
        return aggregate, state, metrics

    def _drawn(self, messages: Gathered, key: Array) -> Int[Array, " coordinates"]:
        sizes = [x[0].size for x in jtu.tree_leaves(messages.message.payload)]
        if self.num_coordinates > sum(sizes):
            raise ValueError(
                f"`num_coordinates` must be at most the {sum(sizes)} numbers of a "
                f"message, got {self.num_coordinates}."
            )
        shape = (self.num_coordinates,)
        return jr.choice(key, sum(sizes), shape, replace=False)


def _scores(
    messages: Gathered, index: Int[Array, " coordinates"]
) -> Float[Array, " messages"]:
    """The squared parts along the top singular direction; infinite where absent."""
    present = messages.present
    first, columns = 0, jnp.zeros((present.size, index.size), jnp.result_type(float))
    for leaf in jtu.tree_leaves(jax.lax.stop_gradient(messages.message.payload)):
        rows = leaf.reshape(leaf.shape[0], -1)
        here = (index >= first) & (index < first + rows.shape[1])
        place = jnp.clip(index - first, 0, rows.shape[1] - 1)
        taken = tree_wide(rows[:, place]).astype(columns.dtype)
        columns = jnp.where(here[None], taken, columns)
        first += rows.shape[1]
    count = jnp.maximum(present.sum(), 1).astype(columns.dtype)
    mean = columns.sum(0) / count
    zero = jnp.zeros_like(columns)
    columns = jnp.where(present[:, None], columns - mean[None], zero)
    # Of the scale only the rank matters, and squares of squares overflow.
    largest = jnp.abs(columns).max()
    columns = columns / jnp.where(largest > 0, largest, jnp.ones_like(largest))
    # A left singular vector has the messages' parts along the right one, but for scale.
    gram = jnp.matmul(columns, columns.T, precision="highest")
    _, vectors = jnp.linalg.eigh(gram)
    score = jnp.square(vectors[:, -1])
    return jnp.where(present, score, jnp.full_like(score, jnp.inf))
