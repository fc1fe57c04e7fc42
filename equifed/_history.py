"""What a person reads of a training: a row of metrics by name for each round.

A number is Python's own, and anything larger, such as a confusion matrix, an array.
Both come back from JSON to the same bits.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ._words import listed


Row = dict[str, Any]

# What a row calls the number of its round, which is not a metric.
ROUND = "round"


def plain(x: Any) -> Any:
    """A metric as it is shown: a number, or an array of numbers."""
    value = np.asarray(x).tolist()
    return np.asarray(value) if isinstance(value, list) else value


def plain_row(row: Mapping[str, Any]) -> Row:
    """A row as it was, when JSON has made lists of its arrays."""
    return {name: plain(x) if np.ndim(x) else x for name, x in row.items()}


def rows_of(start: int, values: Mapping[str, Any], count: int | None) -> list[Row]:
    """The rows of the rounds after `start`: of one round, or of `count` whose metrics
    are stacked."""
    if count is None:
        return [{ROUND: start + 1, **{name: plain(x) for name, x in values.items()}}]
    columns = {name: np.asarray(x).tolist() for name, x in values.items()}
    return [
        {ROUND: start + i + 1, **plain_row({n: x[i] for n, x in columns.items()})}
        for i in range(count)
    ]


def names_in(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of the metrics that some row has."""
    return sorted({name for row in rows for name in row} - {ROUND})


def check_known(name: str, known: Iterable[str], where: str) -> None:
    """Refuses a metric that there is not.

    **Arguments:**

    - `where`: what has these metrics, as the beginning of a sentence.
    """
    known = list(known)
    if name not in known:
        raise ValueError(f"{where} has no metric {name!r}. It has: {listed(known)}.")
