"""Bucketing: means of a few messages each are aggregated in their place."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from .._aggregator import AbstractAggregator
from .._check import check_count, check_kind, known_int
from .base import gathered, rejected
from .within import aggregated, mixed, ranks


class Bucketing(AbstractAggregator):
    r"""Deals a round's messages at random into buckets of $s$, whose means another
    aggregator is given as its messages.

    They differ less than the messages do, which a rule that looks for outliers needs
    where clients differ honestly; and $f$ Byzantine clients spoil up to $f$ of the
    $\lceil n / s \rceil$ buckets (Karimireddy et al., 2022, arXiv 2006.09365). So a
    `num_byzantine` of the aggregator stays as it was, and its condition must hold for
    that many buckets. Every client counts the same, and every bucket 1, the last one
    too, which may have fewer than $s$.

    **Arguments:**

    - `aggregator`: any other.
    - `bucket_size`: the $s$.

    A message that is not finite counts as absent. `stats` are averaged as the payload
    is. The metric `rejected` is 1 in a round that the other aggregator does not accept.
    """

    aggregator: AbstractAggregator
    bucket_size: int = eqx.field(converter=known_int)

    def __check_init__(self):
        check_kind("aggregator", self.aggregator, AbstractAggregator)
        check_count("bucket_size", self.bucket_size)

    @property
    def gathers(self):
        return True

    def init(self, payload):
        return self.aggregator.init(payload)

    def encode(self, message, state, *, key):
        return gathered(message, self), {}

    def decode(self, encoded, state, *, key):
        deal_key, key = jr.split(key)
        present, weight = encoded.present, encoded.message.weight
        # A message's draw is that of its place among those present: it must not depend
        # on how many slots are empty.
        draw = lambda i: jr.bits(jr.fold_in(deal_key, i))  # noqa: E731
        drawn = jax.vmap(draw)(ranks(present))
        order = jnp.lexsort((jnp.arange(drawn.size), drawn, ~present))
        bucket = jnp.argsort(order) // self.bucket_size
        num_buckets = -(-present.size // self.bucket_size)
        member = (bucket[None] == jnp.arange(num_buckets)[:, None]) & present[None]
        size = member.sum(1)
        weights = member.astype(weight.dtype)
        weights = weights / jnp.maximum(size, 1)[:, None].astype(weight.dtype)
        means, each = mixed(encoded, weights), (size > 0).astype(weight.dtype)
        out, state, metrics = aggregated(self.aggregator, means, each, state, key=key)
        # The metric `clients` is of clients.
        out = dataclasses.replace(
            out,
            weight=weight.sum(),
            count=encoded.count.astype(weight.dtype),
        )
        return out, state, {**metrics, "rejected": rejected(out.accept)}
