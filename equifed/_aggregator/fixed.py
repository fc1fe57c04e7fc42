"""The mean whose divisor is known before anyone answers."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._check import number
from .._tree import tree_divide
from .._wire import Aggregate
from .base import AbstractAggregator
from .mean import uniform_total


class FixedDenominatorMean(AbstractAggregator):
    r"""$\frac{1}{m} \sum_{i \in S} m_i$ over the messages of nonzero weight, where $m$
    is the number of clients that a round has on average, and not of those that came.

    Unlike that of a mean, its change when one client more takes part is bounded, which
    privacy asks for. Nobody's messages add up to 0: a round without clients is accepted
    as one whose change is 0 (McMahan et al., 2018, arXiv 1710.06963, estimator
    $\tilde f_f$).

    **Arguments:**

    - `expected_clients`: the $m$: for a [`equifed.data.PoissonSampler`][] its rate
        times the number of clients.
    """

    expected_clients: Float[Array, ""] = eqx.field(
        converter=number("expected_clients", least=0, strict=True)
    )

    @property
    def gathers(self):
        return False

    def init(self, payload):
        return None

    def encode(self, message, state, *, key):
        return uniform_total(message), {}

    def decode(self, encoded, state, *, key):
        payload = tree_divide(encoded.payload, self.expected_clients)
        # Numbers about the messages are a mean over those that came.
        stats = tree_divide(encoded.stats, encoded.count)
        accept = jnp.ones((), bool)
        count = encoded.count
        return Aggregate(payload, stats, encoded.weight, count, accept), state, {}
