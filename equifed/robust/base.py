"""What the rules share: which messages count, how many they need, and means of some.

A message that cannot be measured is no evidence of anything: one with a NaN or an
infinity, or so large that the square of its norm would overflow. Whoever looks at all
messages leaves it out first, as if its client had not come. The number of Byzantine
clients stays as it was given, so that what a paper promises holds for the others.
"""

from typing import Any

import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, PyTree

from .._aggregator.base import Gathered
from .._aggregator.columns import by_columns
from .._metrics import AbstractMetric, Sum
from .._tree import rowwise, safe_divide, tree_isfinite, tree_norm
from .._wire import Aggregate, check_additive, Message


def gathered(message: Message, aggregator: Any) -> Gathered:
    """The message; one that is absent or cannot be measured as zeros, of weight 0."""
    check_additive(message.payload, aggregator)
    norm = tree_norm(message.payload)
    # The square of the distance of two such messages is finite.
    largest = jnp.sqrt(jnp.finfo(norm.dtype).max) / 4
    measured = (norm <= largest) & tree_isfinite((message.stats, message.weight))
    counts = measured & (message.weight > 0)
    payload, weight, stats = jtu.tree_map(
        lambda x: jnp.where(counts, x, jnp.zeros_like(x)),
        (message.payload, message.weight, message.stats),
    )
    return Gathered(Message(payload, weight, stats))


def check_capacity(rule: Any, messages: Gathered, least: int, why: str) -> None:
    """Refuses a cohort that can never have as many messages as the rule needs."""
    capacity = messages.present.size
    if capacity < least:
        raise ValueError(
            f"`{type(rule).__name__}` with num_byzantine={rule.num_byzantine} needs "
            f"at least {least} messages ({why}), and a cohort has room for {capacity}. "
            "Draw more clients a round, or lower `num_byzantine`."
        )


def weighted(messages: Gathered, weights: Float[Array, " messages"]) -> PyTree[Array]:
    """The mean of the payloads and of the `stats` by these weights, and zeros if all
    are 0."""
    weights = safe_divide(weights, jnp.broadcast_to(weights.sum(), weights.shape))

    def mean(x):
        return (x * rowwise(weights, x).astype(x.dtype)).sum(0)

    message = messages.message
    both = (message.payload, message.stats)
    return jtu.tree_map(lambda x: by_columns(mean, x), both)


def answer(
    messages: Gathered, means: PyTree[Array], accept: Bool[Array, ""]
) -> tuple[Aggregate, dict[str, AbstractMetric]]:
    """The aggregate with this payload and these `stats`; and the metric of a round that
    had too few messages."""
    payload, stats = means
    weight = messages.message.weight
    accept = accept & (messages.count > 0)
    count = messages.count.astype(weight.dtype)
    metrics: dict[str, AbstractMetric] = {"rejected": rejected(accept)}
    return Aggregate(payload, stats, weight.sum(), count, accept), metrics


def rejected(accept: Bool[Array, ""]) -> Sum:
    return Sum((~accept).astype(jnp.result_type(float)))
