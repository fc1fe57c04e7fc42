"""The statistics of a model's state, on their way through an aggregator.

They travel in a message's `stats`, which any aggregator averages and none may distort;
so no aggregator has to know of them.
"""

import dataclasses

from jaxtyping import PyTree

from .._aggregator import AbstractAggregator
from .._client import AbstractClient
from .._tree import tree_where
from .._wire import (
    Aggregate,
    Broadcast,
    check_carried,
    got_statistics,
    Message,
    WithStatistics,
)
from .._words import shown


def with_statistics(
    client: AbstractClient, message: Message, broadcast: Broadcast
) -> Message:
    """The message as an aggregator is given it."""
    old = broadcast.statistics
    if old is None:
        return message
    check_carried(client, message.statistics, old)
    stats = WithStatistics(message.stats, message.statistics)
    return dataclasses.replace(message, stats=stats, statistics=None)


def without_statistics(
    aggregator: AbstractAggregator, aggregate: Aggregate, broadcast: Broadcast
) -> tuple[Aggregate, PyTree]:
    """The aggregate of all else, and the new statistics: as they were, if there was no
    message."""
    old = broadcast.statistics
    if old is None:
        return aggregate, None
    stats = aggregate.stats
    if not isinstance(stats, WithStatistics):
        raise TypeError(
            f"`{type(aggregator).__name__}.decode` must return the mean of the "
            "messages' `stats`, which hold the statistics of the model's "
            f"`eqx.nn.State`, got {shown(stats)}."
        )
    new = got_statistics(stats.statistics, old)
    new = tree_where(aggregate.count > 0, new, old)
    return dataclasses.replace(aggregate, stats=stats.stats), new
