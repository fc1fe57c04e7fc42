"""Opening a Hugging Face dataset."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .source import Source
from .stream import arrow_batches


if TYPE_CHECKING:
    import datasets


def open_huggingface(
    dataset: "datasets.Dataset | datasets.IterableDataset",
    names: Sequence[str] | None,
    by: str | None,
) -> Source:
    """Opens a dataset without reading it; a stream is read into memory."""
    import datasets

    if isinstance(dataset, datasets.Dataset):
        shown = _shown(dataset)
        table = dataset.data.table
        if dataset._indices is None:
            return Source(table, dataset.features, shown=shown)
        column = dataset._indices.column(0)
        rows = np.asarray(column.to_numpy(), np.int64)
        if len(rows) > 0 and np.array_equal(
            rows, np.arange(rows[0], rows[0] + len(rows))
        ):
            part = table.slice(int(rows[0]), len(rows))
            return Source(part, dataset.features, shown=shown)
        return Source(table, dataset.features, rows, shown=shown)
    if isinstance(dataset, datasets.IterableDataset):
        import pyarrow as pa

        tables = list(arrow_batches(dataset, names, by))
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


def _shown(dataset: "datasets.Dataset") -> list[str]:
    """The columns that the dataset's format shows.

    The table is read beneath the format. What kind of container it gives makes no
    difference; what changes the values is refused.
    """
    form = dataset.format
    if form["type"] == "custom":
        raise ValueError(
            "The dataset has a transform (`with_transform`), which is applied to rows "
            "as they are looked up, and so would not be to these. Apply it once "
            "(`dataset.with_format(None).map(transform, batched=True)`), or remove it "
            "(`dataset.with_format(None)`)."
        )
    if form["format_kwargs"]:
        raise ValueError(
            f"The dataset has a format with the settings "
            f"{sorted(form['format_kwargs'])}, which would not be applied: columns are "
            "read as they are stored. Remove it (`dataset.with_format(None)`), and "
            "change the columns (`dataset.cast_column(...)`, `dataset.map(...)`)."
        )
    names = dataset.column_names
    if form["output_all_columns"]:
        return names
    return [name for name in names if name in form["columns"]]
