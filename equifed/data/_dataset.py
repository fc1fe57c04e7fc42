"""A set of examples with owners: the host's side of federated learning.

The rows of all clients lie end to end, in columns; client `i` owns the rows
`offsets[i]:offsets[i + 1]` of each. So reading a client is slicing, the whole set can
be put on a device as it is, and one that is memory-mapped is never copied.
"""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import overload, TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Bool, Int, Shaped

from ._column import ChunkedColumn, Column, expand_runs, gather, read_only, take
from ._partition import AbstractPartition, client_codes, natural_key
from ._random import check_count, check_seed, counter_of, generator, permutation, SPLIT
from ._read import open_huggingface, open_parquet, Source


if TYPE_CHECKING:
    import datasets


class FederatedDataset:
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

    columns: dict[str, Column]
    offsets: Int[np.ndarray, " bounds"]
    client_ids: list[str]

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
        self.columns = {name: _read_only(c) for name, c in columns.items()}
        self.offsets = np.asarray(offsets, np.int64)
        self.client_ids = list(client_ids)
        if len(self.columns) == 0:
            raise ValueError("`columns` is empty; a dataset needs at least one column.")
        if len(self.client_ids) == 0:
            raise ValueError("The dataset is empty: it has no clients.")
        rows = int(self.offsets[-1])
        for name, column in self.columns.items():
            if len(column) != rows:
                raise ValueError(
                    f"Column {name!r} has {len(column)} rows, but the clients own "
                    f"{rows}. All columns must have the same number of rows."
                )
        if rows == 0:
            raise ValueError(
                f"The dataset is empty: its {len(self.client_ids)} clients have no "
                "examples."
            )
        if len(self.offsets) != len(self.client_ids) + 1:
            raise ValueError(
                f"`offsets` has {len(self.offsets)} entries for "
                f"{len(self.client_ids)} clients; it needs one more than clients."
            )
        if self.offsets[0] != 0 or np.any(np.diff(self.offsets) < 0):
            raise ValueError("`offsets` must begin with 0 and never decrease.")
        if len(self._numbers) != len(self.client_ids):
            seen: set[str] = set()
            twice = next(i for i in self.client_ids if i in seen or seen.add(i))
            raise ValueError(f"The client id {twice!r} occurs more than once.")

    # How to build one.

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
        [`equifed.data.StreamLoader`][]. Encoded images are decoded into arrays, class
        labels are integers, and dtypes are kept: `uint8` stays `uint8`. Formats and
        transforms that were set on the dataset are ignored.

        **Arguments:**

        - `dataset`: One split.
        - `by`: The column that says whose an example is, or a partition.
        - `columns`: The columns to keep. By default all but the client column.

        **Raises:**

        `ValueError` if a column is missing, or holds nulls or structures.
        """
        needed = None if columns is None else [*columns, *_column_names(by)]
        return cls._from_source(open_huggingface(dataset, needed), by, columns)

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

        - `files`: One or more paths, or patterns such as `"train-*.parquet"`.
        - `by`: The column that says whose an example is, or a partition.
        - `columns`: The columns to keep. By default all but the client column.
        """
        needed = None if columns is None else [*columns, *_column_names(by)]
        return cls._from_source(open_parquet(files, needed), by, columns)

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
        pairs = [(str(client), clients[client]) for client in clients]  # pyright: ignore
        pairs.sort(key=lambda pair: natural_key(pair[0]))
        return _joined(pairs)

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
        arrays = {name: np.asarray(column) for name, column in columns.items()}
        rows = common_rows(arrays, "")
        if rows == 0:
            raise ValueError("The dataset is empty: its columns have no rows.")
        for name in _column_names(by):
            if name not in arrays:
                raise ValueError(
                    f"There is no column {name!r}; the columns are {list(arrays)}."
                )
        if isinstance(by, AbstractPartition):
            return cls(*_assemble(arrays, *_partitioned(by(arrays, rows), rows)))
        if isinstance(by, str):
            ids, codes = client_codes(arrays.pop(by), by)
        else:
            ids, codes = client_codes(np.asarray(by), "by")
            if len(codes) != rows:
                raise ValueError(
                    f"`by` has {len(codes)} entries for {rows} examples; it needs one "
                    "client id for each."
                )
        return cls(*_assemble(arrays, *_grouped(ids, codes)))

    @classmethod
    def _from_source(
        cls,
        source: Source,
        by: str | AbstractPartition,
        names: Sequence[str] | None,
    ) -> "FederatedDataset":
        if not isinstance(by, str | AbstractPartition):
            raise TypeError(
                "`by` must be the name of a column or a partition, got "
                f"{type(by).__name__}."
            )
        if len(source) == 0:
            raise ValueError("The dataset is empty: it has no rows.")
        source.check([*_column_names(by), *(names or ())])
        if isinstance(by, AbstractPartition):
            read = {n: np.asarray(source.read(n)) for n in by.column_names}
            ids, offsets, runs, rows = _partitioned(by(read, len(source)), len(source))
        else:
            ids, offsets, runs, rows = _grouped(*source.codes(by))
        if names is None:
            names = [n for n in source.names if n != by]
        columns = {}
        for name in names:
            column = source.read(name, rows)
            columns[name] = column if runs is None else gather(column, *runs)
        return cls(columns, offsets, ids)

    # What is in it.

    @property
    def num_clients(self) -> int:
        return len(self.client_ids)

    @property
    def num_examples(self) -> int:
        return int(self.offsets[-1])

    @property
    def client_sizes(self) -> Int[np.ndarray, " clients"]:
        """The number of examples of each client."""
        return np.diff(self.offsets)

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self.columns.values())

    @property
    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shape and dtype of one example, as a device will see it."""
        return {
            name: jax.ShapeDtypeStruct(
                column.shape[1:], jax.dtypes.canonicalize_dtype(column.dtype)
            )
            for name, column in self.columns.items()
        }

    def client(self, index: int) -> dict[str, Shaped[np.ndarray, "_ ..."]]:
        """The examples of the client with this number.

        **Arguments:**

        - `index`: A client number, from 0 to `num_clients - 1`.

        **Returns:**

        `{column: array}`, with one row for each of the client's examples.
        """
        if not 0 <= index < len(self.client_ids):
            raise ValueError(
                f"There is no client number {index}; they go from 0 to "
                f"{self.num_clients - 1}."
            )
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        return {name: column[start:stop] for name, column in self.columns.items()}

    def index(self, client_id: str) -> int:
        """The number of the client with this id."""
        number = self._numbers.get(client_id)
        if number is None:
            some = ", ".join(map(repr, self.client_ids[:5]))
            raise ValueError(
                f"There is no client {client_id!r} among the {self.num_clients}: "
                f"{some}{', ...' if self.num_clients > 5 else ''}."
            )
        return number

    @overload
    def __getitem__(self, client_id: str) -> dict[str, Shaped[np.ndarray, "_ ..."]]: ...

    @overload
    def __getitem__(self, client_id: slice) -> "FederatedDataset": ...

    def __getitem__(self, client_id):
        """The examples of one client by its id, or with a slice, some of the clients
        by their numbers."""
        if isinstance(client_id, slice):
            return self.select(range(*client_id.indices(self.num_clients)))
        if not isinstance(client_id, str):
            raise TypeError(
                "A dataset is indexed by client ids, which are strings, got "
                f"{client_id!r}. For a client's number use `dataset.client(number)`."
            )
        return self.client(self.index(client_id))

    def __len__(self) -> int:
        return self.num_clients

    def __iter__(self) -> Iterator[str]:
        return iter(self.client_ids)

    def __contains__(self, client_id: object) -> bool:
        return client_id in self._numbers

    def __repr__(self) -> str:
        sizes = self.client_sizes
        lines = [
            f"clients: {self.num_clients}",
            f"examples: {self.num_examples} ({sizes.min()} to {sizes.max()} a client)",
        ]
        for name, column in self.columns.items():
            shape = ", ".join(map(str, column.shape[1:]))
            lines.append(f"{name}: {column.dtype}[{shape}]")
        return "FederatedDataset(\n  " + "\n  ".join(lines) + "\n)"

    # Some of the clients.

    def select(
        self,
        clients: Sequence[str]
        | Sequence[int]
        | range
        | Int[np.ndarray, " selected"]
        | Bool[np.ndarray, " clients"],
    ) -> "FederatedDataset":
        """Keeps some of the clients, in the order given.

        **Arguments:**

        - `clients`: Client ids, or client numbers, or one boolean for each client.
        """
        numbers = np.asarray(
            [self.index(c) if isinstance(c, str) else c for c in clients]
        )
        if len(numbers) == 0:
            raise ValueError("`clients` is empty; select at least one client.")
        if numbers.dtype == bool:
            numbers = np.flatnonzero(numbers)
        if numbers.dtype.kind not in "iu":
            raise TypeError("`clients` must be client ids or client numbers.")
        outside = numbers[(numbers < 0) | (numbers >= self.num_clients)]
        if len(outside) > 0:
            raise ValueError(
                f"There is no client number {outside[0]}; they go from 0 to "
                f"{self.num_clients - 1}."
            )
        starts, stops = self.offsets[numbers], self.offsets[numbers + 1]
        columns = {n: gather(c, starts, stops) for n, c in self.columns.items()}
        offsets = np.append(0, np.cumsum(stops - starts))
        ids = [self.client_ids[i] for i in numbers]
        return FederatedDataset(columns, offsets, ids)

    def split_clients(
        self, held_out: float | int, *, seed: int = 0
    ) -> "tuple[FederatedDataset, FederatedDataset]":
        """Splits the clients at random into seen and unseen ones.

        **Arguments:**

        - `held_out`: The unseen clients: a fraction of all, or how many.
        - `seed`: The seed of the split.

        **Returns:**

        The dataset of the seen and that of the unseen clients, each in this one's
        order.
        """
        count = held_out
        if isinstance(held_out, float):
            _check_fraction(held_out)
            count = int(held_out * self.num_clients + 0.5)
        if not 0 < count < self.num_clients:
            raise ValueError(
                f"`held_out` is {held_out}, which leaves {self.num_clients - count} "
                f"seen and {count} unseen of {self.num_clients} clients. Neither side "
                "may be empty."
            )
        rng = generator(check_seed(seed), SPLIT)
        unseen = np.zeros(self.num_clients, bool)
        unseen[permutation(rng, self.num_clients)[: int(count)]] = True
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

        - `held_out`: The fraction of each client's examples that go to the test set.
        - `seed`: The seed of the split.

        **Returns:**

        The training and the test set.
        """
        _check_fraction(held_out)
        sizes = self.client_sizes
        counts = np.minimum((held_out * sizes + 0.5).astype(int), sizes - 1)
        test = self._random_rows(np.maximum(counts, 0), seed)
        return self._filter(~test), self._filter(test)

    def max_examples(self, num_examples: int, *, seed: int = 0) -> "FederatedDataset":
        """Keeps at most so many random examples of each client.

        **Arguments:**

        - `num_examples`: The most examples that a client may keep.
        - `seed`: The seed of the choice.
        """
        limit = check_count("num_examples", num_examples)
        return self._filter(
            self._random_rows(np.minimum(self.client_sizes, limit), seed)
        )

    def _random_rows(
        self, counts: Int[np.ndarray, " clients"], seed: int
    ) -> Bool[np.ndarray, " rows"]:
        seed = check_seed(seed)
        chosen = np.zeros(self.num_examples, bool)
        for i, client_id in enumerate(self.client_ids):
            start, stop = self.offsets[i], self.offsets[i + 1]
            if counts[i] == stop - start:
                chosen[start:stop] = True
            elif counts[i] > 0:
                rng = generator(seed, SPLIT, counter_of(client_id))
                rows = permutation(rng, int(stop - start))[: counts[i]]
                chosen[start + rows] = True
        return chosen

    def _filter(self, keep: Bool[np.ndarray, " rows"]) -> "FederatedDataset":
        if keep.all():
            return self
        rows = np.flatnonzero(keep)
        columns = {name: take(c, rows) for name, c in self.columns.items()}
        return FederatedDataset(
            columns, rows.searchsorted(self.offsets), self.client_ids
        )

    # Other columns.

    def select_columns(self, names: Sequence[str]) -> "FederatedDataset":
        """Keeps some of the columns."""
        for name in names:
            self._check_column(name)
        columns = {name: self.columns[name] for name in names}
        return FederatedDataset(columns, self.offsets, self.client_ids)

    def rename(self, names: Mapping[str, str]) -> "FederatedDataset":
        """Renames columns, by a mapping of old names to new ones."""
        for name in names:
            self._check_column(name)
        columns = {names.get(name, name): c for name, c in self.columns.items()}
        if len(columns) < len(self.columns):
            raise ValueError(f"Renaming by {dict(names)} gives two columns one name.")
        return FederatedDataset(columns, self.offsets, self.client_ids)

    def map(
        self,
        fn: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]],
    ) -> "FederatedDataset":
        """Transforms the columns of all clients at once.

        **Arguments:**

        - `fn`: Takes `{column: array}` with the rows of all clients and returns the
            new columns, with the same number of rows.
        """
        old = {name: np.asarray(column) for name, column in self.columns.items()}
        columns = {name: np.asarray(column) for name, column in fn(old).items()}
        for name, column in columns.items():
            if column.ndim == 0 or len(column) != self.num_examples:
                raise ValueError(
                    f"`fn` returned column {name!r} with shape {column.shape}, but the "
                    f"dataset has {self.num_examples} rows. To change the number of "
                    "examples use `map_clients`."
                )
        return FederatedDataset(columns, self.offsets, self.client_ids)

    def map_clients(
        self,
        fn: Callable[[str, dict[str, np.ndarray]], Mapping[str, np.ndarray]],
    ) -> "FederatedDataset":
        """Transforms the examples of each client in turn.

        **Arguments:**

        - `fn`: Takes a client's id and its examples, `{column: array}`, and returns
            its new examples, of which there may be more, fewer, or none.

        **Raises:**

        `ValueError` if the columns, the shapes of a row or the dtypes that `fn` returns
        for two clients differ.
        """
        pairs = [(c, fn(c, self.client(i))) for i, c in enumerate(self.client_ids)]
        return _joined(pairs)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {client_id: i for i, client_id in enumerate(self.client_ids)}

    def _check_column(self, name: str) -> None:
        if name not in self.columns:
            raise ValueError(
                f"There is no column {name!r}; the columns are {list(self.columns)}."
            )


