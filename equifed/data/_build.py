"""What a dataset is built from: a table with owners, or one dictionary a client.

Each function answers with the three parts of a `FederatedDataset`, its columns,
offsets and client ids, or with an error that says what does not fit together.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int, Shaped

from .._check import check_kind
from .._words import listed, shown
from ._arrays import as_array, as_arrays, as_numbers, check_columns
from ._column import check_names, Column
from ._ids import client_codes, natural_key
from ._layout import by_codes, by_rows, Layout
from ._partition import (
    AbstractPartition,
    is_foreign,
    Partitioner,
    ROW,
    rows_by_partition,
)
from ._read import numbered, numbered_arrays, Source


Parts: TypeAlias = tuple[Mapping[str, Column], Int[np.ndarray, " bounds"], list[str]]


def from_source(
    source: Source,
    by: str | AbstractPartition | Partitioner,
    names: Sequence[str] | None,
) -> Parts:
    """Builds from a table on disk."""
    if not isinstance(by, str | AbstractPartition) and not is_foreign(by):
        raise TypeError(
            f"`by` must be the name of a column or a partition, got {shown(by)}."
        )
    if len(source) == 0:
        raise ValueError("The dataset is empty: it has no rows.")
    source.check([*names_in(by), *(names or ())])
    if isinstance(by, AbstractPartition):
        read = {n: np.asarray(source.read(n)) for n in by.column_names}
        layout = by_rows(by(read, len(source)), len(source))
    elif isinstance(by, str):
        layout = by_codes(*source.codes(by))
    else:
        rows = rows_by_partition(by, numbered(source, ROW))
        layout = by_rows(rows, len(source))
    if names is None:
        names = [n for n in source.shown if n != by]
    return layout.read(source, names), layout.offsets, layout.client_ids


def from_arrays(
    columns: Mapping[str, Shaped[np.ndarray, "..."]],
    by: str
    | AbstractPartition
    | Partitioner
    | Shaped[np.ndarray, " examples"]
    | Sequence,
) -> Parts:
    """Builds from a table in memory."""
    arrays = as_arrays(columns, "`columns`")
    rows = common_rows(arrays, "")
    if rows == 0:
        raise ValueError("The dataset is empty: its columns have no rows.")
    check_names(names_in(by), arrays)
    if isinstance(by, AbstractPartition) or is_foreign(by):
        layout = dealt(arrays, rows, by)
    elif isinstance(by, str):
        layout = by_codes(*client_codes(arrays.pop(by), by))
    else:
        values = as_array("by", by)
        if values.ndim == 0:
            raise TypeError(
                "`by` must be the name of a column, a partition, or one client id for "
                f"each example, got {shown(by)}."
            )
        if len(values) != rows:
            raise ValueError(
                f"`by` has {len(values)} entries for {rows} examples; it needs one "
                "client id for each."
            )
        layout = by_codes(*client_codes(values, "by"))
    return layout.arrange(arrays), layout.offsets, layout.client_ids


def dealt(columns: Mapping[str, Column], rows: int, partition: Any) -> Layout:
    """The layout of the rows of a dataset, as a partition gives them to clients."""
    if is_foreign(partition):
        table = numbered_arrays(columns, rows, ROW)
        return by_rows(rows_by_partition(partition, table), rows)
    remedy = "Write one such as `IIDPartition(10, seed=0)`."
    check_kind("partition", partition, AbstractPartition, remedy)
    check_names(partition.column_names, columns)
    read = {name: np.asarray(columns[name]) for name in partition.column_names}
    return by_rows(partition(read, rows), rows)


def from_clients(
    clients: Sequence[tuple[str, Any]], what: str = "The examples"
) -> Parts:
    """Builds from pairs of a client's id and its examples; `what` says what these are,
    where they come from elsewhere."""
    if len(clients) == 0:
        raise ValueError("The dataset is empty: it has no clients.")
    clients = [
        (c, as_arrays(e, f"{what} of client {c!r}", f" of client {c!r}"))
        for c, e in clients
    ]
    sizes = [common_rows(e, f" of client {c!r}") for c, e in clients]
    # A client without examples does not say what an example looks like.
    model_client, model = clients[int(np.argmax(np.asarray(sizes) > 0))]
    for (client, examples), size in zip(clients, sizes, strict=True):
        if set(examples) != set(model):
            raise ValueError(
                f"Client {client!r} has the columns {listed(sorted(examples))}, but "
                f"client {model_client!r} has {listed(sorted(model))}. All clients "
                "need the same."
            )
        for name, column in model.items():
            got = examples[name]
            if size == 0:
                continue
            if got.shape[1:] != column.shape[1:]:
                raise ValueError(
                    f"Column {name!r} of client {client!r} has examples of shape "
                    f"{got.shape[1:]}, but those of client {model_client!r} have shape "
                    f"{column.shape[1:]}. Pad or resize them to one shape."
                )
            if got.dtype != column.dtype and got.dtype.kind not in "US":
                raise ValueError(
                    f"Column {name!r} of client {client!r} has dtype {got.dtype}, but "
                    f"that of client {model_client!r} has {column.dtype}. Cast them to "
                    "one dtype."
                )
    whole = [e for (_, e), n in zip(clients, sizes, strict=True) if n > 0] or [model]
    columns = {name: np.concatenate([e[name] for e in whole]) for name in model}
    return columns, np.append(0, np.cumsum(sizes)), [client for client, _ in clients]


def from_mapping(clients: Any) -> Parts:
    """Builds from one dictionary of examples for each client."""
    if not isinstance(clients, Mapping):
        raise TypeError(
            "`clients` must be a dictionary of the clients' examples by client id, got "
            f"{shown(clients)}."
        )
    for client in clients:
        number = isinstance(client, int | np.integer) and not isinstance(client, bool)
        if not (number or isinstance(client, str)) or client == "":
            raise TypeError(
                "A client id must be text, and not empty, or an integer, got "
                f"{shown(client)}."
            )
    pairs = [(str(client), examples) for client, examples in clients.items()]
    pairs.sort(key=lambda pair: natural_key(pair[0]))
    return from_clients(pairs)


def mapped(columns: Any, num_examples: int) -> dict[str, np.ndarray]:
    """What `map` makes of a dataset with so many examples."""
    arrays = as_arrays(columns, "What `fn` returns")
    for name, array in arrays.items():
        if array.ndim == 0 or len(array) != num_examples:
            raise ValueError(
                f"`fn` returned column {name!r} with shape {array.shape}, but the "
                f"dataset has {num_examples} rows. To change the number of "
                "examples use `map_clients`."
            )
    return arrays


def wanted(columns: Any, by: object) -> tuple[list[str] | None, list[str] | None]:
    """The columns to keep and those to read; `None` for all of them."""
    if columns is None:
        return None, None
    columns = check_columns("columns", columns)
    # What a partitioner of another library reads it does not say.
    return columns, None if is_foreign(by) else [*columns, *names_in(by)]


def mapped_clients(
    fn: Callable[[str, dict[str, np.ndarray]], Mapping[str, np.ndarray]],
    client_ids: Sequence[str],
    examples_of: Callable[[int], dict[str, np.ndarray]],
) -> list[tuple[str, Mapping[str, np.ndarray]]]:
    """Pairs of a client's id and what a function makes of its examples."""
    pairs = []
    for i, client_id in enumerate(client_ids):
        try:
            pairs.append((client_id, fn(client_id, examples_of(i))))
        except Exception as error:
            error.add_note(f"This was in `map_clients`, with client {client_id!r}.")
            raise
    return pairs


