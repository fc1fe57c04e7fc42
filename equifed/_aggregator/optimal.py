"""Optimal client sampling: who has much to say is likely to be heard.

All clients of a round train. Each tells the norm of its message, by which the server
says with what probability the message is to be sent; what is sent counts for those that
were not, so that the mean is right on average.
"""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, ArrayLike, Float

from .._bits import Bits, DOWN, payload_bits, UP
from .._check import as_number, checked
from .._metrics import Sum
from .._tree import rowwise, safe_divide, tree_norm, tree_row, tree_wide
from .._wire import Aggregate, check_additive, Message
from .base import AbstractAggregator


# How often Algorithm 2 mends its probabilities at most, as in the paper.
ITERATIONS = 4


class Offered(eqx.Module):
    """A message, its norm, and a number between 0 and 1 that its client has drawn."""

    message: Message
    norm: Float[Array, ""]
    draw: Float[Array, ""]


class OptimalClientSampling(AbstractAggregator):
    r"""The mean of all messages, estimated from a few of them: those of large norm are
    sent with a higher probability, and each stands for others like it.

    With $w_i$ the share of client $i$'s weight and $m_i$ its message, of $n$, the
    client sends it with probability $p_i$, independently of all others. The estimate is

    $$\sum_{i \in S} \frac{w_i}{p_i} m_i, \qquad \mathbb{E} = \sum_i w_i m_i.$$

    Of all such probabilities with $\sum_i p_i = m$ those of the least variance are

    $$p_i = (m + l - n) \frac{u_i}{\sum_{j \le l} u_{(j)}} \text{ of the } l \text{
    clients of smallest } u_i = \lVert w_i m_i \rVert, \text{ and } 1 \text{ of the
    others},$$

    with the largest $l$ for which $0 < m + l - n \le \sum_{j \le l} u_{(j)} / u_{(l)}$
    (Algorithm 1, OCS). With `approximate=True` the server needs only sums over the
    clients, as of secure aggregation: from $p_i = \min(1, m u_i / \sum_j u_j)$ those
    below 1 are scaled up, by what is left of $m$ divided by their sum, and cut at 1
    again, until they need no more, or four times (Algorithm 2, AOCS).

    A message that is not sent is not in `bits_up`: each client that takes part sends
    its weight and its norm, and is sent its probability (with `approximate=True` two
    numbers for each time, and one back). One that is sent is counted whole, also if it
    was compressed. Where nobody sends, the estimate is 0, which belongs to it. The
    metric `sent` is the number of messages that were, `clients` of those that could
    have been. A client that does not send has trained all the same, and keeps what it
    keeps. `stats` are a mean over those that were sent.

    **Arguments:**

    - `expected_clients`: $m > 0$, which need not be whole: how many messages are sent
        on average. With as many as take part all are.
    - `weighted`: whether $w_i$ is the share of the message's weight, as of
        [`equifed.WeightedMean`][], or $1 / n$, as of [`equifed.UniformMean`][].
    - `approximate`: Algorithm 2 in place of 1.

    ??? cite "Reference"

        [Optimal Client Sampling for Federated
        Learning](https://arxiv.org/abs/2010.13723)

        ```bibtex
        @article{chen2022optimal,
            title={{O}ptimal {C}lient {S}ampling for {F}ederated {L}earning},
            author={Chen, Wenlin and Horv{\'a}th, Samuel and Richt{\'a}rik, Peter},
            journal={Transactions on Machine Learning Research},
            year={2022},
        }
        ```
    """

    expected_clients: Float[Array, ""]
    weighted: bool
    approximate: bool

    @checked()
    def __init__(
        self,
        expected_clients: ArrayLike,
        *,
        weighted: bool = True,
        approximate: bool = False,
    ):
        most = as_number("expected_clients", expected_clients, least=0, strict=True)
        self.expected_clients = most
        self.weighted = weighted
        self.approximate = approximate

    @property
    def gathers(self):
        return True

    def init(self, payload):
        return None

    def encode(self, message, state, *, key):
        check_additive(message.payload, self)
        # What is absent may hold anything.
        present = message.weight > 0
        payload, weight, stats = jtu.tree_map(
            lambda x: jnp.where(present, x, jnp.zeros_like(x)),
            (message.payload, message.weight, message.stats),
        )
        if not self.weighted:
            weight = present.astype(weight.dtype)
        norm = tree_norm(payload)
        offered = Offered(Message(payload, weight, stats), norm, jr.uniform(key))
        return offered, {UP: Bits(payload_bits((message.weight, norm)))}

    def decode(self, encoded, state, *, key):
        message = encoded.message
        weight = message.weight.astype(encoded.norm.dtype)
        shares = safe_divide(weight, jnp.broadcast_to(weight.sum(), weight.shape))
        norms = shares * encoded.norm
        if self.approximate:
            chances, times = approximate(norms, self.expected_clients)
        else:
            chances, times = optimal(norms, self.expected_clients), 1
        # What is not finite is not hidden: then all are sent.
        sent = (weight > 0) & ~(encoded.draw >= chances)
        weights = jnp.where(sent, safe_divide(shares, chances), 0)

        def total(x: Array, by: Array) -> Array:
            # Also of one that is not finite nothing comes, if it is not sent.
            x = jnp.where(rowwise(sent, x), x, jnp.zeros_like(x))
            return (x * rowwise(by, x).astype(x.dtype)).sum(0)

        payload = jtu.tree_map(lambda x: total(tree_wide(x), weights), message.payload)
        of_sent = safe_divide(weights, jnp.broadcast_to(weights.sum(), weights.shape))
        stats = jtu.tree_map(lambda x: total(x, of_sent), message.stats)
        count = (weight > 0).sum()
        metrics = {"sent": Sum(sent.sum().astype(weight.dtype))}
        metrics |= self._bits(tree_row(message, 0), norms, weight > 0, sent, times)
        count = count.astype(weight.dtype)
        total_weight = message.weight.sum()
        return Aggregate(payload, stats, total_weight, count, count > 0), state, metrics

    def _bits(self, message, norms, present, sent, times) -> dict:
        """What was sent of each message beside its weight and norm."""
        whole = Bits(payload_bits((message.payload, message.stats)))
        digits = jnp.where(sent[:, None], whole.digits, 0)
        up = eqx.tree_at(lambda b: b.digits, whole, digits)
        down = payload_bits(norms[0]) * times * present.astype(jnp.int32)
        if not self.approximate:
            return {UP: up, DOWN: Bits(down)}
        # Before the sums, each is told that of all norms.
        told = payload_bits(norms[0]) * present.astype(jnp.int32)
        return {UP: up.merge(Bits(2 * down)), DOWN: Bits(down + told)}


