"""The geometric median, by reweighted means."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._aggregator import AbstractAggregator
from .._check import check_count, known_int, number
from .base import answer, gathered, weighted
from .distances import distances_to


class GeometricMedian(AbstractAggregator):
    r"""The point $v$ with the smallest $\sum_i w_i \lVert v - m_i \rVert$, nearly: RFA.

    From the weighted mean on, the smoothed Weiszfeld algorithm takes

    $$\beta_i = \frac{w_i}{\max(\nu, \lVert v - m_i \rVert)}, \qquad
    v \leftarrow \frac{\sum_i \beta_i m_i}{\sum_i \beta_i},$$

    where $w_i$ is the message's weight: the client's number of examples, unless its
    algorithm says otherwise (Pillutla et al., 2019, arXiv 1912.13445). It resists as
    long as clients with less than half of the weight are Byzantine, and needs not know
    how many. A client that may choose its weight can have more than half of it.

    **Arguments:**

    - `num_iterations`: how many means are taken after the first. An outlier as large as
        $R$ whose share of the weight is $\alpha$ still moves the result by about
        $\alpha R (\alpha / (1 - \alpha))^k$ after $k$ of them.
    - `nu`: the $\nu$, a distance below which messages count as equal. (The authors'
        program takes four means at most, fewer where the sum hardly falls, and has
        $\nu = 10^{-5}$.)

    A message that is not finite counts as absent. `stats` are averaged by the last
    $\beta_i$.
    """

    num_iterations: int = eqx.field(converter=known_int)
    nu: Float[Array, ""] = eqx.field(
        converter=number("nu", least=0, strict=True), default=1e-6
    )

    def __check_init__(self):
        check_count("num_iterations", self.num_iterations)

    @property
    def gathers(self):
        return True

    def init(self, payload):
        return None

    def encode(self, message, state, *, key):
        return gathered(message, self), {}

    def decode(self, encoded, state, *, key):
        weight = encoded.message.weight

        def step(_, means):
            distance = distances_to(encoded, means[0])
            beta = weight / jnp.maximum(self.nu, distance).astype(weight.dtype)
            return weighted(encoded, beta)

        means = weighted(encoded, weight)
        means = jax.lax.fori_loop(0, self.num_iterations, step, means)
        aggregate, metrics = answer(encoded, means, encoded.count > 0)
        return aggregate, state, metrics
