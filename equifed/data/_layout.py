"""Where in a table the rows of each client are to be found.

In a dataset the rows of a client are adjacent; in the table that it is built from they
need not be. Where they are, they are runs, which can be viewed in place; otherwise they
are found row by row, and copied.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from .._words import shown
from ._arrays import as_numbers
from ._column import Column, expand_runs, gather, take
from ._ids import as_id
from ._read import Source


class Layout(NamedTuple):
    """The clients of a table, and the rows of each."""

    client_ids: list[str]
    offsets: Int[np.ndarray, " bounds"]
    """The bounds of the clients' rows in the dataset, not in the table."""
    runs: tuple[Int[np.ndarray, " clients"], Int[np.ndarray, " clients"]] | None
    """The first row of each client and the one after its last, if all are adjacent."""
    rows: Int[np.ndarray, " rows"] | None
    """Otherwise the rows of the first client, of the second, and so on."""

    def read(self, source: Source, names: Sequence[str]) -> dict[str, Column]:
        """The columns of a table on disk, client by client."""
        columns = {n: source.read(n, self.rows, owner=self.owner) for n in names}
        if self.runs is None:
            return columns
        return {name: gather(c, *self.runs) for name, c in columns.items()}

    def owner(self, row: int) -> str:
        """The client who has a row of the table."""
        if self.runs is None:
            place = np.flatnonzero(self.rows == row)[0]
            number = self.offsets.searchsorted(place, side="right") - 1
        else:
            number = np.flatnonzero((self.runs[0] <= row) & (row < self.runs[1]))[0]
        return self.client_ids[number]

    def lay(self, column: Column) -> Column:
        """A column, client by client: views where each client's rows are adjacent,
        and a copy otherwise."""
        if self.runs is not None:
            return gather(column, *self.runs)
        rows = np.asarray(self.rows)
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        starts = np.append(0, breaks)
        if len(rows) == 0 or not set(breaks.tolist()) <= set(self.offsets.tolist()):
            return take(column, rows)
        return gather(column, rows[starts], rows[np.append(breaks, len(rows)) - 1] + 1)

    def arrange(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The columns of a table in memory, client by client, each one array."""
        if self.runs is None:
            return {name: array[self.rows] for name, array in arrays.items()}
        rows = expand_runs(*self.runs)
        if np.array_equal(rows, np.arange(len(rows))):
            return dict(arrays)
        return {name: array[rows] for name, array in arrays.items()}


def by_codes(client_ids: list[str], codes: Int[np.ndarray, " rows"]) -> Layout:
    """The layout of a table of which row `i` belongs to client `codes[i]`."""
    sizes = np.bincount(codes, minlength=len(client_ids))
    offsets = np.append(0, np.cumsum(sizes))
    starts = np.append(0, np.flatnonzero(codes[1:] != codes[:-1]) + 1)
    if len(starts) == np.count_nonzero(sizes):
        first = np.zeros(len(client_ids), np.int64)
        first[codes[starts]] = starts
        return Layout(client_ids, offsets, (first, first + sizes), None)
    return Layout(client_ids, offsets, None, np.argsort(codes, kind="stable"))


def by_rows(clients: Mapping[str, Int[np.ndarray, "_"]], num_examples: int) -> Layout:
    """The layout of a table of which the client `c` owns the rows `clients[c]`."""
    if not isinstance(clients, Mapping):
        raise TypeError(
            "A partition must give a dictionary of row numbers by client id, got "
            f"{shown(clients)}."
        )
    if len(clients) == 0:
        raise ValueError("The dataset is empty: the partition made no clients.")
    given: dict[str, np.ndarray] = {}
    for client, owned in clients.items():
        numbers = as_numbers(owned)
        if numbers is None:
            raise TypeError(
                f"The partition gave client {client!r} {shown(owned)}, where its row "
                "numbers belong: a list of integers."
            )
        given[as_id(client)] = numbers
    offsets = np.append(0, np.cumsum([len(numbers) for numbers in given.values()]))
    rows = np.concatenate(list(given.values()))
    outside = np.flatnonzero((rows < 0) | (rows >= num_examples))
    if len(outside) > 0:
        place = outside[0]
        client = list(given)[offsets.searchsorted(place, side="right") - 1]
        raise ValueError(
            f"The partition gave client {client!r} the row number {rows[place]}, but "
            f"there are {num_examples} examples, from 0 on."
        )
    return Layout(list(given), offsets, None, rows)
