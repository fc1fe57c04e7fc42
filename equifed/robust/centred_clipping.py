"""Centred clipping: the mean of what is near the last aggregate."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float

from .._aggregator import AbstractAggregator
from .._aggregator.columns import by_columns
from .._check import check_count, known_int, number
from .._tree import rowwise, tree_cast_like, tree_wide, tree_zeros_like
from .base import answer, gathered, weighted
from .distances import distances_to


class CentredClipping(AbstractAggregator):
    r"""The mean of the messages' differences from the last aggregate, clipped:

    $$v \leftarrow v + \frac{1}{n} \sum_i (m_i - v)
    \min\Bigl(1, \frac{\tau}{\lVert m_i - v \rVert}\Bigr),$$

    from the last round's $v$ on, which is 0 at first (Karimireddy et al., 2021, arXiv
    2012.10333). A message moves it by at most $\tau / n$ each time, and honest ones
    that differ little from round to round, as clients' momenta do, are hardly clipped.
    It needs not know how many are Byzantine. Every client counts the same.

    **Arguments:**

    - `max_norm`: $\tau$, the largest norm of a message's difference.
    - `num_iterations`: how often a round does this; 1, as in the paper's experiments,
        if not given.

    A message that is not finite counts as absent. `stats` are the plain mean.
    """

    max_norm: Float[Array, ""] = eqx.field(
        converter=number("max_norm", least=0, strict=True)
    )
    num_iterations: int = eqx.field(converter=known_int, default=1)

    def __check_init__(self):
        check_count("num_iterations", self.num_iterations)

    @property
    def gathers(self):
        return True

    def init(self, payload):
        return tree_zeros_like(payload)

    def encode(self, message, state, *, key):
        return gathered(message, self), {}

    def decode(self, encoded, state, *, key):
        present = encoded.present
        count = jnp.maximum(encoded.count, 1)

        def step(_, v):
            distance = distances_to(encoded, v)
            scale = self.max_norm / jnp.maximum(distance, self.max_norm)
            scale = jnp.where(present, scale, 0) / count.astype(scale.dtype)

            def moved(x, v):
                scales = rowwise(scale, x).astype(x.dtype)
                return (v + ((x - v) * scales).sum(0, keepdims=True))[0]

            return jtu.tree_map(
                lambda x, v: by_columns(moved, x, v), encoded.message.payload, v
            )

        v = jax.lax.fori_loop(0, self.num_iterations, step, tree_wide(state))
        _, stats = weighted(encoded, present.astype(jnp.result_type(float)))
        aggregate, metrics = answer(encoded, (v, stats), encoded.count > 0)
        return aggregate, tree_cast_like(v, state), metrics
