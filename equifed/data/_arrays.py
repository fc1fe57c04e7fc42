"""What somebody gives as columns, as arrays, and as the names of columns.

Whatever NumPy would make of it without a word (a mask dropped, numbers turned into
text, a string taken for a list of letters) is refused here.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from .._check import check_kind
from .._words import shown


_ZEROS = ("\x00", b"\x00")


def as_arrays(columns: Any, what: str, whose: str = "") -> dict[str, np.ndarray]:
    """The arrays of a dictionary of columns; `what` says where it comes from."""
    items = getattr(columns, "items", None)  # a table of Pandas has it too
    if not callable(items):
        raise TypeError(
            f"{what} must be a dictionary of arrays by column, got {shown(columns)}."
        )
    pairs: Any = items()
    return {name: as_array(name, column, whose) for name, column in pairs}


def as_array(name: Any, column: Any, whose: str = "") -> np.ndarray:
    """The array of a column."""
    if not isinstance(name, str):
        raise TypeError(f"The name of a column{whose} must be text, got {shown(name)}.")
    if isinstance(column, np.ma.MaskedArray) and np.ma.is_masked(column):
        raise ValueError(
            f"Column {name!r}{whose} is masked in {np.ma.count_masked(column)} places, "
            "and the mask would be lost. Fill them in (`column.filled(...)`), or drop "
            "those rows."
        )
    if isinstance(column, list | tuple):
        check_one_type(f"Column {name!r}{whose}", column)
        if any(isinstance(v, str | bytes) and v[-1:] in _ZEROS for v in column):
            # An array of text of one width would lose a zero at the end of one.
            out = np.empty(len(column), object)
            out[:] = column
            return out
    try:
        return np.asarray(column)
    except Exception as error:
        raise ValueError(
            f"Column {name!r}{whose} is {shown(column)} that does not make one array: "
            "its rows must have one shape. Pad them, or leave the column out."
        ) from error


def check_one_type(what: str, values: Sequence[Any]) -> None:
    """Refuses text beside anything else, which NumPy would turn into text."""
    kinds = {isinstance(value, str | bytes) for value in values if value is not None}
    if len(kinds) > 1:
        raise TypeError(f"{what} mixes text with other values. Give them one type.")


def check_function(name: str, fn: Any) -> None:
    if not callable(fn):
        raise TypeError(f"`{name}` must be a function, got {shown(fn)}.")


def check_columns(name: str, columns: Any) -> list[str]:
    """The names of columns, of which one would be a list of one."""
    if isinstance(columns, str):
        raise TypeError(
            f"`{name}` must be a list of names, got {shown(columns)}. Write "
            f"`[{shown(columns)}]`."
        )
    if not isinstance(columns, Iterable) or isinstance(columns, Mapping):
        raise TypeError(f"`{name}` must be a list of names, got {shown(columns)}.")
    columns = list(columns)
    for column in columns:
        check_kind(f"Each of `{name}`", column, str)
    if len(columns) == 0:
        raise ValueError(f"`{name}` is empty; name at least one column.")
    return list(dict.fromkeys(columns))


def as_numbers(values: Any) -> np.ndarray | None:
    """Whole numbers, in one row, if they are; booleans are not."""
    try:
        numbers = np.asarray(values)
    except Exception:  # Ragged, or what its own `__array__` raises: no numbers.
        return None
    if numbers.ndim != 1 or (len(numbers) > 0 and numbers.dtype.kind not in "iu"):
        return None
    if numbers.dtype.kind not in "iu":
        numbers = numbers.astype(np.int64)
    elif isinstance(values, list | tuple) and any(isinstance(v, bool) for v in values):
        return None  # Beside a number, NumPy takes True for 1.
    return numbers.astype(np.int64, copy=False)


def canonical(rows: np.ndarray) -> np.ndarray:
    """Of the dtype that JAX will give it."""
    return rows.astype(jax.dtypes.canonicalize_dtype(rows.dtype), copy=False)
