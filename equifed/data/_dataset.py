"""A set of examples with owners: building one, and making others from it.

The methods are thin. How a dataset is built is in `_build.py`, how it is read in
`_clients.py`, and what is chosen at random in `_split.py`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import final, TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int, Shaped

from .._check import check_count, check_kind
from . import _build
from ._arrays import check_columns, check_function
from ._clients import AbstractClients, Selection
from ._column import check_names, Column, gather, protect, take
from ._partition import AbstractPartition
from ._read import open_huggingface, open_parquet
from ._split import random_clients, random_fraction, random_rows


if TYPE_CHECKING:
    import datasets


@final
class FederatedDataset(AbstractClients):
    """Examples in columns, each example owned by one client.

    A dataset is never changed: every method returns a new one, which shares the
    memory of this one as far as it can. The arrays that it hands out are read-only.

    Build one with `from_huggingface`, `from_parquet`, `from_mapping` or `from_arrays`.
    Clients are numbered from 0 in the natural order of their ids (`"writer2"` comes
    before `"writer10"`), whatever the order of the rows, and keep the rows' order
    among their own.

    !!! example

        ```python
        dataset = FederatedDataset.from_parquet("train.parquet", by="writer")
        seen, unseen = dataset.split_clients(0.1, seed=0)
        images = seen["writer3"]["image"]
        ```
    """

    def __init__(
        self,
        columns: Mapping[str, Column],
        offsets: Int[np.ndarray, " bounds"],
        client_ids: Sequence[str],
    ):
        """**Arguments:**

        - `columns`: The columns, all with the same number of rows, sorted by client.
        - `offsets`: Client `i` owns the rows `offsets[i]:offsets[i + 1]`.
        - `client_ids`: The name of each client.

        **Raises:**

        `ValueError` if these do not fit together, or if there is nothing in them.
        """
        parts = _build.checked_parts(columns, offsets, client_ids)
        self.columns = {name: protect(c) for name, c in parts[0].items()}
        self.offsets, self.client_ids = parts[1:]

    # From other forms.

    @classmethod
    def from_huggingface(
        cls,
        dataset: "datasets.Dataset | datasets.IterableDataset",
        *,
        by: str | AbstractPartition,
        columns: Sequence[str] | None = None,
    ) -> "FederatedDataset":
        """Builds from a dataset of the Hugging Face `datasets` library.

        A `Dataset` in which each client's rows are adjacent stays where it is, memory
        mapped; any other is read once, sorted by client. An `IterableDataset` is read
        into memory; for one that does not fit there see
        [`equifed.data.StreamLoader`][]. Class labels are integers, and dtypes are kept:
        `uint8` stays `uint8`, whatever container a format (`with_format`) would give.

        Encoded images are decoded as `np.asarray(dataset[i]["image"])` is, with its
        orientation and in its mode; they need one mode and one size
        (`datasets.Image(mode="RGB")` converts them). Only images whose bytes are in the
        dataset are decoded: a path in it may name any file, and is not opened.

        **Arguments:**

        - `dataset`: One split.
        - `by`: The column that says whose an example is, or a partition.
        - `columns`: The columns to keep. By default all but the client column, of
            those that the dataset's format shows.

        **Raises:**

        `ValueError` if a column is missing, holds nulls or structures, or changes in
        the midst of a stream, with the row and the client; or if the dataset has a
        transform, or a format that changes values.
        """
        columns, needed = _build.wanted(columns, by)
        owner = by if isinstance(by, str) else None
        source = open_huggingface(dataset, needed, owner)
        return cls(*_build.from_source(source, by, columns))

    @classmethod
    def from_parquet(
        cls,
        files: str | os.PathLike | Sequence[str | os.PathLike],
        *,
        by: str | AbstractPartition,
        columns: Sequence[str] | None = None,
    ) -> "FederatedDataset":
        """Builds from parquet files, read into memory.

        **Arguments:**

        - `files`: One or more paths, or patterns such as `"train-*.parquet"`. What
            there is by that very name is no pattern.
        - `by`: The column that says whose an example is, or a partition.
        - `columns`: The columns to keep. By default all but the client column.

        **Raises:**

        `ValueError` if a file is damaged or differs in its columns from the first one.
        """
        columns, needed = _build.wanted(columns, by)
        return cls(*_build.from_source(open_parquet(files, needed), by, columns))

    @classmethod
    def from_mapping(
        cls,
        clients: Mapping[str, Mapping[str, Shaped[np.ndarray, "..."]]]
        | Mapping[int, Mapping[str, Shaped[np.ndarray, "..."]]],
    ) -> "FederatedDataset":
        """Builds from one dictionary of arrays for each client.

        **Arguments:**

        - `clients`: `{client id: {column: array}}`. The arrays of a client have one
            row for each of its examples.

        **Raises:**

        `ValueError` if the columns, the shapes of a row or the dtypes of two clients
        differ, or if a client's columns have different numbers of rows.
        """
        return cls(*_build.from_mapping(clients))

    @classmethod
    def from_arrays(
        cls,
        columns: Mapping[str, Shaped[np.ndarray, "..."]],
        by: str | AbstractPartition | Shaped[np.ndarray, " examples"] | Sequence,
    ) -> "FederatedDataset":
        """Builds from arrays that hold the examples of all clients.

        **Arguments:**

        - `columns`: `{column: array}`, with one row for each example.
        - `by`: The client id of each example, or the name of the column that holds
            them, or a partition.
        """
        return cls(*_build.from_arrays(columns, by))

    # Some of the clients.

    def select(self, clients: Selection) -> "FederatedDataset":
        """Keeps some of the clients, in the order given.

        **Arguments:**

        - `clients`: Client ids, or client numbers, or one boolean for each client.
        """
        numbers = self._numbers(clients)
        starts, stops = self.offsets[numbers], self.offsets[numbers + 1]
        columns = {n: gather(c, starts, stops) for n, c in self.columns.items()}
        offsets = np.append(0, np.cumsum(stops - starts))
        return FederatedDataset(columns, offsets, [self.client_ids[i] for i in numbers])

    def split_clients(
        self, held_out: float | int, *, seed: int = 0
    ) -> "tuple[FederatedDataset, FederatedDataset]":
        """Splits the clients at random into seen and unseen ones.

        **Arguments:**

        - `held_out`: The unseen clients: how many, or a fraction of all (rounded to the
            nearest number, halves up).
        - `seed`: The seed of the split.

        **Returns:**

        The dataset of the seen and that of the unseen clients, each in this one's
        order.
        """
        unseen = random_clients(self.num_clients, held_out, seed)
        return self.select(~unseen), self.select(unseen)

    # Some of the examples.

    def split_examples(
        self, held_out: float, *, seed: int = 0
    ) -> "tuple[FederatedDataset, FederatedDataset]":
        """Splits each client's examples at random into training and test examples.

        The split of a client depends on its id and the seed, and on no other client.
        The two datasets have the same clients, with the same numbers; a client with
        one example keeps it for training.

        **Arguments:**

        - `held_out`: The fraction of each client's examples that go to the test set,
            rounded to the nearest number, halves up.
        - `seed`: The seed of the split.

        **Returns:**

        The training and the test set.
        """
        test = random_fraction(self, held_out, seed)
        return self._keep(~test), self._keep(test)

    def max_examples(self, num_examples: int, *, seed: int = 0) -> "FederatedDataset":
        """Keeps at most so many random examples of each client.

        **Arguments:**

        - `num_examples`: The most examples that a client may keep.
        - `seed`: The seed of the choice.
        """
        limit = check_count("num_examples", num_examples)
        counts = np.minimum(self.client_sizes, limit)
        return self._keep(random_rows(self, counts, seed))

    def _keep(self, keep: Bool[np.ndarray, " rows"]) -> "FederatedDataset":
        if keep.all():
            return self
        rows = np.flatnonzero(keep)
        columns = {name: take(c, rows) for name, c in self.columns.items()}
        offsets = rows.searchsorted(self.offsets)
        return FederatedDataset(columns, offsets, self.client_ids)

    # Other columns.

    def select_columns(self, names: Sequence[str]) -> "FederatedDataset":
        """Keeps some of the columns."""
        names = check_columns("names", names)
        check_names(names, self.columns)
        columns = {name: self.columns[name] for name in names}
        return FederatedDataset(columns, self.offsets, self.client_ids)

    def rename(self, names: Mapping[str, str]) -> "FederatedDataset":
        """Renames columns, by a mapping of old names to new ones."""
        check_kind("names", names, Mapping, "Write `{old: new}`.")
        for new in names.values():
            check_kind("names", new, str)
        check_names(names, self.columns)
        columns = {names.get(name, name): c for name, c in self.columns.items()}
        if len(columns) < len(self.columns):
            raise ValueError(f"Renaming by {dict(names)} gives two columns one name.")
        return FederatedDataset(columns, self.offsets, self.client_ids)

    def map(
        self, fn: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]
    ) -> "FederatedDataset":
        """Transforms the columns of all clients at once.

        **Arguments:**

        - `fn`: Takes `{column: array}` with the rows of all clients and returns the
            new columns, with the same number of rows.
        """
        check_function("fn", fn)
        old = {name: np.asarray(column) for name, column in self.columns.items()}
        columns = _build.mapped(fn(old), self.num_examples)
        return FederatedDataset(columns, self.offsets, self.client_ids)

    def map_clients(
        self, fn: Callable[[str, dict[str, np.ndarray]], Mapping[str, np.ndarray]]
    ) -> "FederatedDataset":
        """Transforms the examples of each client in turn.

        **Arguments:**

        - `fn`: Takes a client's id and its examples, `{column: array}`, and returns
            its new examples, of which there may be more, fewer, or none.

        **Raises:**

        `ValueError` if the columns, the shapes of a row or the dtypes that `fn` returns
        for two clients differ.
        """
        check_function("fn", fn)
        pairs = _build.mapped_clients(fn, self.client_ids, self.client)
        return FederatedDataset(*_build.from_clients(pairs, "What `fn` returns"))
