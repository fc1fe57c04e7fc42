"""A table as a dataset of `datasets`, with the numbers of its rows as a column."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._column import Column
from .source import Source


def numbered(source: Source, name: str) -> Any:
    """The rows of a table, which are copied only if one of them comes twice."""
    import pyarrow as pa
    from datasets import Dataset
    from datasets.table import InMemoryTable

    # Without what is said of the columns, which a further one would contradict: images
    # stay as they are stored.
    table, chosen = source.table.replace_schema_metadata(None), source.rows
    if chosen is not None and len(np.unique(chosen)) < len(chosen):
        table, chosen = table.take(pa.array(chosen)), None
    numbers = np.arange(table.num_rows)
    if chosen is not None:
        numbers[chosen] = np.arange(len(chosen))
    dataset = Dataset(InMemoryTable(table.append_column(name, pa.array(numbers))))
    return dataset if chosen is None else dataset.select(chosen)


def numbered_arrays(columns: Mapping[str, Column], num_rows: int, name: str) -> Any:
    """The columns that have one value in each row."""
    from datasets import Dataset

    single = {n: np.asarray(c) for n, c in columns.items() if c.ndim == 1}
    return Dataset.from_dict({**single, name: np.arange(num_rows)})
