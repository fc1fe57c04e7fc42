"""From a column to Arrow: its type, settled from the first row, and then its rows.

It is the way back from `_read/convert.py`. What would come back as something else is
refused, or its dtype is saved too, so that it can be restored.
"""

from typing import Any

import numpy as np

from .._words import first_line, shown
from ._column import Column
from ._whose import Whose


class Arrowed:
    """How the values of one column are written."""

    def __init__(self, name: str, column: Column):
        self.name, self.dtype = name, column.dtype
        self.row = column.shape[1:]
        if 0 in self.row:
            raise self._refused(f"rows of shape {self.row}, without values")
        # What each value must be, where nothing else says so.
        self.kind, self.inner = None, None
        if self.dtype.kind == "O":
            first = np.asarray(column[0:1]).reshape(-1)[0]
            self._look_at(first)
        self.leaf = self._leaf()
        self.type: Any = self.leaf
        import pyarrow as pa

        for size in reversed(self.row):
            self.type = pa.list_(self.type, size)

    def _look_at(self, first: Any) -> None:
        for kind in (str, bytes):
            if isinstance(first, kind):
                self.kind = kind
                return
        plain = isinstance(first, np.ndarray) and first.ndim == 1
        native = plain and first.dtype.isnative and first.dtype.kind in "biuf"
        if not native or self.row:
            raise self._refused(f"objects such as {shown(first)}")
        self.kind, self.inner = np.ndarray, first.dtype

    def _leaf(self):
        """The Arrow type of a single value."""
        import pyarrow as pa

        dtype = self.dtype if self.inner is None else self.inner
        if self.kind is str or dtype.kind == "U":
            return pa.large_string()
        if self.kind is bytes or dtype.kind == "S":
            return pa.large_binary()
        try:
            if dtype.kind not in "biufMm":
                raise pa.ArrowNotImplementedError(str(dtype))
            leaf = pa.from_numpy_dtype(dtype.newbyteorder("="))
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise self._refused(f"the dtype {dtype}") from error
        return leaf if self.inner is None else pa.large_list(leaf)

    @property
    def saved_dtype(self) -> str | None:
        """The dtype, where the values are read as another one."""
        # Text has no width, and times no seconds; rows of different lengths that
        # happen to have one would be read as an array of two dimensions.
        other = self.dtype.kind in "USMm" or not self.dtype.isnative
        return self.dtype.str if other or self.inner is not None else None

    def __call__(self, rows: np.ndarray, whose: Whose):
        """Some rows in Arrow's form; `whose` says the client of one, for an error."""
        import pyarrow as pa

        values = np.ascontiguousarray(rows).reshape(-1)
        self._check(values, lambda i: whose(i * len(rows) // len(values)))
        if self.inner is not None:
            sizes = np.append(0, np.cumsum([len(value) for value in values]))
            flat = pa.array(np.concatenate(values))
            array = pa.LargeListArray.from_arrays(pa.array(sizes), flat)
        elif self.kind is not None or self.dtype.kind in "US":
            try:
                array = pa.array(values.tolist(), self.leaf)
            except UnicodeError as error:
                raise ValueError(
                    f"Column {self.name!r} holds text that a parquet file cannot: "
                    f"{first_line(error)}. Replace it (`map`)."
                ) from error
        else:
            native = values.astype(self.dtype.newbyteorder("="), copy=False)
            array = pa.array(native, self.leaf)
        for size in reversed(self.row):
            array = pa.FixedSizeListArray.from_arrays(array, size)
        return array

    def _check(self, values: np.ndarray, whose: Whose) -> None:
        """Refuses what has another type than the first value, or is missing."""
        if self.dtype.kind in "Mm" and (missing := np.isnat(values)).any():
            client = whose(int(missing.argmax()))
            raise ValueError(
                f"Column {self.name!r} of {client} has missing times (NaT), "
                "which would not be read back. Fill them in (`map`)."
            )
        if self.kind is None:
            return
        for i, value in enumerate(values):
            good = isinstance(value, self.kind)
            if good and self.inner is not None:
                good = value.ndim == 1 and value.dtype == self.inner
            if not good:
                raise ValueError(
                    f"Column {self.name!r} of {whose(i)} holds "
                    f"{shown(value)}, but its first row holds {self._words()}. Give "
                    "all rows one type (`map`)."
                )

    def _words(self) -> str:
        if self.inner is not None:
            return f"an array {self.inner} of one dimension"
        return "text" if self.kind is str else "bytes"

    def _refused(self, what: str) -> ValueError:
        return ValueError(
            f"Column {self.name!r} holds {what}, for which a parquet file has no form. "
            "Make numbers or text of it first (`dataset.map(...)`), or leave it out "
            "(`dataset.select_columns(...)`)."
        )
