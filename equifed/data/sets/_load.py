"""How a set is had: through `datasets`, which downloads and keeps it.

A download goes into a file beside, and takes its name once it is complete; one that
was interrupted is gone on with, or done again. That is the affair of `datasets`, and
nothing is added to it here. What is looked at here is that the columns are those
expected: whoever publishes a set may change it.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int

from ..._check import check_kind
from ..._words import first_line, listed, shown
from .._dataset import FederatedDataset
from .._whose import owner_of


Files: TypeAlias = str | os.PathLike | Sequence[str | os.PathLike]

_READERS = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".txt": "text"}
_READERS |= {".json": "json", ".jsonl": "json"}
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_TEXTS = ("string", "large_string", "string_view", "binary", "large_binary")


def load(
    source: str,
    wanted: Mapping[str, str],
    *,
    split: str,
    data_files: Files | None,
    streaming: bool,
    default_files: str | None = None,
    csv: Mapping[str, Any] | None = None,
    encoding: str | None = None,
    revision: str | None = None,
) -> Any:
    """Loads a split; `wanted` are the columns and what they hold: `"image"`, `"text"`
    or `"integers"`. The last four are of the set itself: which of its files are meant,
    how those of CSV are read and those of text decoded, and which version it is."""
    import datasets

    check_kind("split", split, str)
    check_kind("streaming", streaming, bool)
    name, where, options = source, repr(source), dict(csv or {})
    options |= {} if default_files is None else {"data_files": default_files}
    options |= {} if encoding is None else {"encoding": encoding}
    options |= {} if revision is None else {"revision": revision}
    if data_files is not None:
        # Files have no splits but those that one gives them.
        split, files = "train", _names(data_files)
        where = repr(_end(files[0])) if len(files) == 1 else listed(files)
        name = _reader(files)
        of_text = {} if encoding is None else {"encoding": encoding}
        options = {"csv": dict(csv or {}), "text": of_text}.get(name, {})
        options["data_files"] = files
    try:
        table = datasets.load_dataset(name, split=split, streaming=streaming, **options)
    except Exception as error:
        if data_files is not None and not isinstance(error, OSError):
            raise ValueError(
                f"{where} cannot be read as a file of {name}: "
                f"{first_line(error.__cause__ or error)}. Copy or download it anew."
            ) from error
        error.add_note(
            f"This was `datasets.load_dataset({name!r}, split={split!r})`. What is "
            "incomplete of a download is not used; call it again to go on. Copies of "
            "the set's files are read with `data_files=...`."
        )
        raise
    for column, kind in wanted.items():
        _check(table, column, kind, where)
    return table


def _names(data_files: Any) -> list[str]:
    single = isinstance(data_files, str | os.PathLike)
    if not single and not isinstance(data_files, Sequence):
        raise TypeError(
            f"`data_files` must be a path or a list of paths, got {shown(data_files)}."
        )
    files = [data_files] if single else list(data_files)
    for file in files:
        check_kind("data_files", file, (str, os.PathLike))
    if len(files) == 0:
        raise ValueError("`data_files` is empty; give at least one file.")
    return [str(os.fspath(file)) for file in files]


def _end(path: str) -> str:
    return path if len(path) <= 60 else f"...{path[-57:]}"


def _reader(files: list[str]) -> str:
    endings = {os.path.splitext(file)[1].lower() for file in files}
    readers = {_READERS.get(ending) for ending in endings}
    if len(readers) > 1 or None in readers:
        raise ValueError(
            f"`data_files` must all end in one of {listed(sorted(_READERS))}, got "
            f"{listed(files)}."
        )
    return str(readers.pop())


def _check(table: Any, column: str, kind: str, where: str) -> None:
    features = table.features
    if features is None:
        return  # A stream of text does not know; a missing column is told when read.
    if column not in features:
        raise ValueError(
            f"{where} has no column {column!r}, and so is not the set expected; its "
            f"columns are: {listed(features)}."
        )
    feature = features[column]
    name, dtype = type(feature).__name__, getattr(feature, "dtype", "")
    fits = {
        "image": name == "Image",
        "text": dtype in _TEXTS,
        "integers": name == "ClassLabel" or dtype in _INTEGERS,
    }
    if not fits[kind]:
        raise ValueError(
            f"Column {column!r} of {where} is to hold {kind}, and holds "
            f"{dtype or name}; it is not the set expected."
        )


def labels(
    dataset: FederatedDataset, column: str, num_classes: int
) -> Int[np.ndarray, " examples"]:
    """A column of labels as `int32`, if all are from 0 on and below a number."""
    values = np.asarray(dataset.columns[column])
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise ValueError(
            f"Column {column!r} must hold one label for each example, an integer, got "
            f"{values.dtype} of shape {values.shape[1:]}."
        )
    wrong = np.flatnonzero((values < 0) | (values >= num_classes))
    if len(wrong) > 0:
        row = int(wrong[0])
        raise ValueError(
            f"Column {column!r} has the label {values[row]} in {place(dataset, row)}; "
            f"labels are 0 to {num_classes - 1}."
        )
    return values.astype(np.int32)


def images(
    dataset: FederatedDataset, column: str, shape: tuple[int, ...]
) -> np.ndarray:
    """A column of images with their channels last, if they have this shape."""
    values = np.asarray(dataset.columns[column])
    got = values.shape[1:]
    grey = shape[-1] == 1 and got == shape[:-1]
    if (got != shape and not grey) or values.dtype != np.uint8:
        raise ValueError(
            f"Column {column!r} must hold images of 8 bits and shape {shape}, got "
            f"{values.dtype} of shape {got}."
        )
    return values.reshape(-1, *shape)


def place(dataset: FederatedDataset, row: int) -> str:
    """Which example of which client a row is."""
    client = int(dataset.offsets.searchsorted(row, side="right")) - 1
    return f"example {row - dataset.offsets[client]} of {owner_of(dataset)(row)}"
