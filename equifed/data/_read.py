"""From Arrow tables to columns.

Hugging Face datasets and parquet files are both Arrow tables. Numbers, and fixed-size
lists of numbers, are arrays already: they are viewed, never copied. What Arrow keeps
in another form (strings, images, ragged lists) is converted, once.

This is the only file that touches `datasets`, `pyarrow` and `PIL`, and it imports them
when it is first used: `import equifed` must stay cheap.
"""

import glob
import io
import os
from collections.abc import Callable, Sequence
from typing import Any, TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from ._column import ChunkedColumn, Column
from ._partition import as_id, rank_codes


if TYPE_CHECKING:
    import datasets
    import pyarrow as pa


class Source:
    """A table that has been opened, but not yet read.

    `rows` are the table's rows that count, in order, or `None` for all of them;
    `features` are Hugging Face's descriptions of the columns, as far as there are any.
    """

    table: "pa.Table"
    features: dict[str, Any]
    rows: Int[np.ndarray, " rows"] | None

    def __init__(self, table, features, rows=None):
        self.table = table
        self.features = dict(features or {})
        self.rows = rows

    def __len__(self) -> int:
        return self.table.num_rows if self.rows is None else len(self.rows)

    @property
    def names(self) -> list[str]:
        return self.table.column_names

    def check(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.names:
                raise ValueError(
                    f"There is no column {name!r}; the columns are {self.names}."
                )

    def codes(self, name: str) -> tuple[list[str], Int[np.ndarray, " rows"]]:
        """The distinct values of a column as client ids, and each row's place."""
        self.check([name])
        column = self.table.column(name)
        import pyarrow as pa

        kind = column.type
        if pa.types.is_nested(kind):
            raise ValueError(
                f"The client column {name!r} holds {kind}; a client is told by a "
                "single value. Name another column in `by`."
            )
        if not pa.types.is_dictionary(kind):
            column = column.dictionary_encode()
        column = column.unify_dictionaries()
        values = column.chunk(0).dictionary.to_pylist() if column.num_chunks else []
        codes = [np.asarray(c.indices.fill_null(-1), np.int64) for c in column.chunks]
        codes = np.concatenate(codes) if codes else np.empty(0, np.int64)
        if self.rows is not None:
            codes = codes[self.rows]
        nulls = int(np.count_nonzero(codes < 0))
        if nulls > 0:
            raise ValueError(
                f"The client column {name!r} has {nulls} nulls among its {len(codes)} "
                "rows. Drop those rows (`dataset.filter(...)`), or fill in whom they "
                "belong to."
            )
        # Not every value of a dictionary need occur in the rows.
        used, codes = np.unique(codes, return_inverse=True)
        return rank_codes([as_id(values[i]) for i in used], codes.reshape(-1))

    def read(self, name: str, rows: Int[np.ndarray, " chosen"] | None = None) -> Column:
        """A column, or some of its rows in the order asked for."""
        self.check([name])
        if self.rows is not None:
            rows = self.rows if rows is None else self.rows[rows]
        column = self.table.column(name)
        feature = self.features.get(name)
        convert = _converter(name, column.type, feature)
        image = type(feature).__name__ == "Image"
        if rows is None:
            return _together(name, [convert(c) for c in column.chunks], image=image)
        # Rows are taken within a chunk, in stored order: no chunk is ever copied whole.
        starts = np.cumsum([0] + [len(c) for c in column.chunks])
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        bounds = ordered.searchsorted(starts)
        parts = []
        for i, chunk in enumerate(column.chunks):
            local = ordered[bounds[i] : bounds[i + 1]] - starts[i]
            if len(local) > 0:
                parts.append(_take(chunk, local, convert))
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        joined = _together(name, parts, image=image)
        if isinstance(joined, ChunkedColumn):
            return joined.take(back)
        return joined[back]


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


def _converter(name: str, kind, feature) -> Callable[[Any], np.ndarray]:
    import pyarrow as pa

    if type(feature).__name__ == "Image":
        return lambda chunk: _images(name, chunk, feature.mode)
    if pa.types.is_struct(kind) or pa.types.is_map(kind) or pa.types.is_union(kind):
        raise ValueError(
            f"Column {name!r} holds {kind}, which has no form as an array. Leave it "
            "out with `columns=...`, or flatten it first (`dataset.flatten()`)."
        )
    return lambda chunk: _array(name, chunk)


def _array(name: str, chunk) -> np.ndarray:
    import pyarrow as pa

    if isinstance(chunk, pa.ExtensionArray):
        chunk = chunk.storage
    kind = chunk.type
    if pa.types.is_dictionary(kind):
        return _array(name, chunk.dictionary_decode())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return chunk.to_numpy(zero_copy_only=False)
    if chunk.null_count > 0:
        raise ValueError(
            f"Column {name!r} has nulls: {chunk.null_count} among {len(chunk)} values. "
            "Fill them in, or drop those rows (`dataset.filter(...)`)."
        )
    if pa.types.is_fixed_size_list(kind):
        values = _array(name, chunk.flatten())
        return values.reshape(len(chunk), kind.list_size, *values.shape[1:])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        values = _array(name, chunk.flatten())
        cuts = np.asarray(chunk.offsets) - chunk.offsets[0].as_py()
        sizes = np.diff(cuts)
        if len(sizes) > 0 and (sizes == sizes[0]).all():
            return values.reshape(len(chunk), int(sizes[0]), *values.shape[1:])
        return _objects([values[a:b] for a, b in zip(cuts, cuts[1:], strict=False)])
    return chunk.to_numpy(zero_copy_only=False)


def _images(name: str, chunk, mode: str | None) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            f"Column {name!r} holds encoded images, and decoding them needs Pillow: "
            "`pip install 'equifed[images]'`."
        ) from error

    out = None
    for i, value in enumerate(chunk):
        value = value.as_py()
        if value is None:
            raise ValueError(
                f"Column {name!r} has nulls: image {i} is missing. Drop those rows "
                "(`dataset.filter(...)`)."
            )
        data = value["bytes"]
        with Image.open(
            io.BytesIO(data) if data is not None else value["path"]
        ) as file:
            target = mode or {"1": "L", "P": "RGB"}.get(file.mode, file.mode)
            image = np.asarray(file if file.mode == target else file.convert(target))
        if out is None:
            out = np.empty((len(chunk), *image.shape), image.dtype)
        if image.shape != out.shape[1:]:
            raise ValueError(
                f"Column {name!r} has images of different sizes: {out.shape[1:]} and "
                f"{image.shape}. Resize them first (`dataset.map(...)`)."
            )
        out[i] = image
    return np.empty(0, np.uint8) if out is None else out


