"""Partitioners of another library, flwr-datasets, which is not imported.

Such an object is given a table of `datasets` and hands out pieces of it. So it is given
one with the row numbers as a further column, and asked for these.
"""

import inspect
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from ..._check import check_count
from ..._words import first_line, shown


ROW = "__row__"


@runtime_checkable
class Partitioner(Protocol):
    """What flwr-datasets calls a `Partitioner`: it has a `dataset` that can be set, a
    number of partitions, `num_partitions`, and hands one out."""

    def load_partition(self, partition_id: int) -> Any: ...


def is_foreign(by: object) -> bool:
    return isinstance(by, Partitioner) and not inspect.isclass(by)


def rows_by_partition(
    partitioner: Partitioner, table: Any
) -> dict[str, Int[np.ndarray, "_"]]:
    """The rows of each partition of a table of `datasets`, which has a column of their
    numbers. Nothing else of the partitions is read."""
    kind = type(partitioner).__name__
    try:
        partitioner.dataset = table  # pyright: ignore[reportAttributeAccessIssue]
    except Exception as error:
        raise ValueError(
            f"`by` is {shown(partitioner)} that does not take this dataset: "
            f"{first_line(error)}. Make a new `{kind}` for each dataset."
        ) from error
    return {str(i): rows for i, rows in enumerate(_partitions(partitioner, kind))}


def _partitions(partitioner: Any, kind: str) -> Iterator[Int[np.ndarray, "_"]]:
    number = check_count("by.num_partitions", _asked(partitioner, kind, None))
    for i in range(number):
        part = _asked(partitioner, kind, i)
        names = getattr(part, "column_names", None)
        if not isinstance(names, list) or ROW not in names:
            raise ValueError(
                f"Partition {i} of `{kind}` is {shown(part)} without the rows that it "
                "was given. `by` must be a partitioner that chooses among the rows and "
                "leaves their columns alone; a vertical one does not."
            )
        own = part.select_columns([ROW]).with_format("numpy")
        yield np.asarray(own[:][ROW], np.int64)


def _asked(partitioner: Any, kind: str, i: int | None) -> Any:
    try:
        return (
            partitioner.num_partitions if i is None else partitioner.load_partition(i)
        )
    except Exception as error:
        what = "the number of its partitions" if i is None else f"partition {i}"
        error.add_note(f"`by`, a `{kind}`, was asked for {what}.")
        raise
