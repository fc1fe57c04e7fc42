"""What a parquet file that was saved from a dataset says of it, beyond its rows.

The rows of a dataset are in the order of its clients, so the order need not be told;
clients without rows, and dtypes that Arrow has no type for, must be. Other programs
may keep these words and change the rows: what does not fit the rows is not believed.
"""

import json
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from .convert import objects


KEY = b"equifed"


class Saved(NamedTuple):
    """What is told of a dataset in the metadata of its file."""

    by: str
    num_examples: int
    num_clients: int
    empty: dict[int, str]
    """The ids of the clients without rows, by their numbers."""
    dtypes: dict[str, str]
    """Those of the columns that are read as another one."""

    def metadata(self) -> dict[bytes, bytes]:
        empty = list(self.empty.items())
        return {KEY: json.dumps({**self._asdict(), "empty": empty}).encode()}

    def in_order(
        self, by: str, ids: list[str], codes: Int[np.ndarray, " rows"]
    ) -> tuple[list[str], Int[np.ndarray, " rows"]]:
        """The clients in the order in which they were saved, if they are the same."""
        clients = len(ids) + len(self.empty)
        told = (self.by, self.num_examples, self.num_clients)
        starts = np.append(0, np.flatnonzero(codes[1:] != codes[:-1]) + 1)
        if told != (by, len(codes), clients) or len(starts) != len(ids):
            return ids, codes
        numbers = [i for i in range(clients) if i not in self.empty]
        named = dict(self.empty)
        rank = np.empty(len(ids), np.int64)
        for number, code in zip(numbers, codes[starts].tolist(), strict=True):
            named[number], rank[code] = ids[code], number
        return [named[i] for i in range(clients)], rank[codes]

    def restored(self, name: str, array: np.ndarray) -> np.ndarray:
        """Values with the dtype that they had, where it holds them all."""
        if name not in self.dtypes:
            return array
        dtype = np.dtype(self.dtypes[name])
        if dtype.kind == "O":
            # Rows of different lengths, which in this piece happen to have one.
            return array if array.dtype.kind == "O" else objects(list(array))
        if array.dtype == dtype.newbyteorder("="):
            return array.astype(dtype)
        kinds = {"U": str, "S": bytes}
        text = array.dtype == object and dtype.kind in kinds
        if text and not all(isinstance(x, kinds[dtype.kind]) for x in array.flat):
            return array
        if not text and not array.dtype.kind == dtype.kind in ("M", "m"):
            return array
        cast = array.astype(dtype)
        return cast if np.array_equal(cast.astype(array.dtype), array) else array


def saved_in(path: str, metadata: Mapping[bytes, bytes] | None) -> Saved | None:
    """What a file says of the dataset that was saved in it, if one was."""
    if KEY not in (metadata or {}):
        return None
    try:
        told = json.loads(metadata[KEY])  # pyright: ignore
        empty = {int(i): str(name) for i, name in told["empty"]}
        dtypes = {str(name): np.dtype(d).str for name, d in told["dtypes"].items()}
        clients = int(told["num_clients"])
        if not all(0 <= i < clients for i in empty):
            raise ValueError("a client's number is outside")
        return Saved(str(told["by"]), int(told["num_examples"]), clients, empty, dtypes)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"The metadata in {path!r}, which says what dataset was saved there, is "
            f"damaged ({type(error).__name__}). Write the file anew, or without it "
            "(`table.replace_schema_metadata(None)`)."
        ) from error