def _column_names(by: object) -> tuple[str, ...]:
    if isinstance(by, AbstractPartition):
        return by.column_names
    return (by,) if isinstance(by, str) else ()


def _check_fraction(held_out: float) -> None:
    if not 0 < held_out < 1:
        raise ValueError(f"`held_out` must be a fraction in (0, 1), got {held_out}.")


def _read_only(column: Column) -> Column:
    return column if isinstance(column, ChunkedColumn) else read_only(column)


# A layout says where the rows of the clients are to be found: either as runs of
# adjacent rows, or, if that is not possible, row by row.


def _grouped(ids: list[str], codes: Int[np.ndarray, " rows"]):
    sizes = np.bincount(codes, minlength=len(ids))
    offsets = np.append(0, np.cumsum(sizes))
    starts = np.append(0, np.flatnonzero(codes[1:] != codes[:-1]) + 1)
    if len(starts) == len(ids):
        begin = np.empty(len(ids), np.int64)
        begin[codes[starts]] = starts
        return ids, offsets, (begin, begin + sizes), None
    return ids, offsets, None, np.argsort(codes, kind="stable")


def _partitioned(clients: Mapping[str, Int[np.ndarray, "_"]], num_examples: int):
    if len(clients) == 0:
        raise ValueError("The dataset is empty: the partition made no clients.")
    offsets = np.append(0, np.cumsum([len(rows) for rows in clients.values()]))
    rows = np.concatenate(list(clients.values())).astype(np.int64)
    if len(rows) > 0 and (rows.min() < 0 or rows.max() >= num_examples):
        raise ValueError(
            f"The partition gave row numbers from {rows.min()} to {rows.max()}, but "
            f"there are {num_examples} examples."
        )
    return list(clients), offsets, None, rows


