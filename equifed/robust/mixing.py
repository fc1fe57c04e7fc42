"""Nearest-neighbour mixing: messages are averaged with those near them first."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp

from .._aggregator import AbstractAggregator
from .._check import check_count, check_kind, known_int
from .base import check_capacity, gathered, rejected
from .distances import pairwise_squares
from .within import aggregated, mixed


class NearestNeighbourMixing(AbstractAggregator):
    r"""Replaces each of the $n$ messages by the mean of the $n - f$ nearest to it,
    itself among them, before another aggregator sees them.

    Where clients differ honestly, a rule that singles out some of them then still hears
    of all (Allouah et al., 2023, arXiv 2302.01772). Every client counts the same here:
    what the other aggregator is given has the messages' own weights.

    **Arguments:**

    - `aggregator`: any other; that of the paper is a robust one, for the same $f$.
    - `num_byzantine`: the $f$: how many of a round's clients may send anything.

    A round needs $n > 2f$ messages, and is rejected if it has fewer (the metric
    `rejected` is 1 then). A message that is not finite counts as absent. `stats` are
    mixed as the payload is. It takes memory for all messages twice.

    **Raises:**

    `ValueError` in a round whose cohort has no room for as many.
    """

    aggregator: AbstractAggregator
    num_byzantine: int = eqx.field(converter=known_int)

    def __check_init__(self):
        check_kind("aggregator", self.aggregator, AbstractAggregator)
        check_count("num_byzantine", self.num_byzantine, least=0)

    @property
    def gathers(self):
        return True

    def init(self, payload):
        return self.aggregator.init(payload)

    def encode(self, message, state, *, key):
        return gathered(message, self), {}

    def decode(self, encoded, state, *, key):
        least = 2 * self.num_byzantine + 1
        check_capacity(self, encoded, least, "n > 2f")
        squares = pairwise_squares(encoded)
        # Oneself first, whoever else is in the same place.
        squares = jnp.fill_diagonal(squares, -1, inplace=False)
        rank = jnp.argsort(jnp.argsort(squares, axis=1, stable=True), axis=1)
        size = jnp.maximum(encoded.count - self.num_byzantine, 1)
        near = (rank < size) & encoded.present[None] & encoded.present[:, None]
        weights = near.astype(squares.dtype) / size.astype(squares.dtype)
        means, weight = mixed(encoded, weights), encoded.message.weight
        out, state, metrics = aggregated(self.aggregator, means, weight, state, key=key)
        accept = out.accept & (encoded.count >= least)
        out = dataclasses.replace(out, accept=accept)
        return out, state, {**metrics, "rejected": rejected(accept)}
