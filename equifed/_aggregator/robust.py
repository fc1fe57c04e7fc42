"""Means that a minority of arbitrary messages cannot carry away.

Both work coordinate by coordinate (Yin et al., 2018, arXiv 1803.01498), count every
client once whatever its number of examples, and need all messages at once.
"""

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree

from .._metrics import masked_sum
from .._tree import floating, tree_divide, tree_wide
from .base import AbstractAggregator, Aggregate, Gathered


def _uniform(gathered: Gathered, payload: PyTree) -> Aggregate:
    """The aggregate of a payload that counted every client once."""
    weight = gathered.message.weight
    count = gathered.count.astype(weight.dtype)
    total = masked_sum(gathered.message.stats, gathered.present)
    return Aggregate(payload, tree_divide(total, count), weight.sum(), count)


def _sorted(x: Array, present: Array) -> Array:
    """Sorted along the messages, the absent ones (as infinities) last."""
    keep = present.reshape(present.shape + (1,) * (x.ndim - 1))
    return jnp.sort(jnp.where(keep, x, jnp.full_like(x, jnp.inf)), axis=0)


class Median(AbstractAggregator):
    """The coordinate-wise median; the mean of the middle two if they are even."""

    @property
    def gathers(self):
        return True

    def init(self, params):
        return None

    def encode(self, message, state, *, key):
        return Gathered(message)

    def decode(self, encoded, state, *, key):
        count = jnp.maximum(encoded.count, 1)

        def median(x):
            x = _sorted(tree_wide(x), encoded.present)
            middle = x[(count - 1) // 2] + x[count // 2]
            half = jnp.asarray(0.5, x.dtype)
            return jnp.where(encoded.count > 0, middle * half, jnp.zeros_like(middle))

        payload = jtu.tree_map(median, encoded.message.payload)
        return _uniform(encoded, payload), state


class TrimmedMean(AbstractAggregator):
    r"""The coordinate-wise mean of what is left when the largest and the smallest
    $\lfloor \beta n \rfloor$ of the $n$ values are taken away.

    **Arguments:**

    - `trim`: the fraction $\beta$ to take away at each end, in [0, 0.5).
    """

    trim: Float[Array, ""] = eqx.field(converter=floating)

    def __init__(self, trim: float):
        known = not isinstance(trim, jax.core.Tracer) and jnp.ndim(trim) == 0
        if known and not 0 <= trim < 0.5:
            raise ValueError(
                "`trim` is the fraction taken away at each end, and must be at least "
                f"0 and less than 0.5, got {trim}."
            )
        self.trim = floating(trim)

    @property
    def gathers(self):
        return True

    def init(self, params):
        return None

    def encode(self, message, state, *, key):
        return Gathered(message)

    def decode(self, encoded, state, *, key):
        count = encoded.count
        cut = jnp.floor(self.trim * count.astype(self.trim.dtype)).astype(count.dtype)

        def mean(x):
            place = jnp.arange(x.shape[0])
            keep = (place >= cut) & (place < count - cut)
            keep = keep.reshape(keep.shape + (1,) * (x.ndim - 1))
            x = _sorted(tree_wide(x), encoded.present)
            total = jnp.where(keep, x, jnp.zeros_like(x)).sum(0)
            return tree_divide(total, (count - 2 * cut).astype(x.dtype))

        payload = jtu.tree_map(mean, encoded.message.payload)
        return _uniform(encoded, payload), state
