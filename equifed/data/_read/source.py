"""A table that has been opened, of which some rows of some columns are read."""

from collections.abc import Callable, Sequence
from typing import Any, TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from .._column import check_names, ChunkedColumn, Column
from .._ids import as_id, check_ids, rank_codes
from .convert import (
    Converter,
    converter,
    has_nulls,
    joined_chunks,
    narrowed,
    null_rows,
    shortened,
)
from .saved import Saved


if TYPE_CHECKING:
    import pyarrow as pa


class Source:
    """A table that has been opened, but not yet read.

    `rows` are the table's rows that count, in order, or `None` for all of them;
    `features` are Hugging Face's descriptions of the columns, as far as there are any;
    `shown` are the columns that are kept unless others are asked for. A piece of a
    longer table says the number of its `first` row. `saved` is what a file says of the
    dataset that it was written from.
    """

    table: "pa.Table"
    features: dict[str, Any]
    rows: Int[np.ndarray, " rows"] | None
    shown: list[str]
    first: int
    saved: Saved | None

    def __init__(self, table, features, rows=None, *, shown=None, first=0, saved=None):
        self.table = table
        self.features = dict(features or {})
        self.rows = rows
        self.shown = self.names if shown is None else list(shown)
        self.first = first
        self.saved = saved

    def __len__(self) -> int:
        return self.table.num_rows if self.rows is None else len(self.rows)

    @property
    def names(self) -> list[str]:
        return self.table.column_names

    def check(self, names: Sequence[str]) -> None:
        check_names(names, self.names)

    def codes(self, name: str) -> tuple[list[str], Int[np.ndarray, " rows"]]:
        """The distinct values of a column as client ids, and each row's place."""
        self.check([name])
        column = self.table.column(name)
        import pyarrow as pa

        kind = column.type
        if pa.types.is_nested(kind):
            raise ValueError(
                f"The client column {name!r} holds {shortened(str(kind))}; a client "
                "is told by a single value. Name another column in `by`."
            )
        # Encoding gives all chunks one dictionary; `unify_dictionaries` would make a
        # table as long as that for each of them.
        if pa.types.is_dictionary(kind):
            column = column.cast(kind.value_type)
        column = column.dictionary_encode()
        values = column.chunk(0).dictionary.to_pylist() if column.num_chunks else []
        codes = [np.asarray(c.indices.fill_null(-1), np.int64) for c in column.chunks]
        codes = np.concatenate(codes) if codes else np.empty(0, np.int64)
        if pa.types.is_floating(column.type.value_type):
            nobody = [i for i, value in enumerate(values) if value != value]  # NaN
            codes[np.isin(codes, nobody)] = -1
        if self.rows is not None:
            codes = codes[self.rows]
        nulls = np.flatnonzero(codes < 0)
        if len(nulls) > 0:
            raise ValueError(
                f"The client column {name!r} has {len(nulls)} nulls among its "
                f"{len(codes)} rows, the first in row {self.first + nulls[0]}. Drop "
                "those rows (`dataset.filter(...)`), or fill in whom they belong to."
            )
        # Not every value of a dictionary need occur in the rows.
        used, codes = np.unique(codes, return_inverse=True)
        ids = [as_id(values[i]) for i in used]
        check_ids(ids, name)
        ids, codes = rank_codes(ids, codes.reshape(-1))
        return self.saved.in_order(name, ids, codes) if self.saved else (ids, codes)

    def read(
        self,
        name: str,
        rows: Int[np.ndarray, " chosen"] | None = None,
        *,
        owner: Callable[[int], str] | None = None,
        converters: dict[str, Converter] | None = None,
    ) -> Column:
        """A column, or some of its rows in the order asked for.

        **Arguments:**

        - `owner`: Whose a row is, for the words of an error.
        - `converters`: Those of the pieces before this one, to which it must fit.
        """
        self.check([name])

        def where(row: int) -> str:
            whose = "" if owner is None else f" of client {owner(row)!r}"
            return f"row {self.first + row}{whose}"

        column = self.table.column(name)
        feature = self.features.get(name)
        convert = None if converters is None else converters.get(name)
        if convert is None:
            convert = converter(name, column.type, feature)
        if converters is not None:
            converters[name] = convert
        if rows is None and self.rows is not None:
            rows = np.arange(len(self.rows))
        pieces, back = self._pieces(column, rows)
        parts = []
        for chunk, local, numbers in pieces:
            if has_nulls(chunk):
                raise _nulls(name, pieces, where)
            part = convert(chunk, numbers, where)[local]
            parts.append(self.saved.restored(name, part) if self.saved else part)
        joined = joined_chunks(parts)
        if back is None:
            return joined
        return joined.take(back) if isinstance(joined, ChunkedColumn) else joined[back]

    def _pieces(self, column, rows: Int[np.ndarray, " chosen"] | None):
        """The chunks to be converted, with the places in the array that are to be kept
        and the numbers of the rows; and in which order the rows were asked for."""
        starts = np.cumsum([0] + [len(c) for c in column.chunks])
        if rows is None:
            bounds = zip(starts, starts[1:], strict=False)
            numbers = [range(int(a), int(b)) for a, b in bounds]
            whole = [slice(None)] * len(numbers)
            return list(zip(column.chunks, whole, numbers, strict=True)), None
        # Rows are taken within a chunk, in stored order: no chunk is ever copied whole.
        stored = rows if self.rows is None else self.rows[rows]
        order = np.argsort(stored, kind="stable")
        ordered = stored[order]
        bounds = ordered.searchsorted(starts)
        pieces = []
        for i, chunk in enumerate(column.chunks):
            part = slice(bounds[i], bounds[i + 1])
            if bounds[i] < bounds[i + 1]:
                chosen, local = narrowed(chunk, ordered[part] - starts[i])
                pieces.append((chosen, local, rows[order[part]]))
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        return pieces, back


def _nulls(name: str, pieces: list, where: Callable[[int], str]) -> ValueError:
    nulls = [np.asarray(n)[null_rows(chunk)[local]] for chunk, local, n in pieces]
    rows = np.concatenate(nulls)
    total = sum(len(numbers) for _, _, numbers in pieces)
    return ValueError(
        f"Column {name!r} has nulls: {len(rows)} among {total} rows, the first in "
        f"{where(int(rows.min()))}. Fill them in, drop those rows "
        "(`dataset.filter(...)`), or leave the column out with `columns=...`."
    )
