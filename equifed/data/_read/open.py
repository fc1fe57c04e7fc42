"""Opening what holds the examples: a Hugging Face dataset, a stream, parquet files."""

import glob
import os
from collections.abc import Sequence
from typing import Any, TYPE_CHECKING

import numpy as np

from .source import Source


if TYPE_CHECKING:
    import datasets


def open_huggingface(
    dataset: "datasets.Dataset | datasets.IterableDataset",
    names: Sequence[str] | None,
) -> Source:
    """Opens a dataset without reading it; a stream is read into memory."""
    import datasets

    if isinstance(dataset, datasets.Dataset):
        table = dataset.data.table
        if dataset._indices is None:
            return Source(table, dataset.features)
        column = dataset._indices.column(0)
        rows = np.asarray(column.to_numpy(), np.int64)
        if len(rows) > 0 and np.array_equal(
            rows, np.arange(rows[0], rows[0] + len(rows))
        ):
            return Source(table.slice(int(rows[0]), len(rows)), dataset.features)
        return Source(table, dataset.features, rows)
    if isinstance(dataset, datasets.IterableDataset):
        import pyarrow as pa

        tables = list(arrow_batches(dataset, names))
        if len(tables) == 0:
            raise ValueError("The dataset is empty: its stream has no example.")
        return Source(pa.concat_tables(tables), dataset.features)
    if isinstance(dataset, dict):
        raise TypeError(
            "`dataset` is a dictionary of splits; choose one of them, such as "
            f"`dataset[{next(iter(dataset), 'train')!r}]`."
        )
    raise TypeError(
        "`dataset` must be a `datasets.Dataset` or a `datasets.IterableDataset`, got "
        f"{type(dataset).__name__}."
    )


def arrow_batches(dataset: "datasets.IterableDataset", names: Sequence[str] | None):
    """The tables of a stream, with only the named columns."""
    table: Any
    for table in dataset.with_format("arrow").iter(batch_size=1000):
        if names is None:
            yield table
        else:
            Source(table, None).check(names)
            yield table.select(list(names))


def open_parquet(
    files: str | os.PathLike | Sequence[str | os.PathLike],
    names: Sequence[str] | None,
) -> Source:
    """Reads parquet files into one table; a name may be a pattern."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [files] if isinstance(files, str | os.PathLike) else list(files)
    paths = []
    for file in [str(f) for f in files]:
        found = sorted(glob.glob(file)) if glob.has_magic(file) else [file]
        found = [p for p in found if os.path.exists(p)]
        if len(found) == 0:
            raise ValueError(f"There is no file {file!r}.")
        paths += found
    if len(paths) == 0:
        raise ValueError("`files` is empty; give at least one parquet file.")
    tables = []
    for path in paths:
        schema = pq.read_schema(path)
        for name in names or ():
            if name not in schema.names:
                raise ValueError(
                    f"There is no column {name!r} in {path!r}; the columns are "
                    f"{schema.names}."
                )
        columns = None if names is None else list(dict.fromkeys(names))
        tables.append(pq.read_table(path, columns=columns, memory_map=True))
        if tables[-1].schema.remove_metadata() != tables[0].schema.remove_metadata():
            raise ValueError(
                f"The columns of {path!r} differ from those of {paths[0]!r}: "
                f"{_describe(tables[-1])} against {_describe(tables[0])}. Read the "
                "columns that they share, with `columns=...`."
            )
    features = {}
    if b"huggingface" in (tables[0].schema.metadata or {}):
        import datasets

        features = datasets.Features.from_arrow_schema(tables[0].schema)
    return Source(pa.concat_tables(tables), features)


def _describe(table) -> str:
    return ", ".join(f"{f.name}: {f.type}" for f in table.schema)
