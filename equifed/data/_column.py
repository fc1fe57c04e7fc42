"""A column of a dataset: an array, or a list of arrays that acts as one.

Files come in pieces: a memory-mapped Hugging Face dataset is a list of Arrow record
batches. A `ChunkedColumn` leaves the pieces where they are, so that a dataset far
larger than memory can be opened, cut, and reordered client by client without copying
a row; only what is read is ever touched.
"""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Int

from .._words import listed, shown


class ChunkedColumn:
    """Arrays with the same dtype and the same shape of a row, end to end.

    A slice inside one chunk is a view of it; any other is copied together.
    """

    chunks: list[np.ndarray]
    starts: Int[np.ndarray, " bounds"]

    def __init__(self, chunks: Sequence[np.ndarray]):
        """**Arguments:**

        - `chunks`: At least one array.
        """
        kinds = {(c.dtype.kind, c.shape[1:]) for c in chunks}
        if len(kinds) != 1:
            some = ", ".join(shown(c) for c in chunks[:3])
            raise ValueError(
                "`chunks` must be at least one array, all of one dtype and with rows "
                f"of one shape, got {some or 'none'}."
            )
        chunks = [c for c in chunks if len(c) > 0] or list(chunks[:1])
        self.chunks = [read_only(c) for c in chunks]
        self.starts = np.cumsum([0] + [len(c) for c in self.chunks])

    @property
    def dtype(self) -> np.dtype:
        return self.chunks[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.chunks[0].shape[1:])

    @property
    def ndim(self) -> int:
        return self.chunks[0].ndim

    @property
    def nbytes(self) -> int:
        return sum(c.nbytes for c in self.chunks)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise IndexError("A `ChunkedColumn` can be sliced with a step of 1 only.")
        i = int(self.starts.searchsorted(start, side="right")) - 1
        i = min(i, len(self.chunks) - 1)
        offset = int(self.starts[i])
        if stop <= offset + len(self.chunks[i]) or stop <= start:
            return self.chunks[i][start - offset : max(stop, start) - offset]
        return np.concatenate(self.pieces(start, stop))

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if len(self.chunks) == 1 and not copy:
            return np.asarray(self.chunks[0], dtype)
        return np.concatenate(self.chunks).astype(dtype or self.dtype, copy=False)

    def __repr__(self) -> str:
        return (
            f"ChunkedColumn(shape={self.shape}, dtype={self.dtype}, "
            f"chunks={len(self.chunks)})"
        )

    def pieces(self, start: int, stop: int) -> list[np.ndarray]:
        """Views that together are the rows `start:stop`."""
        pieces = []
        i = int(self.starts.searchsorted(start, side="right")) - 1
        while start < stop:
            offset, end = int(self.starts[i]), int(self.starts[i + 1])
            pieces.append(self.chunks[i][start - offset : min(stop, end) - offset])
            start, i = min(stop, end), i + 1
        return pieces

    def take(self, rows: Int[np.ndarray, " rows"]) -> np.ndarray:
        """The rows with these numbers, copied."""
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        by_row = np.argsort(rows, kind="stable")
        bounds = rows[by_row].searchsorted(self.starts)
        for i, chunk in enumerate(self.chunks):
            places = by_row[bounds[i] : bounds[i + 1]]
            out[places] = chunk[rows[places] - self.starts[i]]
        return out


def read_only(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written to."""
    if not array.flags.writeable:
        return array
    view = array[:]
    view.flags.writeable = False
    return view


Column: TypeAlias = np.ndarray | ChunkedColumn


def protect(column: Column) -> Column:
    """The same column, which cannot be written to."""
    return column if isinstance(column, ChunkedColumn) else read_only(column)


def check_names(names: Iterable[str], columns: Iterable[str]) -> None:
    """Refuses names that are not those of columns."""
    known = list(columns)
    for name in names:
        if name not in known:
            raise ValueError(
                f"There is no column {name!r}; the columns are: {listed(known)}."
            )


def take(column: Column, rows: Int[np.ndarray, " rows"]) -> np.ndarray:
    """The rows with these numbers, copied."""
    if isinstance(column, ChunkedColumn):
        return column.take(rows)
    return np.asarray(column[rows])


def gather(
    column: Column, starts: Int[np.ndarray, " runs"], stops: Int[np.ndarray, " runs"]
) -> Column:
    """The runs of rows `starts[i]:stops[i]`, end to end, as views."""
    pieces = []
    for start, stop in zip(*join_runs(starts, stops), strict=True):
        if isinstance(column, ChunkedColumn):
            pieces += column.pieces(int(start), int(stop))
        else:
            pieces.append(column[int(start) : int(stop)])
    pieces = pieces or [column[0:0]]
    return pieces[0] if len(pieces) == 1 else ChunkedColumn(pieces)


def join_runs(
    starts: Int[np.ndarray, " runs"], stops: Int[np.ndarray, " runs"]
) -> tuple[Int[np.ndarray, " joined"], Int[np.ndarray, " joined"]]:
    """Drops empty runs, and joins those where one begins where the last one ends."""
    starts, stops = starts[stops > starts], stops[stops > starts]
    if len(starts) == 0:
        return starts, stops
    breaks = starts[1:] != stops[:-1]
    return starts[np.append(True, breaks)], stops[np.append(breaks, True)]


def expand_runs(
    starts: Int[np.ndarray, " runs"], stops: Int[np.ndarray, " runs"]
) -> Int[np.ndarray, " rows"]:
    """The row numbers of the runs `starts[i]:stops[i]`, end to end."""
    sizes = stops - starts
    ends = np.cumsum(sizes)
    shift = np.repeat(starts - (ends - sizes), sizes)
    return np.arange(len(shift)) + shift
