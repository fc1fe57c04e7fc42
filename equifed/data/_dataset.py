"""A set of examples with owners: building one, joining several, and saving one.

The methods are thin. How a dataset is built is in `_build.py` and `_concatenate.py`,
how it is read in `_clients.py`, what is made from it in `_derive.py`, and how it is
saved in `_write.py`.
"""

import os
from collections.abc import Mapping, Sequence
from typing import final, TYPE_CHECKING

import numpy as np
from jaxtyping import Int, Shaped

from . import _build
from ._column import Column, protect
from ._concatenate import joined
from ._derive import AbstractDataset
from ._partition import AbstractPartition, Partitioner
from ._read import open_huggingface, open_parquet
from ._write import write_parquet


if TYPE_CHECKING:
    import datasets


@final
class FederatedDataset(AbstractDataset):
    """Examples in columns, each example owned by one client.

    A dataset is never changed: every method returns a new one, which shares the
    memory of this one as far as it can. The arrays that it hands out are read-only.

    Build one with `from_huggingface`, `from_parquet`, `from_mapping` or `from_arrays`.
    Clients are numbered from 0 in the natural order of their ids (`"writer2"` comes
    before `"writer10"`), whatever the order of the rows, and keep the rows' order
    among their own. Where a partition is meant, a partitioner of `flwr_datasets` will
    do that has no dataset yet: its partitions are the clients.

    !!! example

        ```python
        dataset = FederatedDataset.from_parquet("train.parquet", by="writer")
        seen, unseen = dataset.split_clients(0.1, seed=0)
        images = seen["writer3"]["image"]
        ```
    """

    def __init__(
        self,
        columns: Mapping[str, Column],
        offsets: Int[np.ndarray, " bounds"],
        client_ids: Sequence[str],
    ):
        """**Arguments:**

        - `columns`: The columns, all with the same number of rows, sorted by client.
        - `offsets`: Client `i` owns the rows `offsets[i]:offsets[i + 1]`.
        - `client_ids`: The name of each client.

        **Raises:**

        `ValueError` if these do not fit together, or if there is nothing in them.
        """
        parts = _build.checked_parts(columns, offsets, client_ids)
        self.columns = {name: protect(c) for name, c in parts[0].items()}
        self.offsets, self.client_ids = parts[1:]

    # From other forms.

    @classmethod
    def from_huggingface(
        cls,
        dataset: "datasets.Dataset | datasets.IterableDataset",
        *,
        by: str | AbstractPartition | Partitioner,
        columns: Sequence[str] | None = None,
    ) -> "FederatedDataset":
        """Builds from a dataset of the Hugging Face `datasets` library.

        A `Dataset` in which each client's rows are adjacent stays where it is, memory
        mapped; any other is read once, sorted by client. An `IterableDataset` is read
        into memory; for one that does not fit there see
        [`equifed.data.StreamLoader`][]. Class labels are integers, and dtypes are kept:
        `uint8` stays `uint8`, whatever container a format (`with_format`) would give.

        Encoded images are decoded as `np.asarray(dataset[i]["image"])` is, with its
        orientation and in its mode; they need one mode and one size
        (`datasets.Image(mode="RGB")` converts them). Only images whose bytes are in the
        dataset are decoded: a path in it may name any file, and is not opened.

        **Arguments:**

        - `dataset`: One split.
        - `by`: The column that says whose an example is, or a partition.
        - `columns`: The columns to keep. By default all but the client column, of
            those that the dataset's format shows.

        **Raises:**

        `ValueError` if a column is missing, holds nulls or structures, or changes in
        the midst of a stream, with the row and the client; or if the dataset has a
        transform, or a format that changes values.
        """
        columns, needed = _build.wanted(columns, by)
        owner = by if isinstance(by, str) else None
        source = open_huggingface(dataset, needed, owner)
        return cls(*_build.from_source(source, by, columns))

    @classmethod
    def from_parquet(
        cls,
        files: str | os.PathLike | Sequence[str | os.PathLike],
        *,
        by: str | AbstractPartition | Partitioner,
        columns: Sequence[str] | None = None,
    ) -> "FederatedDataset":
        """Builds from parquet files, read into memory.

        A file that [`equifed.data.FederatedDataset.to_parquet`][] wrote gives the
        dataset that was saved, with its clients in their order and those without
        examples among them, where `by` is the column of its client ids.

        **Arguments:**

        - `files`: One or more paths, or patterns such as `"train-*.parquet"`. What
            there is by that very name is no pattern.
        - `by`: The column that says whose an example is, or a partition.
        - `columns`: The columns to keep. By default all but the client column.

        **Raises:**

        `ValueError` if a file is damaged or differs in its columns from the first one.
        """
        columns, needed = _build.wanted(columns, by)
        return cls(*_build.from_source(open_parquet(files, needed), by, columns))

    @classmethod
    def from_mapping(
        cls,
        clients: Mapping[str, Mapping[str, Shaped[np.ndarray, "..."]]]
        | Mapping[int, Mapping[str, Shaped[np.ndarray, "..."]]],
    ) -> "FederatedDataset":
        """Builds from one dictionary of arrays for each client.

        **Arguments:**

        - `clients`: `{client id: {column: array}}`. The arrays of a client have one
            row for each of its examples.

        **Raises:**

        `ValueError` if the columns, the shapes of a row or the dtypes of two clients
        differ, or if a client's columns have different numbers of rows.
        """
        return cls(*_build.from_mapping(clients))

    @classmethod
    def from_arrays(
        cls,
        columns: Mapping[str, Shaped[np.ndarray, "..."]],
        by: str
        | AbstractPartition
        | Partitioner
        | Shaped[np.ndarray, " examples"]
        | Sequence,
    ) -> "FederatedDataset":
        """Builds from arrays that hold the examples of all clients.

        **Arguments:**

        - `columns`: `{column: array}`, with one row for each example.
        - `by`: The client id of each example, or the name of the column that holds
            them, or a partition.
        """
        return cls(*_build.from_arrays(columns, by))

    @classmethod
    def concatenate(
        cls,
        datasets: "Sequence[FederatedDataset]",
        *,
        prefixes: Sequence[str] | None = None,
    ) -> "FederatedDataset":
        """Joins datasets: the clients of the first, then of the second, and so on.

        Nothing is copied, and what is memory-mapped stays so: a column is a
        [`equifed.data.ChunkedColumn`][] of those that it is made of. Text of different
        widths (`<U3` and `<U5`) is the exception, which is copied into the wider one.

        !!! example

            ```python
            everybody = FederatedDataset.concatenate([seen, unseen])
            both = FederatedDataset.concatenate([here, there], prefixes=["a/", "b/"])
            ```

        **Arguments:**

        - `datasets`: One or more, with the same columns. Those are in the order of the
            first.
        - `prefixes`: A text for each dataset, put before the ids of its clients. Write
            some where two datasets have clients of one name.

        **Raises:**

        `ValueError` if two datasets have a client of the same id, or differ in their
        columns, a dtype, or the shape of a row; it says which two.
        """
        return cls(*joined(datasets, prefixes))

    # To another form.

    def to_parquet(self, path: str | os.PathLike, *, by: str = "client_id") -> None:
        """Saves to a parquet file, from which `from_parquet(path, by="client_id")`
        reads the same dataset, to the bit.

        Ids, the order of the clients, those without examples, dtypes and the shapes of
        rows are kept. The rows are written some at a time: beside the dataset itself
        the memory needed does not grow with it, and what is memory-mapped is never
        read whole. The file is there once it is complete: until then one of this name
        stays as it was, and so it does if anything goes wrong.

        Rows of numbers become (nested) lists of a fixed size, text and bytes are what
        they are, so that other programs can read the file too.

        **Arguments:**

        - `path`: The file, in a folder that is there. One of this name is replaced.
        - `by`: The name of the column of client ids.

        **Raises:**

        `ValueError` if a column holds what a parquet file does not: complex numbers,
        structures, rows of no values, or objects that are neither text, bytes nor
        one-dimensional arrays of one dtype.
        """
        write_parquet(self, path, by)

    def _with(
        self,
        columns: Mapping[str, Column],
        offsets: Int[np.ndarray, " bounds"],
        client_ids: Sequence[str],
    ) -> "FederatedDataset":
        return FederatedDataset(columns, offsets, client_ids)
