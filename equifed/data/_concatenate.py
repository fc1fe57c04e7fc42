"""Several datasets as one.

The columns are laid end to end as they are; nothing that is memory-mapped is read.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .._check import check_kind
from .._words import listed, shown
from ._build import Parts
from ._clients import AbstractClients
from ._column import ChunkedColumn, Column


def joined(datasets: Any, prefixes: Any) -> Parts:
    """The parts of the datasets' clients, one dataset after another."""
    datasets = _checked(datasets)
    ids = _all_ids(datasets, _prefixes(prefixes, len(datasets)))
    for number, dataset in enumerate(datasets):
        _check_same(datasets[0].columns, dataset.columns, number)
    columns = {
        name: _end_to_end([dataset.columns[name] for dataset in datasets])
        for name in datasets[0].columns
    }
    sizes = np.concatenate([dataset.client_sizes for dataset in datasets])
    return columns, np.append(0, np.cumsum(sizes)), ids


def _checked(datasets: Any) -> list[AbstractClients]:
    # A dataset is iterable, over its clients' ids.
    single = isinstance(datasets, AbstractClients | str | Mapping)
    if single or not isinstance(datasets, Iterable):
        raise TypeError(
            f"`datasets` must be a list of datasets, got {shown(datasets)}. Write "
            "`FederatedDataset.concatenate([first, second])`."
        )
    datasets = list(datasets)
    if len(datasets) == 0:
        raise ValueError("`datasets` is empty; give at least one dataset.")
    for number, dataset in enumerate(datasets):
        if not isinstance(dataset, AbstractClients):
            raise TypeError(
                f"`datasets` must be a list of datasets, got {shown(dataset)} as "
                f"number {number}."
            )
    return datasets


def _prefixes(prefixes: Any, count: int) -> list[str]:
    if prefixes is None:
        return [""] * count
    if isinstance(prefixes, str) or not isinstance(prefixes, Iterable):
        raise TypeError(
            f"`prefixes` must be a list of texts, one for each dataset, got "
            f"{shown(prefixes)}."
        )
    prefixes = list(prefixes)
    for prefix in prefixes:
        check_kind("Each of `prefixes`", prefix, str)
    if len(prefixes) != count:
        raise ValueError(
            f"`prefixes` has {len(prefixes)} texts for {count} datasets; it needs one "
            "for each."
        )
    return prefixes


def _all_ids(datasets: list[AbstractClients], prefixes: list[str]) -> list[str]:
    owner: dict[str, int] = {}
    for number, (dataset, prefix) in enumerate(zip(datasets, prefixes, strict=True)):
        ids = [prefix + client_id for client_id in dataset.client_ids]
        twice = [client_id for client_id in ids if client_id in owner]
        if twice:
            others = f", and {len(twice) - 1} more clients" if len(twice) > 1 else ""
            raise ValueError(
                f"Client {shown(twice[0])} is in dataset {owner[twice[0]]} and in "
                f"dataset {number}{others}; ids must be distinct. Give each dataset a "
                "prefix of its own, such as `prefixes=['a/', 'b/']`, or leave the "
                "clients out of one with `select`."
            )
        owner.update(dict.fromkeys(ids, number))
    return list(owner)


def _check_same(first: Mapping[str, Column], other: Mapping[str, Column], number: int):
    if set(first) != set(other):
        raise ValueError(
            f"Dataset {number} has the columns {listed(sorted(other))}, but dataset 0 "
            f"has {listed(sorted(first))}; all need the same. Use `select_columns` or "
            "`rename`."
        )
    for name, column in first.items():
        got = other[name]
        if got.shape[1:] != column.shape[1:]:
            raise ValueError(
                f"Column {name!r} of dataset {number} has examples of shape "
                f"{got.shape[1:]}, but those of dataset 0 have shape "
                f"{column.shape[1:]}. Pad or resize them to one shape (`map`)."
            )
        # Text is as wide as its longest value happens to be.
        text = got.dtype.kind == column.dtype.kind and got.dtype.kind in "US"
        if got.dtype != column.dtype and not text:
            raise ValueError(
                f"Column {name!r} of dataset {number} has dtype {got.dtype}, but that "
                f"of dataset 0 has {column.dtype}. Cast them to one dtype (`map`)."
            )


def _end_to_end(columns: list[Column]) -> Column:
    if len(columns) == 1:
        return columns[0]
    dtype = np.result_type(*(column.dtype for column in columns))
    chunks = []
    for column in columns:
        pieces = column.chunks if isinstance(column, ChunkedColumn) else [column]
        chunks += [piece.astype(dtype, copy=False) for piece in pieces]
    return ChunkedColumn(chunks)
