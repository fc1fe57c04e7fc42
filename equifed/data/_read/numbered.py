"""A table as a dataset of `datasets`, with the numbers of its rows as a column."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._column import Column
from .source import Source


def numbered(source: Source, name: str) -> Any:
    """The rows of a table, none of which are copied."""
    import pyarrow as pa
    from datasets import Dataset
    from datasets.table import InMemoryTable

    # Without what is said of the columns, which a further one would contradict: images
    # stay as they are stored.
    table = source.table.replace_schema_metadata(None)
    rows = np.arange(table.num_rows)
    if source.rows is not None:
        rows = np.full(table.num_rows, -1)
        rows[source.rows] = np.arange(len(source.rows))
    dataset = Dataset(InMemoryTable(table.append_column(name, pa.array(rows))))
    return dataset if source.rows is None else dataset.select(source.rows)


def numbered_arrays(columns: Mapping[str, Column], num_rows: int, name: str) -> Any:
    """The columns that have one value in each row."""
    from datasets import Dataset

    single = {n: np.asarray(c) for n, c in columns.items() if c.ndim == 1}
    return Dataset.from_dict({**single, name: np.arange(num_rows)})