def optimal(norms: Array, expected: Array) -> Array:
    """The probabilities of Algorithm 1. A client that is absent has norm 0, which is as
    if it were not there."""
    rank = jnp.argsort(jnp.argsort(norms))
    ordered = jnp.sort(norms)
    sums = jnp.cumsum(ordered)
    place = jnp.arange(1, norms.size + 1, dtype=norms.dtype)
    left = expected.astype(norms.dtype) + place - norms.size
    may = (left > 0) & (left * ordered <= sums)
    last = jnp.max(jnp.where(may, jnp.arange(norms.size), -1))
    scale = safe_divide(left[last], sums[last])
    return jnp.where(rank > last, 1, jnp.minimum(scale * norms, 1))


def approximate(norms: Array, expected: Array) -> tuple[Array, Array]:
    """The probabilities of Algorithm 2, and how often they were mended."""
    expected = expected.astype(norms.dtype)
    chances = jnp.minimum(safe_divide(expected * norms, norms.sum()), 1)
    going, times = jnp.ones((), bool), jnp.zeros((), jnp.int32)
    for _ in range(ITERATIONS):
        below = chances < 1
        left = expected - (~below).sum().astype(norms.dtype)
        scale = safe_divide(left, jnp.sum(jnp.where(below, chances, 0)))
        mended = jnp.where(below, jnp.minimum(scale * chances, 1), chances)
        chances = jnp.where(going, mended, chances)
        times = times + going.astype(times.dtype)
        going = going & (scale > 1)
    return chances, times
