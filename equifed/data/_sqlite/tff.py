"""TensorFlow Federated's files: a row for each example."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..._check import check_kind
from ..._words import listed, shown
from .. import _build
from .._arrays import check_columns
from .._column import check_names
from .._dataset import FederatedDataset
from .._ids import as_id, natural_key
from .database import Damaged, Database, opened
from .proto import Feature, features_of


_EXAMPLES = {"examples": ("split_name", "client_id", "serialized_example_proto")}
_METADATA = {"client_metadata": ("client_id", "split_name", "num_examples")}

Shapes = Mapping[str, tuple[int, ...]]


def from_tff_sqlite(
    path: str | os.PathLike,
    *,
    split: str | None = None,
    columns: Sequence[str] | None = None,
    shapes: Shapes | None = None,
) -> FederatedDataset:
    """Reads one split of a file of TensorFlow Federated's simulation datasets into
    memory, without TensorFlow.

    A feature of one value is a column of single values, one of more a column of rows;
    integers are `int64`, floats `float32`, text is an array of `bytes` objects. Clients
    are in natural order.

    !!! example

        ```python
        clients = eqf.data.from_tff_sqlite(
            "emnist_all.sqlite", split="train", shapes={"pixels": (28, 28)}
        )
        ```

    **Arguments:**

    - `path`: The file, decompressed. It is not changed.
    - `split`: Which split. It need not be said if the file has one only.
    - `columns`: The features to keep. By default all.
    - `shapes`: The shapes of features, which the file does not know.

    **Raises:**

    `ValueError` if it is no such file, if a row is damaged or differs in its features
    (which row, and whose), or if a client has other examples than the file says.
    """
    names = None if columns is None else check_columns("columns", columns)
    shapes = _checked(shapes)
    with opened(path) as file:
        file.check("TensorFlow Federated", _EXAMPLES)
        split_name = _chosen(file, split)
        clients = dict(_clients(file, split_name, names, shapes))
        _check_counts(file, split_name, clients)
    pairs = sorted(clients.items(), key=lambda pair: natural_key(pair[0]))
    return FederatedDataset(*_build.from_clients(pairs))


def _checked(shapes: Any) -> Shapes:
    if shapes is None:
        return {}
    check_kind("shapes", shapes, Mapping, "Write `{'pixels': (28, 28)}`, for example.")
    for name, shape in shapes.items():
        sizes = shape if isinstance(shape, tuple) else (None,)
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise TypeError(
                f"`shapes` must have a tuple of positive integers for {name!r}, got "
                f"{shown(shape)}."
            )
    return shapes


def _chosen(file: Database, split: Any) -> str:
    query = "SELECT DISTINCT split_name FROM examples ORDER BY split_name"
    known = [as_id(name) for (name,) in file.rows(query)]
    if len(known) == 0:
        raise ValueError(f"{file.path} is empty: it has no examples.")
    if split is None and len(known) > 1:
        raise ValueError(
            f"{file.path} has several splits: {listed(known)}. Choose one, "
            f"`split={known[0]!r}`."
        )
    split = known[0] if split is None else split
    check_kind("split", split, str)
    if split not in known:
        raise ValueError(
            f"There is no split {shown(split)} in {file.path}; the splits are: "
            f"{listed(known)}."
        )
    return split


def _clients(
    file: Database, split: str, names: list[str] | None, shapes: Shapes
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """The columns of each client."""
    query = (
        "SELECT rowid, client_id, serialized_example_proto FROM examples "
        "WHERE split_name = ? ORDER BY client_id, rowid"
    )
    owner, rows, first = None, [], 0
    model: dict[str, tuple] = {}
    for row, client_id, blob in file.rows(query, split):
        if owner is not None and client_id != owner:
            yield as_id(owner), _columns(rows)
            rows = []
        owner = client_id
        try:
            if not isinstance(blob, bytes):
                raise Damaged(f"its example is {shown(blob)}, where a blob belongs")
            example = _shaped(features_of(blob), names, shapes)
            form = {name: (x.dtype, x.shape) for name, x in example.items()}
            model, first = (model, first) if model else (form, row)
            if form != model:
                raise Damaged(_difference(form, model, first))
        except Damaged as reason:
            raise file.damaged(row, as_id(client_id), reason) from None
        rows.append(example)
    if owner is not None:
        yield as_id(owner), _columns(rows)


def _shaped(
    features: dict[str, Feature], names: list[str] | None, shapes: Shapes
) -> dict[str, np.ndarray]:
    check_names([*(names or ()), *shapes], features)
    out = {}
    for name in names or sorted(features):
        values = features[name]
        shape = shapes.get(name, () if len(values) == 1 else (len(values),))
        if len(values) != math.prod(shape):
            raise Damaged(
                f"feature {name!r} has {len(values)} values, which `shapes` gives the "
                f"shape {shape}"
            )
        array = np.empty(len(values), getattr(values, "dtype", object))
        array[:] = values
        out[name] = array.reshape(shape)
    return out


def _difference(form: dict[str, tuple], model: dict[str, tuple], first: int) -> str:
    for name, (dtype, shape) in model.items():
        if name not in form:
            return f"it has no feature {name!r}, which row {first} has"
        if form[name] != (dtype, shape):
            got = form[name]
            return (
                f"feature {name!r} is {got[0]} of shape {got[1]}, and in row {first} "
                f"{dtype} of shape {shape}"
            )
    more = listed(sorted(set(form) - set(model)))
    return f"it has the features {more}, which row {first} has not"


def _columns(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _check_counts(file: Database, split: str, clients: dict[str, Any]) -> None:
    """Compares with what the file says of its clients."""
    if not file.columns("client_metadata"):
        return
    file.check("TensorFlow Federated", _METADATA)
    query = "SELECT client_id, num_examples FROM client_metadata WHERE split_name = ?"
    told = {as_id(client): number for client, number in file.rows(query, split)}
    for client in {**told, **clients}:
        columns = clients.get(client, {})
        got = len(next(iter(columns.values()), ()))
        if told.get(client, 0) != got:
            raise ValueError(
                f"Client {client!r} of {file.path} has {got} examples in split "
                f"{split!r}, but is said to have {shown(told.get(client))}: "
                "the file is incomplete. Copy or make it anew."
            )
