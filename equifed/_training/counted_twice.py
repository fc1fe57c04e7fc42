"""Whether large clients are drawn more often and then count more as well."""

from typing import Any

import numpy as np

from .._aggregator import AbstractAggregator, NonzeroMean, WeightedMean
from .._algorithm import AbstractAlgorithm
from .._algorithm.inside import layers, weighs_by_aggregator
from .._warn import warn
from ..data import AbstractLoader, ClusteredSampler, Loader, WeightedSampler


TWICE = (
    "`{}` draws clients in proportion to their numbers of examples, and `{}` weighs "
    "their messages by these too, so that size counts twice: give `{}` "
    "`aggregator=UniformMean()`, or sample with `UniformSampler`."
)


def warn_if_counted_twice(algorithm: AbstractAlgorithm, loader: AbstractLoader) -> None:
    """Warns of a sampler and an aggregator that weigh clients by the same numbers."""
    if not isinstance(loader, Loader):
        return
    sampler, (*_, inner) = loader.sampler, layers(algorithm)
    if not isinstance(sampler, ClusteredSampler | WeightedSampler):
        return
    if not weighs_by_aggregator(inner):
        return  # What its messages weigh is its own affair.
    aggregator = _innermost(inner)
    if not isinstance(aggregator, NonzeroMean | WeightedMean):
        return
    weights, sizes = sampler.weights, loader.dataset.client_sizes
    if np.ptp(sizes) > 0 and np.allclose(weights / weights.sum(), sizes / sizes.sum()):
        names = (type(x).__name__ for x in (sampler, aggregator, inner))
        warn(TWICE.format(*names))


def _innermost(part: Any) -> AbstractAggregator | None:
    aggregator = None
    while isinstance(inner := getattr(part, "aggregator", None), AbstractAggregator):
        part = aggregator = inner
    return aggregator
