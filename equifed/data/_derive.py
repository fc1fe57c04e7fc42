"""Datasets that are made from a dataset: some of its clients, of its examples or of its
columns, or others in their place.

The methods are thin. Which clients and examples are meant is in `_chosen.py` and
`_split.py`, and how what a function returns is put together in `_build.py`.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Int

from .._check import check_count, check_kind
from . import _build
from ._arrays import check_columns, check_function
from ._chosen import chosen_clients
from ._clients import AbstractClients, Selection
from ._column import check_names, Column, gather, take
from ._partition import AbstractPartition, Partitioner
from ._split import random_clients, random_fraction, random_rows


Dataset = TypeVar("Dataset", bound="AbstractDataset")


class AbstractDataset(AbstractClients):
    """A set of examples with owners, of which others can be made."""

    @abc.abstractmethod
    def _with(
        self: Dataset,
        columns: Mapping[str, Column],
        offsets: Int[np.ndarray, " bounds"],
        client_ids: Sequence[str],
    ) -> Dataset:
        """A dataset of this kind, with these parts."""

    # Some of the clients.

    def select(self: Dataset, clients: Selection) -> Dataset:
        """Keeps some of the clients, in the order given.

        **Arguments:**

        - `clients`: Client ids, or client numbers, or one boolean for each client.
        """
        numbers = self._numbers(clients)
        starts, stops = self.offsets[numbers], self.offsets[numbers + 1]
        columns = {n: gather(c, starts, stops) for n, c in self.columns.items()}
        offsets = np.append(0, np.cumsum(stops - starts))
        return self._with(columns, offsets, [self.client_ids[i] for i in numbers])

    def filter(
        self: Dataset,
        keep: Callable[[str, dict[str, np.ndarray]], bool] | None = None,
        *,
        min_examples: int = 0,
    ) -> Dataset:
        """Keeps the clients that meet a condition, in their order.

        Nothing is copied: the columns of what is kept are views of these.

        **Arguments:**

        - `keep`: Takes a client's id and its examples, `{column: array}` with one row
            for each, and returns whether to keep it. Of the examples, what `keep` does
            not look at is not read, where they are memory-mapped.
        - `min_examples`: The fewest examples that a client may have. One that has
            fewer is left out, and `keep` is not asked.

        **Raises:**

        `ValueError` if no client is left, for there is no dataset without one.
        """
        return self.select(chosen_clients(self, keep, min_examples))

    def split_clients(
        self: Dataset, held_out: float | int, *, seed: int = 0
    ) -> tuple[Dataset, Dataset]:
        """Splits the clients at random into seen and unseen ones.

        **Arguments:**

        - `held_out`: The unseen clients: how many, or a fraction of all (rounded to the
            nearest number, halves up).
        - `seed`: The seed of the split.

        **Returns:**

        The dataset of the seen and that of the unseen clients, each in this one's
        order.
        """
        unseen = random_clients(self.num_clients, held_out, seed)
        return self.select(~unseen), self.select(unseen)

    # Some of the examples.

    def split_examples(
        self: Dataset, held_out: float, *, stratify: str | None = None, seed: int = 0
    ) -> tuple[Dataset, Dataset]:
        """Splits each client's examples at random into training and test examples.

        The split of a client depends on its id and the seed, and on no other client.
        The two datasets have the same clients, with the same numbers; a client with
        one example keeps it for training. The rows of both are copied.

        **Arguments:**

        - `held_out`: The fraction of each client's examples that go to the test set,
            rounded to the nearest number, halves up.
        - `stratify`: A column of labels, single values, whose proportions both parts of
            each client keep. The sizes of the parts are the same as without: of a
            client's `n` examples, of which `n_l` have the label `l`, `t` are held out,
            and `t * n_l / n` of that label, rounded down, or up where the remainder is
            among the largest; which of equal ones comes first is drawn.
        - `seed`: The seed of the split.

        **Returns:**

        The training and the test set.
        """
        test = random_fraction(self, held_out, seed, stratify)
        return self._keep(~test), self._keep(test)

    def split_first(self: Dataset, num_examples: int) -> tuple[Dataset, Dataset]:
        """Splits off each client's first examples, in the order that they have: what
        one who joins has seen so far, say.

        The two datasets have the same clients, with the same numbers. One with no more
        examples than that has none in the second.

        **Arguments:**

        - `num_examples`: How many of each client come first.

        **Returns:**

        The first examples, and the rest.

        **Raises:**

        `ValueError` if no client has any more.
        """
        count = check_count("num_examples", num_examples)
        if count >= self.client_sizes.max():
            raise ValueError(
                f"`num_examples` is {count}, which leaves no example of any client: "
                f"the largest has {self.client_sizes.max()}. Take fewer."
            )
        starts = np.repeat(self.offsets[:-1], self.client_sizes)
        first = np.arange(len(starts)) + self.offsets[0] - starts < count
        return self._keep(first), self._keep(~first)

    def max_examples(self: Dataset, num_examples: int, *, seed: int = 0) -> Dataset:
        """Keeps at most so many random examples of each client.

        **Arguments:**

        - `num_examples`: The most examples that a client may keep.
        - `seed`: The seed of the choice.
        """
        limit = check_count("num_examples", num_examples)
        counts = np.minimum(self.client_sizes, limit)
        return self._keep(random_rows(self, counts, seed))

    def repartition(
        self: Dataset, partition: AbstractPartition | Partitioner
    ) -> Dataset:
        """Deals the examples of all clients to new ones.

        All columns are kept. Where the partition gives each client rows that are
        adjacent, they are views of these; otherwise the rows are copied into memory.

        **Arguments:**

        - `partition`: Whose an example is to be. It is given the rows of all clients,
            in the order of the clients.
        """
        layout = _build.dealt(self.columns, self.num_examples, partition)
        columns = {n: layout.lay(c) for n, c in self.columns.items()}
        return self._with(columns, layout.offsets, layout.client_ids)

    def pooled(self: Dataset, client_id: str = "all") -> Dataset:
        """Gives all examples to one client, for a baseline without federation.

        Nothing is copied. A round of `FedAvg` with this one client is then so many
        steps of its optimiser over all examples, which come in a new order each epoch.
        For a loop of your own over batches see [`equifed.data.batches`][].

        **Arguments:**

        - `client_id`: What the client is called.
        """
        check_kind("client_id", client_id, str, "Client ids are text.")
        return self._with(self.columns, np.array([0, self.num_examples]), [client_id])

    def _keep(self: Dataset, keep: Bool[np.ndarray, " rows"]) -> Dataset:
        if keep.all():
            return self
        rows = np.flatnonzero(keep)
        columns = {name: take(c, rows) for name, c in self.columns.items()}
        offsets = rows.searchsorted(self.offsets)
        return self._with(columns, offsets, self.client_ids)

    # Other columns.

    def select_columns(self: Dataset, names: Sequence[str]) -> Dataset:
        """Keeps some of the columns."""
        names = check_columns("names", names)
        check_names(names, self.columns)
        columns = {name: self.columns[name] for name in names}
        return self._with(columns, self.offsets, self.client_ids)

    def rename(self: Dataset, names: Mapping[str, str]) -> Dataset:
        """Renames columns, by a mapping of old names to new ones."""
        check_kind("names", names, Mapping, "Write `{old: new}`.")
        for new in names.values():
            check_kind("names", new, str)
        check_names(names, self.columns)
        columns = {names.get(name, name): c for name, c in self.columns.items()}
        if len(columns) < len(self.columns):
            raise ValueError(f"Renaming by {dict(names)} gives two columns one name.")
        return self._with(columns, self.offsets, self.client_ids)

    def map(
        self: Dataset, fn: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]
    ) -> Dataset:
        """Transforms the columns of all clients at once.

        **Arguments:**

        - `fn`: Takes `{column: array}` with the rows of all clients and returns the
            new columns, with the same number of rows.
        """
        check_function("fn", fn)
        old = {name: np.asarray(column) for name, column in self.columns.items()}
        columns = _build.mapped(fn(old), self.num_examples)
        return self._with(columns, self.offsets, self.client_ids)

    def map_clients(
        self: Dataset,
        fn: Callable[[str, dict[str, np.ndarray]], Mapping[str, np.ndarray]],
    ) -> Dataset:
        """Transforms the examples of each client in turn.

        **Arguments:**

        - `fn`: Takes a client's id and its examples, `{column: array}`, and returns
            its new examples, of which there may be more, fewer, or none.

        **Raises:**

        `ValueError` if the columns, the shapes of a row or the dtypes that `fn` returns
        for two clients differ.
        """
        check_function("fn", fn)
        pairs = _build.mapped_clients(fn, self.client_ids, self.client)
        return self._with(*_build.from_clients(pairs, "What `fn` returns"))
