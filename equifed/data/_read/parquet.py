"""Opening parquet files."""

import glob
import os
from collections.abc import Iterable, Sequence
from typing import Any

from ..._words import first_line, listed, shown
from .saved import saved_in
from .source import Source


def open_parquet(
    files: str | os.PathLike | Sequence[str | os.PathLike],
    names: Sequence[str] | None,
) -> Source:
    """Reads parquet files into one table; a name may be a pattern."""
    import pyarrow as pa

    paths = _paths(files)
    tables = [_read(path, names) for path in paths]
    for path, table in zip(paths, tables, strict=True):
        _check_same(path, table.schema, paths[0], tables[0].schema)
    features = _features(paths[0], tables[0].schema)
    saved = saved_in(paths[0], tables[0].schema.metadata)
    table = pa.concat_tables(tables, promote_options="default")
    return Source(table, features, saved=saved)


def _paths(files: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    """The files that are meant. A file of just that name comes before a pattern."""
    files = [files] if isinstance(files, str | os.PathLike) else files
    if not isinstance(files, Iterable):
        files = [files]
    paths = []
    for file in files:
        if not isinstance(file, str | os.PathLike):
            raise TypeError(
                f"`files` must be one or more paths or patterns, got {shown(file)}."
            )
        found = _found(os.fspath(file))
        if len(found) == 0:
            what = "that matches " if glob.has_magic(os.fspath(file)) else ""
            raise ValueError(f"There is no file {what}{os.fspath(file)!r}.")
        paths += found
    if len(paths) == 0:
        raise ValueError("`files` is empty; give at least one parquet file.")
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise ValueError(
                f"`files` names {path!r} twice, by itself or by a pattern, and its "
                "rows would count twice. Name it once."
            )
        if os.path.isdir(path):
            raise ValueError(
                f"{path!r} is a folder; give the files in it, such as "
                f"{os.path.join(path, '*.parquet')!r}."
            )
    return paths


def _found(path: str) -> list[str]:
    """As much of the path as there is goes by its name; the rest is a pattern."""
    known, rest = path, []
    while known and not os.path.exists(known):
        known, part = os.path.split(known)
        rest.insert(0, part)
    if not rest:
        return [path]
    return sorted(glob.glob(os.path.join(glob.escape(known), *rest)))


def _read(path: str, names: Sequence[str] | None):
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
        columns = None if names is None else list(dict.fromkeys(names))
        missing = [name for name in columns or () if name not in schema.names]
        if not missing:
            # One file, whatever its name and those of the folders around it.
            with pq.ParquetFile(path, memory_map=True) as file:
                return file.read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path!r} cannot be read as a parquet file: {first_line(error)}. Write it "
            "anew, or leave it out."
        ) from error
    raise ValueError(
        f"There is no column {missing[0]!r} in {path!r}; the columns are: "
        f"{listed(schema.names)}."
    )


def _check_same(path: str, schema, first_path: str, first) -> None:
    if difference := difference_of(schema, first):
        raise ValueError(
            f"The columns of {path!r} differ from those of {first_path!r}: "
            f"{difference}. Read the columns that they share, with `columns=...`, or "
            "write the files alike."
        )


def difference_of(schema, first) -> str | None:
    """How two schemas differ, in words, by one column."""
    for field in first:
        if field.name not in schema.names:
            return f"no column {field.name!r} against {field.type}"
        kind = schema.field(field.name).type
        if kind != field.type:
            return f"{field.name!r} is {kind} against {field.type}"
    for field in schema:
        if field.name not in first.names:
            return f"{field.name!r} is {field.type} against no such column"
    return None


def _features(path: str, schema) -> dict[str, Any]:
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    import datasets

    try:
        return datasets.Features.from_arrow_schema(schema)
    except Exception as error:
        raise ValueError(
            f"The Hugging Face metadata in {path!r}, which says what its columns are, "
            f"is damaged ({type(error).__name__}). Write the file anew, or without it "
            "(`table.replace_schema_metadata(None)`)."
        ) from error