def names_in(by: object) -> tuple[str, ...]:
    """The columns that are read to know whose an example is."""
    if isinstance(by, AbstractPartition):
        return by.column_names
    return (by,) if isinstance(by, str) else ()


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


def checked_parts(columns: Any, bounds: Any, client_ids: Any) -> Parts:
    """Refuses parts that do not fit together, or that have nothing in them."""
    check_kind("columns", columns, Mapping)
    offsets = as_numbers(bounds)
    if offsets is None:
        raise TypeError(f"`offsets` must be integers, got {shown(bounds)}.")
    if isinstance(client_ids, str):
        raise TypeError(f"`client_ids` must be a list, got {shown(client_ids)}.")
    client_ids = list(client_ids)
    if len(columns) == 0:
        raise ValueError("`columns` is empty; a dataset needs at least one column.")
    if len(client_ids) == 0:
        raise ValueError("The dataset is empty: it has no clients.")
    if len(offsets) != len(client_ids) + 1:
        raise ValueError(
            f"`offsets` has {len(offsets)} entries for {len(client_ids)} clients; it "
            "needs one more than clients."
        )
    rows = int(offsets[-1])
    for name, column in columns.items():
        if len(column) != rows:
            raise ValueError(
                f"Column {name!r} has {len(column)} rows, but the clients own "
                f"{rows}. All columns must have the same number of rows."
            )
    if rows == 0:
        raise ValueError(
            f"The dataset is empty: its {len(client_ids)} clients have no examples."
        )
    if offsets[0] != 0 or np.any(np.diff(offsets) < 0):
        raise ValueError("`offsets` must begin with 0 and never decrease.")
    seen: set[str] = set()
    for client_id in client_ids:
        check_kind("client_ids", client_id, str, "Client ids are text.")
        if client_id in seen:
            raise ValueError(f"The client id {client_id!r} occurs more than once.")
        seen.add(client_id)
    return columns, offsets, client_ids
