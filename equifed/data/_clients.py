"""Reading examples that have owners.

The rows of all clients lie end to end, in columns; client `i` owns the rows
`offsets[i]:offsets[i + 1]` of each. So reading a client is slicing, the whole set can
be put on a device as it is, and one that is memory-mapped is never copied.
"""

import abc
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import overload, TypeAlias, TypeVar

import jax
import numpy as np
from jaxtyping import Bool, Int, Shaped

from .._check import check_count, check_kind
from .._words import shown
from ._arrays import as_numbers
from ._column import Column


# Client ids, or client numbers, or one boolean for each client.
Selection: TypeAlias = (
    Sequence[str]
    | Sequence[int]
    | range
    | Int[np.ndarray, " selected"]
    | Bool[np.ndarray, " clients"]
)
Clients = TypeVar("Clients", bound="AbstractClients")


class AbstractClients(abc.ABC):
    """The clients of a set of examples, each told by its number and by its id."""

    columns: dict[str, Column]
    offsets: Int[np.ndarray, " bounds"]
    client_ids: list[str]

    @abc.abstractmethod
    def select(self: Clients, clients: Selection) -> Clients:
        """Keeps some of the clients, in the order given."""

    @property
    def num_clients(self) -> int:
        return len(self.client_ids)

    @property
    def num_examples(self) -> int:
        return int(self.offsets[-1])

    @property
    def client_sizes(self) -> Int[np.ndarray, " clients"]:
        """The number of examples of each client."""
        return np.diff(self.offsets)

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self.columns.values())

    @property
    def example(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shape and dtype of one example, as a device will see it."""
        return {
            name: jax.ShapeDtypeStruct(
                column.shape[1:], jax.dtypes.canonicalize_dtype(column.dtype)
            )
            for name, column in self.columns.items()
        }

    def client(self, index: int) -> dict[str, Shaped[np.ndarray, "_ ..."]]:
        """The examples of the client with this number.

        **Arguments:**

        - `index`: A client number, from 0 to `num_clients - 1`.

        **Returns:**

        `{column: array}`, with one row for each of the client's examples.
        """
        if isinstance(index, str):
            raise TypeError(
                f"`index` must be a client's number, got {shown(index)}. For a "
                "client's id use `dataset[client_id]`."
            )
        index = check_count("index", index, least=None)
        check_numbers([index], self.num_clients)
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        return {name: column[start:stop] for name, column in self.columns.items()}

    def index(self, client_id: str) -> int:
        """The number of the client with this id."""
        check_kind("client_id", client_id, str, "Client ids are text.")
        number = self._number_of.get(client_id)
        if number is None:
            some = ", ".join(map(repr, self.client_ids[:5]))
            raise ValueError(
                f"There is no client {shown(client_id)} among the {self.num_clients}: "
                f"{some}{', ...' if self.num_clients > 5 else ''}."
            )
        return number

    @overload
    def __getitem__(self, client_id: str) -> dict[str, Shaped[np.ndarray, "_ ..."]]: ...

    @overload
    def __getitem__(self: Clients, client_id: slice) -> Clients: ...

    def __getitem__(self, client_id) -> object:
        """The examples of one client by its id, or with a slice, some of the clients
        by their numbers."""
        if isinstance(client_id, slice):
            return self.select(range(*client_id.indices(self.num_clients)))
        if not isinstance(client_id, str):
            raise TypeError(
                "A dataset is indexed by client ids, which are strings, got "
                f"{shown(client_id)}. For a client's number use "
                "`dataset.client(number)`."
            )
        return self.client(self.index(client_id))

    def items(self) -> Iterator[tuple[str, dict[str, Shaped[np.ndarray, "_ ..."]]]]:
        """Each client's id and examples, in the order of the clients.

        **Returns:**

        An iterator over pairs of an id and `{column: array}`, with one row for each of
        the client's examples, as [`equifed.data.FederatedDataset.client`][] gives
        them: they are read when their turn comes.
        """
        return ((c, self.client(i)) for i, c in enumerate(self.client_ids))

    def __len__(self) -> int:
        return self.num_clients

    def __iter__(self) -> Iterator[str]:
        return iter(self.client_ids)

    def __contains__(self, client_id: object) -> bool:
        return client_id in self._number_of

    def __repr__(self) -> str:
        sizes = self.client_sizes
        lines = [
            f"clients: {self.num_clients}",
            f"examples: {self.num_examples} ({sizes.min()} to {sizes.max()} a client)",
        ]
        for name, column in self.columns.items():
            shape = ", ".join(map(str, column.shape[1:]))
            lines.append(f"{name}: {column.dtype}[{shape}]")
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"

    @functools.cached_property
    def _number_of(self) -> dict[str, int]:
        return {client_id: i for i, client_id in enumerate(self.client_ids)}

    def _numbers(self, clients: Selection) -> Int[np.ndarray, " selected"]:
        """The numbers of the clients that were asked for, one way or another."""
        if isinstance(clients, str | Mapping) or not isinstance(clients, Iterable):
            raise TypeError(
                "`clients` must be a list of client ids or of client numbers, got "
                f"{shown(clients)}. Of a single client write a list of one."
            )
        given = clients if isinstance(clients, np.ndarray) else list(clients)
        if len(given) == 0:
            raise ValueError("`clients` is empty; select at least one client.")
        if _are_flags(given):
            numbers = self._masked(np.asarray(given, bool))
        else:
            numbers = [self.index(c) if isinstance(c, str) else c for c in given]
            numbers = check_numbers(numbers, self.num_clients)
        twice = np.flatnonzero(np.bincount(numbers) > 1)
        if len(twice) > 0:
            raise ValueError(
                f"`clients` has client {self.client_ids[twice[0]]!r} more than once, "
                "and a dataset has each client once. Drop the repetitions, or draw "
                "with them (`WeightedSampler(..., replace=True)`)."
            )
        return numbers

    def _masked(self, mask: Bool[np.ndarray, " _"]) -> Int[np.ndarray, " selected"]:
        if len(mask) != self.num_clients:
            raise ValueError(
                f"`clients` has {len(mask)} booleans for {self.num_clients} clients; a "
                "mask has one for each. For clients by number write their numbers."
            )
        if not mask.any():
            raise ValueError("`clients` has no True; select at least one client.")
        return np.flatnonzero(mask)


def check_numbers(clients: object, num_clients: int) -> Int[np.ndarray, " selected"]:
    """Client numbers as an array, if they are those of clients."""
    numbers = as_numbers(clients)
    if numbers is None:
        raise TypeError(
            "`clients` must be client ids, or client numbers, which are integers, got "
            f"{shown(clients)}."
        )
    outside = numbers[(numbers < 0) | (numbers >= num_clients)]
    if len(outside) > 0:
        raise ValueError(
            f"There is no client number {outside[0]}; they go from 0 to "
            f"{num_clients - 1}."
        )
    return numbers


def _are_flags(values: np.ndarray | list) -> bool:
    if isinstance(values, np.ndarray):
        return values.dtype == bool
    return all(isinstance(value, bool | np.bool_) for value in values)
