"""What clients are called, and in which order they come.

A client's id is text, whatever it is in the data. The natural order of ids compares
runs of digits as numbers, so that `"writer2"` comes before `"writer10"`.
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Shaped


def as_id(value: object) -> str:
    """A client id is text; anything else is turned into it."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)


def check_ids(ids: Sequence[str], name: str) -> None:
    """Refuses ids that are empty, or that are one text for different values."""
    seen: set[str] = set()
    for client_id in ids:
        if client_id == "":
            raise ValueError(
                f"Column {name!r} has an empty id, which names nobody. Drop those "
                "rows, or fill in whom they belong to."
            )
        if client_id in seen:
            raise ValueError(
                f"Column {name!r} has different values that are both written "
                f"{client_id!r}; client ids are text. Give the values one type."
            )
        seen.add(client_id)


def natural_key(client_id: str) -> tuple:
    """The key of the natural order: runs of digits compare as numbers."""
    parts = re.split(r"([0-9]+)", client_id)
    parts[1::2] = [int(digits) for digits in parts[1::2]]  # pyright: ignore
    return (parts, client_id)


def rank_codes(
    names: list[str], codes: Int[np.ndarray, " examples"]
) -> tuple[list[str], Int[np.ndarray, " examples"]]:
    """Renumbers codes so that their names are in natural order."""
    order = sorted(range(len(names)), key=lambda i: natural_key(names[i]))
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    return [names[i] for i in order], rank[codes]


def client_codes(
    values: Shaped[np.ndarray, "examples ..."], name: str
) -> tuple[list[str], Int[np.ndarray, " examples"]]:
    """The distinct values as strings in natural order, and each row's place among
    them."""
    values = np.asarray(values)
    if values.ndim != 1:
        raise ValueError(
            f"Column {name!r} has rows of shape {values.shape[1:]}; clients and labels "
            "are told apart by single values."
        )
    missing = np.zeros(len(values), bool)
    if values.dtype.kind in "fcmM":
        missing = values != values
    elif values.dtype.kind == "O":
        missing = np.array([_is_missing(v) for v in values], bool)
    if missing.any():
        raise ValueError(
            f"Column {name!r} has {missing.sum()} nulls among its {len(values)} rows, "
            f"the first in row {missing.argmax()}. Drop those rows, or fill in whom "
            "they belong to."
        )
    try:
        distinct, codes = np.unique(values, return_inverse=True)
    except TypeError as error:
        kinds = sorted({type(v).__name__ for v in values})
        raise ValueError(
            f"Column {name!r} has values of different types: {', '.join(kinds)[:100]}. "
            "Give them one type, such as text."
        ) from error
    ids = [as_id(v) for v in distinct.tolist()]
    check_ids(ids, name)
    return rank_codes(ids, codes.reshape(-1))


def _is_missing(value: object) -> bool:
    # The missing value of Pandas is equal to nothing, and will not say so.
    return value is None or type(value).__name__ == "NAType" or bool(value != value)
