"""When clients were there, as it was recorded: intervals that repeat."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Float, Int

from .._check import checked
from .._words import shown
from .asked import one_or_each
from .availability import AbstractAvailability


@dataclasses.dataclass(eq=False)
class AvailabilityTrace(AbstractAvailability):
    r"""Clients are there in given intervals, which repeat with a period.

    Client $i$ is there at the time $t$ if one of its intervals has $\text{start} \le
    t \bmod \text{period} < \text{stop}$.
    """

    starts: Float[np.ndarray, " intervals"]
    """Those of the first client, of the second, and so on."""
    stops: Float[np.ndarray, " intervals"]
    offsets: Int[np.ndarray, " bounds"]
    periods: Float[np.ndarray, " population"]

    @checked()
    def __init__(
        self,
        intervals: Sequence[Sequence[tuple[ArrayLike, ArrayLike]]],
        *,
        period: ArrayLike | Sequence[ArrayLike],
    ):
        """**Arguments:**

        - `intervals`: of each client the pairs of a start and a stop, in seconds, in
            any order; those that touch or overlap are one. A client that has none is
            never there.
        - `period`: after how many seconds they repeat; one number, or one for each
            client. What lies beyond is cut off.

        **Raises:**

        `ValueError` for an interval that ends before it begins or is not finite (a hole
        in the record), and if no client has any.
        """
        count = len(intervals)
        periods = one_or_each("period", period, count).copy()
        if count == 0 or not (periods > 0).all():
            raise ValueError(
                "`period` must be finite and more than 0 for each of at least one "
                f"client, got {shown(period)} for {count}."
            )
        own = [_merged(i, pairs, periods[i]) for i, pairs in enumerate(intervals)]
        flat = np.concatenate(own)
        if len(flat) == 0:
            raise ValueError(
                "No client of the trace is ever there: it has no interval."
            )
        self.starts, self.stops = flat.T.copy()
        self.offsets = np.append(0, np.cumsum([len(pairs) for pairs in own]))
        self.periods = periods
        # Clients one after the other on one axis, so that one search serves them all:
        # by the places of times in order, as times would lose digits there.
        self._ordered = np.sort(self.starts)
        owner = np.repeat(np.arange(count), np.diff(self.offsets))
        before = np.searchsorted(self._ordered, self.starts)
        self._places = owner * (len(self._ordered) + 1) + before

    @property
    def num_clients(self) -> int:
        return len(self.periods)

    def _place(self, clients, time):
        """The time within the period, and the last interval that began by then, which
        may be one of the client before."""
        if clients.max(initial=0) >= self.num_clients:
            raise ValueError(
                f"The trace has {self.num_clients} clients, and client "
                f"{int(clients.max())} is asked for: they are numbered from 0."
            )
        now = time % self.periods[clients]
        began = np.searchsorted(self._ordered, now, side="right")
        place = clients * (len(self._ordered) + 1) + began
        return now, np.searchsorted(self._places, place) - 1

    def available(self, draws, clients, time):
        now, last = self._place(clients, time)
        return (last >= self.offsets[clients]) & (now < self.stops[last])

    def until(self, draws, clients, time):
        now, last = self._place(clients, time)
        there = (last >= self.offsets[clients]) & (now < self.stops[last])
        end = self.stops[last] - now
        # One that lasts to the end of the period goes on where the next one begins.
        first = np.minimum(self.offsets[clients], len(self.starts) - 1)
        period = self.periods[clients]
        wraps = (self.stops[last] == period) & (self.starts[first] == 0)
        end = np.where(wraps, end + self.stops[first], end)
        end = np.where(wraps & (self.stops[first] == period), np.inf, end)
        return np.where(there, time + end, time)

    def next_available(self, draws, clients, time):
        now, last = self._place(clients, time)
        begin, end = self.offsets[clients], self.offsets[clients + 1]
        there = (last >= begin) & (now < self.stops[last])
        none, later = begin == end, last + 1 < end
        place = np.minimum(np.where(later, last + 1, begin), len(self.starts) - 1)
        wait = self.starts[place] - now + np.where(later, 0, self.periods[clients])
        return np.where(there, time, np.where(none, np.inf, time + wait))


def _merged(
    client: int, pairs: Sequence[tuple[Any, Any]], period: float
) -> Float[np.ndarray, "intervals 2"]:
    """A client's intervals, in order and apart."""
    try:
        array = np.asarray(pairs, np.float64).reshape(-1, 2)
        fits = array.shape == (len(pairs), 2)
    except (TypeError, ValueError, OverflowError):
        array, fits = np.zeros((0, 2)), False
    if not fits:
        raise TypeError(
            f"The intervals of client {client} must be pairs of a start and a stop, "
            f"got {shown(pairs)}."
        )
    wrong = ~np.isfinite(array).all(1) | (array[:, 0] < 0) | (array[:, 1] < array[:, 0])
    if wrong.any():
        start, stop = array[np.flatnonzero(wrong)[0]]
        raise ValueError(
            f"Client {client} has an interval from {start:g} to {stop:g}: it must "
            "begin at 0 or later, and end after that. Fill the hole, or leave it out."
        )
    if len(array) > 0 and array[:, 0].min() >= period:
        raise ValueError(
            f"All intervals of client {client} begin after its period of {period:g} "
            f"seconds, the first at {array[:, 0].min():g}: give both in the same unit."
        )
    merged: list[list[float]] = []
    for start, stop in np.minimum(array, period)[np.argsort(array[:, 0])].tolist():
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], stop)
        elif start < stop:
            merged.append([start, stop])
    return np.asarray(merged, np.float64).reshape(-1, 2)