def _take(chunk, local, convert) -> np.ndarray:
    import pyarrow as pa

    # Plain numbers are viewed, not copied, unless there are nulls among them: the rows
    # asked for may have none.
    values, nulls = chunk, chunk.null_count
    while pa.types.is_fixed_size_list(values.type):
        values = values.flatten()
        nulls += values.null_count
    kind = values.type
    if nulls == 0 and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return convert(chunk)[local]
    return convert(chunk.take(pa.array(local)))


def _together(name: str, chunks: list[np.ndarray], *, image: bool) -> Column:
    chunks = [c for c in chunks if len(c) > 0] or chunks[:1]
    if len(chunks) == 0:
        return np.empty(0, np.float32)
    if len({(c.dtype, c.shape[1:]) for c in chunks}) > 1:
        if image:
            raise ValueError(
                f"Column {name!r} has images of different sizes: "
                f"{sorted({c.shape[1:] for c in chunks})}. Resize them first "
                "(`dataset.map(...)`)."
            )
        chunks = [c if c.dtype == object else _objects(list(c)) for c in chunks]
    return chunks[0] if len(chunks) == 1 else ChunkedColumn(chunks)


def _objects(values: list) -> np.ndarray:
    out = np.empty(len(values), object)
    for i, value in enumerate(values):
        out[i] = value
    return out
