"""What a loader says of a round, such as its time, beside the round's metrics.

It is known on the host, from the number of the round alone; so it is the same after a
resume, in a sweep, for several rounds in a call, and for a round that was rejected.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .._history import ROUND, Row
from .._round import State
from ..data import AbstractLoader


def with_report(row: Row, loader: AbstractLoader) -> Row:
    """A row of the history with what the loader says of its round."""
    report = loader.report(row[ROUND] - 1)
    _check_distinct(row, report)
    return row | dict(report)


def with_reports(
    pairs: Iterator[tuple[State, dict[str, Any]]],
    loader: AbstractLoader,
    number: int,
    *,
    several: bool,
) -> Iterator[tuple[State, dict[str, Any]]]:
    """Pairs of a state and the metrics of a call, with what the loader says of its
    rounds.

    **Arguments:**

    - `number`: that of the first round.
    - `several`: whether the metrics have an axis of rounds.
    """
    for state, metrics in pairs:
        count = next(iter(metrics.values())).shape[0] if several else 1
        reports = [loader.report(number + i) for i in range(count)]
        number += count
        _check_distinct(metrics, reports[0])
        for name, value in reports[0].items():
            each = np.asarray([report[name] for report in reports])
            metrics |= {name: each if several else value}
        yield state, metrics


def _check_distinct(
    metrics: Mapping[str, Any], report: Mapping[str, int | float]
) -> None:
    both = metrics.keys() & report.keys()
    if both:
        raise ValueError(
            f"Two metrics would be called {min(both)!r} in the history: one of the "
            "round, and one that its loader reports. Give one of them another name."
        )
