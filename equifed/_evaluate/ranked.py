"""Clients ranked by a metric: their quantiles, and the mean of those at an end.

A client counts once, or as often as it has examples. In the second case the quantiles
are those of a list in which each example has its client's value, which is never made.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from .._check import check_choice


BY = ("clients", "examples")
By: TypeAlias = Literal["clients", "examples"]
End: TypeAlias = Literal["low", "high"]
Values: TypeAlias = Float[np.ndarray, " clients"]
Counts: TypeAlias = Int[np.ndarray, " clients"]


def counts_by(by: By, num_examples: Counts) -> Counts:
    """How often each client counts."""
    check_choice("by", by, BY)
    return np.ones_like(num_examples) if by == "clients" else num_examples


def quantiles(values: Values, counts: Counts, q: Sequence[float]) -> list[float]:
    """Quantiles, those of `np.repeat(values, counts)`; NaN of none."""
    total = int(counts.sum())
    if total == 0:
        return [np.nan] * len(q)
    order = np.argsort(values, kind="stable")
    values, ends = values[order], np.cumsum(counts[order])
    found = []
    for p in q:
        place = p * (total - 1)
        low, high = (
            values[np.searchsorted(ends, x, side="right")]
            for x in (np.floor(place), np.ceil(place))
        )
        share = place - np.floor(place)
        with np.errstate(invalid="ignore"):  # between two infinities
            found.append(float(low if low == high else low + share * (high - low)))
    return found


def tail_mean(values: Values, counts: Counts, share: float, end: End) -> float:
    """The mean of the share of all that is lowest or highest; NaN of none.

    The client at the border counts in part, so that it is the share to the last bit; of
    a share of less than one client it is that client's.
    """
    order = np.argsort(values if end == "low" else -values, kind="stable")
    values, counts = values[order], counts[order]
    left = share * counts.sum() - (np.cumsum(counts) - counts)
    weights = np.clip(left, 0.0, counts)
    there = weights > 0
    if not there.any():
        return np.nan
    with np.errstate(invalid="ignore"):
        return float(np.average(values[there], weights=weights[there]))
