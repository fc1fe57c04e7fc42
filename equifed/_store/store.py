"""The states of all clients: what one begins with, whose were written since, and when.

Nothing is kept for a client until it takes part: what it then has is the initial state.
Every write has a number, and each client that of its last one, so that whoever saves
the store again and again need only write what came after the number that it knows.
"""

import abc
import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

from .._types import ClientState


Numbers = Int[np.ndarray, "_"]
"""Those of some clients."""
Slots = Int[Array | np.ndarray, "devices slots"]
Rows = Sequence[np.ndarray]
"""Of each leaf, the rows of some clients."""

_AT_ONCE = 1 << 24  # bytes that are read, compared or written at a time


class AbstractPlace(abc.ABC):
    """Where the rows lie."""

    name: str
    """What follows "they lie"."""

    @abc.abstractmethod
    def read(self, leaf: int, numbers: Numbers, out: np.ndarray) -> None:
        """Puts the rows of these clients into `out`, one after another."""

    @abc.abstractmethod
    def write(self, numbers: Numbers, rows: Rows) -> None:
        """Gives these clients, each of whom is there once, other rows."""

    @abc.abstractmethod
    def clear(self, initial: Rows) -> None:
        """Gives every client this row."""

    @abc.abstractmethod
    def copy(self) -> "AbstractPlace":
        """Another one with the same rows."""

    @abc.abstractmethod
    def begin(self, *, anew: bool = True) -> None:
        """Before a training writes here.

        **Arguments:**

        - `anew`: whether it begins with what every client begins with; or all rows are
            known, and written next.
        """

    @abc.abstractmethod
    def finish(self) -> None:
        """After it."""


class Store:
    """The states of all clients, in a place."""

    def __init__(
        self,
        one: ClientState,
        num_clients: int,
        make: Callable[["Store"], AbstractPlace],
    ):
        """**Arguments:**

        - `one`: what a client begins with.
        - `make`: makes the place, with that for every client.
        """
        leaves = jtu.tree_leaves_with_path(one)
        self.treedef = jtu.tree_structure(one)
        self.names = [jtu.keystr(path) for path, _ in leaves]
        self.initial = [np.asarray(x) for _, x in leaves]
        self.num_clients = num_clients
        self.written = np.zeros(num_clients, np.uint32)
        """The number of each client's last write; 0 if there was none."""
        self.writes = 0
        self.saved: dict[Any, Any] = {}
        """What those that save this store remember of it."""
        self.place = make(self)

    @property
    def row_bytes(self) -> int:
        """What one client keeps."""
        return sum(x.nbytes for x in self.initial)

    def read(self, leaf: int, numbers: Numbers) -> np.ndarray:
        """The rows of these clients."""
        like = self.initial[leaf]
        out = np.empty((len(numbers), *like.shape), like.dtype)
        self.place.read(leaf, numbers, out)
        return out

    def write(self, numbers: Numbers, rows: Rows) -> None:
        """Gives some clients other rows."""
        if len(numbers) == 0:
            return
        self.mark(numbers)
        self.place.write(numbers, rows)

    def mark(self, numbers: Numbers) -> None:
        """Remembers that these clients have been written."""
        self.writes += 1
        self.written[numbers] = self.writes

    def since(self, writes: int) -> Numbers:
        """Who was written after so many writes."""
        return np.flatnonzero(self.written > writes)

    def clear(self, initial: Rows) -> None:
        """All clients begin anew, with these."""
        self.initial = [np.asarray(x) for x in initial]
        self.written[:] = 0
        self.place.clear(self.initial)

    def copy(self) -> "Store":
        """Another one with the same rows."""
        new = copy.copy(self)
        new.place, new.saved = self.place.copy(), {}
        new.written = self.written.copy()
        return new

    def fill(self, arrays: Sequence[Any]) -> None:
        """Gives all clients the rows of whole arrays. What is as at the beginning is
        not written."""
        # On a device each part would be a program of its own.
        arrays = [np.asarray(x) if isinstance(x, jax.Array) else x for x in arrays]
        for part in chunks(np.arange(self.num_clients), self.row_bytes):
            rows = [np.asarray(x[part[0] : part[-1] + 1]) for x in arrays]
            differs = np.zeros(len(part), bool)
            for x, like in zip(rows, self.initial, strict=True):
                differs |= (as_bytes(x) != as_bytes(like[None])).any(1)
            self.write(part[differs], [x[differs] for x in rows])


class AbstractMover(abc.ABC):
    """Brings rows to the slots of a round, and what came of them back."""

    waits: ClassVar[bool]
    """Whether `put` waits for the end of the round."""

    @property
    @abc.abstractmethod
    def states(self) -> ClientState:
        """The states of all clients, as a `State` has them."""

    @abc.abstractmethod
    def take(self, index: Slots) -> ClientState:
        """The states of a round's slots, along the devices; an empty one has the last
        client's."""

    @abc.abstractmethod
    def put(self, index: Slots, slots: ClientState, accept: Bool[Array, ""]) -> None:
        """Keeps what a round returned, if it is accepted."""

    @abc.abstractmethod
    def ahead(self, index: Slots) -> None:
        """Tells whose rows the next round has, while one is running."""


def as_bytes(x: np.ndarray) -> np.ndarray:
    """The rows of an array, each as bytes."""
    size = x.dtype.itemsize * int(np.prod(x.shape[1:]))
    return np.ascontiguousarray(x).view(np.uint8).reshape(len(x), size)


def chunks(numbers: Numbers, row_bytes: int) -> list[Numbers]:
    """The clients, in parts whose rows are not too many to hold in memory."""
    size = max(_AT_ONCE // max(row_bytes, 1), 1)
    return [numbers[i : i + size] for i in range(0, len(numbers), size)]


def copy_rows(
    out: np.ndarray, places: Numbers, x: np.ndarray, numbers: Numbers
) -> None:
    """`out[places] = x[numbers]`, without a second copy of long rows."""
    if x.ndim == 0 or x[:1].nbytes < 4096:
        out[places] = x[numbers]
        return
    for place, number in zip(places.tolist(), numbers.tolist(), strict=True):
        out[place] = x[number]


def check_numbers(one: PyTree) -> None:
    """Refuses what NumPy does not hold: random keys."""
    for path, x in jtu.tree_leaves_with_path(one):
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            raise ValueError(
                f"What each client keeps has random keys (`{jtu.keystr(path)}`), which "
                "lie on a device only. Leave out `client_states`, or give "
                "`client_states='device'`."
            )
