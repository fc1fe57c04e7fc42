"""Saving a dataset as a parquet file.

The rows are written in groups of a bounded size, whatever the sizes of the clients, so
that what is memory-mapped is never in memory as a whole. They go into a file beside,
which takes the name once it is complete.
"""

import os
import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np

from .._check import check_kind
from .._files import replacing
from .._words import first_line, shown
from ._arrowed import Arrowed
from ._clients import AbstractClients
from ._read import Saved
from ._whose import owner_of, read_rows


_BYTES, _ROWS = 2**24, 2**16  # of a group, at most


def write_parquet(dataset: AbstractClients, path: Any, by: Any) -> None:
    """Writes the rows of all clients, with the ids in the column `by`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = _target(path)
    check_kind("by", by, str, "Name the column that is to hold the client ids.")
    if by in dataset.columns:
        raise ValueError(
            f"`by` is {by!r}, which is a column already, and names that of the client "
            "ids. Write another name, or `rename` the column."
        )
    if "" in dataset.client_ids:
        raise ValueError(
            "A client of the dataset has the empty id '', which a file cannot name. "
            "Give it another one."
        )
    forms = {name: Arrowed(name, column) for name, column in dataset.columns.items()}
    fields = [(name, form.type) for name, form in forms.items()]
    words = _saved(dataset, by, forms).metadata()
    schema = pa.schema([(by, pa.string()), *fields], metadata=words)
    whose = owner_of(dataset)
    aside = f"{target}.{secrets.token_hex(4)}.tmp"
    with replacing(target, aside) as file, pq.ParquetWriter(file, schema) as writer:
        for start, stop in _groups(dataset):
            arrays = [_ids(dataset, start, stop)]
            for name, form in forms.items():
                rows = read_rows(dataset, name, start, stop)
                arrays.append(form(rows, lambda row, start=start: whose(start + row)))
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _saved(dataset: AbstractClients, by: str, forms: dict[str, Arrowed]) -> Saved:
    without = np.flatnonzero(dataset.client_sizes == 0).tolist()
    empty = {i: dataset.client_ids[i] for i in without}
    all_dtypes = {name: form.saved_dtype for name, form in forms.items()}
    dtypes = {name: dtype for name, dtype in all_dtypes.items() if dtype is not None}
    return Saved(by, dataset.num_examples, dataset.num_clients, empty, dtypes)


def _groups(dataset: AbstractClients) -> Iterator[tuple[int, int]]:
    rows = dataset.num_examples
    size = min(_ROWS, max(1, _BYTES * rows // max(1, dataset.nbytes)))
    return ((start, min(start + size, rows)) for start in range(0, rows, size))


def _ids(dataset: AbstractClients, start: int, stop: int):
    """The id of each row."""
    import pyarrow as pa

    rows = np.arange(start, stop)
    numbers = dataset.offsets.searchsorted(rows, side="right") - 1
    first = int(numbers[0])
    try:
        ids = pa.array(dataset.client_ids[first : int(numbers[-1]) + 1], pa.string())
    except UnicodeError as error:
        raise ValueError(
            "A client's id is no text that a file can hold: "
            f"{first_line(error)}. Give the client another one."
        ) from error
    return ids.take(pa.array(numbers - first))


def _target(path: Any) -> str:
    """The file that a path means, once it is seen that it can be one."""
    check_kind("path", path, (str, os.PathLike))
    name = os.fspath(path)
    check_kind("path", name, str)
    target = os.path.realpath(name)
    if os.path.isdir(target):
        raise ValueError(
            f"`path` must be a file, got the folder {shown(name)}. Write the name of a "
            "file in it."
        )
    if not os.path.isdir(folder := os.path.dirname(target)):
        raise ValueError(
            f"`path` must be a file in a folder that is there, got {shown(name)}. Make "
            f"{shown(folder)} first."
        )
    if os.path.exists(target) and not os.path.isfile(target):
        raise ValueError(
            f"`path` must be a file, got {shown(name)}, which is there and is none. "
            "Write another name."
        )
    return target