def _assemble(arrays: dict[str, np.ndarray], ids, offsets, runs, rows):
    if runs is None:
        columns = {name: array[rows] for name, array in arrays.items()}
    else:
        whole = expand_runs(*runs)
        in_order = np.array_equal(whole, np.arange(len(whole)))
        columns = {n: a if in_order else a[whole] for n, a in arrays.items()}
    return columns, offsets, ids


def common_rows(arrays: Mapping[str, np.ndarray], whose: str) -> int:
    """The number of rows that the columns have in common."""
    if len(arrays) == 0:
        raise ValueError(f"There are no columns{whose}; there must be at least one.")
    rows = {}
    for name, array in arrays.items():
        if array.ndim == 0:
            raise ValueError(
                f"Column {name!r}{whose} is a single value; it needs one row for each "
                "example."
            )
        rows[name] = len(array)
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{name!r} has {n}" for name, n in rows.items())
        raise ValueError(
            f"The columns{whose} have different numbers of rows: {counts}."
        )
    return next(iter(rows.values()))


def _joined(pairs: list[tuple[str, Mapping[str, np.ndarray]]]) -> FederatedDataset:
    """One dataset from the examples of each client, if they fit together."""
    if len(pairs) == 0:
        raise ValueError("The dataset is empty: it has no clients.")
    clients = [
        (client, {name: np.asarray(column) for name, column in examples.items()})
        for client, examples in pairs
    ]
    sizes = [common_rows(e, f" of client {c!r}") for c, e in clients]
    # A client without examples does not say what an example looks like.
    model_client, model = clients[int(np.argmax(np.asarray(sizes) > 0))]
    for (client, examples), size in zip(clients, sizes, strict=True):
        if set(examples) != set(model):
            raise ValueError(
                f"Client {client!r} has the columns {sorted(examples)}, but client "
                f"{model_client!r} has {sorted(model)}. All clients need the same."
            )
        for name, column in model.items():
            got = examples[name]
            if size == 0:
                examples[name] = column[:0]
            elif got.shape[1:] != column.shape[1:]:
                raise ValueError(
                    f"Column {name!r} of client {client!r} has examples of shape "
                    f"{got.shape[1:]}, but those of client {model_client!r} have shape "
                    f"{column.shape[1:]}. Pad or resize them to one shape."
                )
            elif got.dtype != column.dtype and got.dtype.kind not in "US":
                raise ValueError(
                    f"Column {name!r} of client {client!r} has dtype {got.dtype}, but "
                    f"that of client {model_client!r} has {column.dtype}. Cast them to "
                    "one dtype."
                )
    columns = {name: np.concatenate([e[name] for _, e in clients]) for name in model}
    return FederatedDataset(
        columns, np.append(0, np.cumsum(sizes)), [client for client, _ in clients]
    )
