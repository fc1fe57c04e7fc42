"""A table that has been opened, of which some rows of some columns are read."""

from collections.abc import Sequence
from typing import Any, TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from .._column import check_names, ChunkedColumn, Column
from .._ids import as_id, rank_codes
from .convert import converter, take, together


if TYPE_CHECKING:
    import pyarrow as pa


class Source:
    """A table that has been opened, but not yet read.

    `rows` are the table's rows that count, in order, or `None` for all of them;
    `features` are Hugging Face's descriptions of the columns, as far as there are any.
    """

    table: "pa.Table"
    features: dict[str, Any]
    rows: Int[np.ndarray, " rows"] | None

    def __init__(self, table, features, rows=None):
        self.table = table
        self.features = dict(features or {})
        self.rows = rows

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
                f"The client column {name!r} holds {kind}; a client is told by a "
                "single value. Name another column in `by`."
            )
        # Encoding gives all chunks one dictionary; `unify_dictionaries` would make a
        # table as long as that for each of them.
        if pa.types.is_dictionary(kind):
            column = column.cast(kind.value_type)
        column = column.dictionary_encode()
        values = column.chunk(0).dictionary.to_pylist() if column.num_chunks else []
        codes = [np.asarray(c.indices.fill_null(-1), np.int64) for c in column.chunks]
        codes = np.concatenate(codes) if codes else np.empty(0, np.int64)
        if self.rows is not None:
            codes = codes[self.rows]
        nulls = int(np.count_nonzero(codes < 0))
        if nulls > 0:
            raise ValueError(
                f"The client column {name!r} has {nulls} nulls among its {len(codes)} "
                "rows. Drop those rows (`dataset.filter(...)`), or fill in whom they "
                "belong to."
            )
        # Not every value of a dictionary need occur in the rows.
        used, codes = np.unique(codes, return_inverse=True)
        return rank_codes([as_id(values[i]) for i in used], codes.reshape(-1))

    def read(self, name: str, rows: Int[np.ndarray, " chosen"] | None = None) -> Column:
        """A column, or some of its rows in the order asked for."""
        self.check([name])
        if self.rows is not None:
            rows = self.rows if rows is None else self.rows[rows]
        column = self.table.column(name)
        feature = self.features.get(name)
        convert = converter(name, column.type, feature)
        image = type(feature).__name__ == "Image"
        if rows is None:
            return together(name, [convert(c) for c in column.chunks], image=image)
        # Rows are taken within a chunk, in stored order: no chunk is ever copied whole.
        starts = np.cumsum([0] + [len(c) for c in column.chunks])
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        bounds = ordered.searchsorted(starts)
        parts = []
        for i, chunk in enumerate(column.chunks):
            local = ordered[bounds[i] : bounds[i + 1]] - starts[i]
            if len(local) > 0:
                parts.append(take(chunk, local, convert))
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        joined = together(name, parts, image=image)
        if isinstance(joined, ChunkedColumn):
            return joined.take(back)
        return joined[back]
