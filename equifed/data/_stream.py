"""Datasets too large for memory: clients that come by once, in a stream.

A stream has no random access, so a cohort is whoever comes next. The file must be
grouped by client; a buffer of clients is shuffled so that neighbours in the file need
not meet. How many clients there are is not known, so algorithms that keep something
for each client cannot be used.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TYPE_CHECKING

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Shaped

from .._check import check_count, check_seed, checked
from .._cohort import Cohort
from .._words import shown
from ._arrays import as_arrays, check_columns, check_function
from ._batching import AbstractBatching
from ._build import common_rows
from ._cohorts import AbstractLoader
from ._column import check_names
from ._placement import check_numeric, make_cohort, Placement
from ._plan import make_plan
from ._prefetch import prefetched
from ._random import generator, shuffle_buffer, STREAM
from ._read import arrow_batches, check_stream, Converter, joined_chunks, Source
from ._whose import check_alike, failed


if TYPE_CHECKING:
    import datasets


Examples = dict[str, Shaped[np.ndarray, "_ ..."]]


class StreamedClient(NamedTuple):
    """A client of a stream."""

    number: int
    """Its place in the stream, from 0."""
    client_id: str
    examples: Examples

    @property
    def num_examples(self) -> int:
        return len(next(iter(self.examples.values())))


class ClientStream:
    """The clients of a Hugging Face `IterableDataset`, one after the other.

    Iterating goes through the whole stream once, and may be repeated.

    !!! example

        ```python
        rows = datasets.load_dataset(
            "parquet", data_files="by_client.parquet", split="train", streaming=True
        )
        stream = ClientStream(rows, by="client_id")
        for client in stream:
            print(client.client_id, client.num_examples)
        ```
    """

    dataset: "datasets.IterableDataset"
    by: str
    columns: tuple[str, ...] | None

    def __init__(
        self,
        dataset: "datasets.IterableDataset",
        *,
        by: str,
        columns: Sequence[str] | None = None,
        transform: Callable[[str, Examples], Mapping[str, np.ndarray]] | None = None,
    ):
        """**Arguments:**

        - `dataset`: A stream in which each client's rows are adjacent.
        - `by`: The column that says whose an example is.
        - `columns`: The columns to keep. By default all but the client column.
        - `transform`: Applied to each client's id and examples, as in
            `FederatedDataset.map_clients`.
        """
        if not isinstance(by, str):
            raise TypeError(
                f"`by` must be the name of a column, got {shown(by)}. A stream cannot "
                "be partitioned, as it is never seen as a whole."
            )
        check_stream(dataset)
        if transform is not None:
            check_function("transform", transform)
        if dataset.features is not None:
            check_names((by,), dataset.features)
        self.dataset = dataset
        self.by = by
        if columns is not None:
            columns = tuple(check_columns("columns", columns))
        self.columns = columns
        self.transform = transform

    def __iter__(self) -> Iterator[StreamedClient]:
        seen: set[str] = set()
        for number, (client_id, pieces) in enumerate(self._clients()):
            if client_id in seen:
                raise ValueError(
                    f"The stream is not grouped by {self.by!r}: client {client_id!r} "
                    "comes back after another one. Sort the file by client first."
                )
            seen.add(client_id)
            # Lists of one length in one batch, and of another in the next, are ragged.
            examples = {
                name: np.asarray(joined_chunks([piece[name] for piece in pieces]))
                for name in pieces[0]
            }
            if self.transform is not None:
                try:
                    new = self.transform(client_id, examples)
                except Exception as error:
                    what = f"`transform` of client {client_id!r}"
                    raise failed(what, error) from error
                whose = f" of client {client_id!r}"
                examples = as_arrays(new, f"What `transform` returns{whose}", whose)
            common_rows(examples, f" of client {client_id!r}")
            yield StreamedClient(number, client_id, examples)

    def _clients(self) -> Iterator[tuple[str, list[Examples]]]:
        names = None if self.columns is None else list({*self.columns, self.by})
        current, pieces, row = None, [], 0
        converters: dict[str, Converter] = {}
        for table in arrow_batches(self.dataset, names, self.by):
            source = Source(table, self.dataset.features, first=row)
            row += len(table)
            ids, codes = source.codes(self.by)
            kept = self.columns or [n for n in source.names if n != self.by]
            owner = lambda row: ids[codes[row]]  # noqa: B023, E731
            columns = {
                name: np.asarray(source.read(name, owner=owner, converters=converters))
                for name in kept
            }
            cuts = np.flatnonzero(codes[1:] != codes[:-1]) + 1
            starts, stops = [0, *cuts.tolist()], [*cuts.tolist(), len(codes)]
            for start, stop in zip(starts, stops, strict=True):
                if stop == start:
                    continue
                client_id = ids[codes[start]]
                if client_id != current:
                    if current is not None:
                        yield current, pieces
                    current, pieces = client_id, []
                pieces.append({n: c[start:stop] for n, c in columns.items()})
        if current is not None:
            yield current, pieces


class StreamLoader(AbstractLoader):
    """Makes cohorts of the clients of a stream, in the order in which they come.

    Each pass over the stream visits every client exactly once; its last cohort has
    fewer clients if `cohort_size` does not divide their number. Passes follow each
    other without end, each shuffled anew. A client's number is its place in the
    stream.

    There is no random access: to begin at a later round, the rounds before it are
    skipped, which reads but does not build them.
    """

    stream: ClientStream
    cohort_size: int
    batching: AbstractBatching
    mesh: Mesh | None
    seed: int
    buffer_size: int
    prefetch: int

    @checked(
        stream="Write `ClientStream(dataset, by=...)` of a stream's client column.",
        batching="Write `Epochs(1, batch_size=20)`, for example.",
    )
    def __init__(
        self,
        stream: ClientStream,
        cohort_size: int,
        batching: AbstractBatching,
        *,
        buffer_size: int = 1000,
        seed: int = 0,
        mesh: Mesh | None = None,
        prefetch: int = 2,
    ):
        """**Arguments:**

        - `stream`: The clients.
        - `cohort_size`: The number of clients in a round.
        - `batching`: How a client visits its examples: `algorithm.batching`.
        - `buffer_size`: Each client is drawn from a buffer of so many; with 1 they
            come in the stream's order.
        - `seed`: The seed of the buffer's draws and of the clients' orders.
        - `mesh`: The devices that share a round, along the axis `clients`.
        - `prefetch`: How many cohorts are made ahead, in a thread.
        """
        self.stream = stream
        self.cohort_size = check_count("cohort_size", cohort_size)
        self.batching = batching
        self.buffer_size = check_count("buffer_size", buffer_size)
        self.seed = check_seed(seed)
        self.prefetch = check_count("prefetch", prefetch, least=0)
        self._placement = Placement(mesh)
        self.mesh = self._placement.mesh
        # The clients of the last few rounds, for what is said of them.
        self._recent: dict[int, list[StreamedClient]] = {}

    @property
    def num_clients(self) -> None:
        """Not known."""
        return None

    @property
    def num_devices(self) -> int:
        return self._placement.num_devices

    def cohorts(
        self, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, Cohort]]:
        """Makes the cohorts of successive rounds, ahead of their use.

        **Arguments:**

        - `start`: The first round.
        - `stop`: The round to stop before. By default there is no end.

        **Returns:**

        An iterator of pairs of a round's number and its cohort.
        """
        start = check_count("start", start, least=0)
        stop = None if stop is None else check_count("stop", stop, least=0)
        return prefetched(self._cohorts(start, stop), self.prefetch)

    def _cohorts(self, start: int, stop: int | None) -> Iterator[tuple[int, Cohort]]:
        for round, clients in enumerate(self._groups()):
            if stop is not None and round >= stop:
                return
            if round >= start:
                self._recent[round] = clients
                self._recent.pop(round - self.prefetch - 3, None)
                yield round, self._cohort(round, clients)

    def _groups(self) -> Iterator[list[StreamedClient]]:
        number = 0
        while True:
            rng = generator(self.seed, STREAM, number)
            group, empty = [], True
            for client in shuffle_buffer(self.stream, self.buffer_size, rng):
                group, empty = [*group, client], False
                if len(group) == self.cohort_size:
                    yield group
                    group = []
            if group:
                yield group
            if empty:
                raise ValueError("The dataset is empty: its stream has no clients.")
            number += 1

    def _cohort(self, round: int, clients: list[StreamedClient]) -> Cohort:
        columns = clients[0].examples

        def whose(place: int) -> str:
            return f"client {clients[place].client_id!r}"

        for i, client in enumerate(clients):
            check_numeric(client.examples, f" of {whose(i)}")
            check_alike(client.examples, columns, whose(i), whose(0))

        plan = make_plan(
            np.array([client.number for client in clients]),
            np.array([client.num_examples for client in clients]),
            None,
            self.batching,
            seed=self.seed,
            round=round,
            num_devices=self.num_devices,
            num_clients=None,
            max_slots=self.cohort_size,
            whose=whose,
        )
        pools = self._placement.pools(
            columns, lambda name, place: clients[place].examples[name], plan, whose
        )
        return make_cohort(plan, pools, self._placement)
