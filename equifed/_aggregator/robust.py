"""Means that a minority of arbitrary messages cannot carry away.

Both work coordinate by coordinate (Yin et al., 2018, arXiv 1803.01498), count every
client once whatever its number of examples, and need all messages at once, of which
they sort some columns after others.
"""

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree

from .._check import number
from .._metrics import masked_sum
from .._share import floor_share
from .._tree import rowwise, tree_divide
from .._wire import Aggregate
from .base import AbstractAggregator, Gathered
from .columns import by_columns


def _uniform(gathered: Gathered, payload: PyTree) -> Aggregate:
    """The aggregate of a payload that counted every client once."""
    weight = gathered.message.weight
    count = gathered.count.astype(weight.dtype)
    total = masked_sum(gathered.message.stats, gathered.present)
    stats = tree_divide(total, count)
    return Aggregate(payload, stats, weight.sum(), count, count > 0)


def _sorted(x: Array, present: Array) -> Array:
    """Sorted along the messages, the absent ones (as infinities) last."""
    keep = rowwise(present, x)
    return jnp.sort(jnp.where(keep, x, jnp.full_like(x, jnp.inf)), axis=0)


class Median(AbstractAggregator):
    """The coordinate-wise median; the mean of the middle two if they are even."""

    @property
    def gathers(self):
        return True

    def init(self, payload):
        return None

    def encode(self, message, state, *, key):
        return Gathered(message), {}

    def decode(self, encoded, state, *, key):
        count = jnp.maximum(encoded.count, 1)

        def median(x):
            x = _sorted(x, encoded.present)
            middle = x[(count - 1) // 2] + x[count // 2]
            half = jnp.asarray(0.5, x.dtype)
            return jnp.where(encoded.count > 0, middle * half, jnp.zeros_like(middle))

        payload = encoded.message.payload
        payload = jtu.tree_map(lambda x: by_columns(median, x), payload)
        return _uniform(encoded, payload), state, {}


class TrimmedMean(AbstractAggregator):
    r"""The coordinate-wise mean of what is left when the largest and the smallest
    $\lfloor \beta n \rfloor$ of the $n$ values are taken away.

    **Arguments:**

    - `trim`: the fraction $\beta$ to take away at each end, in [0, 0.5). It counts as
        it is written: 0.29 of 100 are 29.
    """

    trim: Float[Array, ""] = eqx.field(converter=number("trim", least=0, below=0.5))

    @property
    def gathers(self):
        return True

    def init(self, payload):
        return None

    def encode(self, message, state, *, key):
        return Gathered(message), {}

    def decode(self, encoded, state, *, key):
        count = encoded.count
        # Something is left, however close to a half the fraction is.
        cut = jnp.minimum(floor_share(self.trim, count), jnp.maximum(count - 1, 0) // 2)

        def mean(x):
            place = jnp.arange(x.shape[0])
            keep = (place >= cut) & (place < count - cut)
            keep = rowwise(keep, x)
            x = _sorted(x, encoded.present)
            total = jnp.where(keep, x, jnp.zeros_like(x)).sum(0)
            mean = tree_divide(total, (count - 2 * cut).astype(x.dtype))
            return jnp.where(jnp.isnan(self.trim), jnp.full_like(mean, jnp.nan), mean)

        payload = encoded.message.payload
        payload = jtu.tree_map(lambda x: by_columns(mean, x), payload)
        return _uniform(encoded, payload), state, {}
