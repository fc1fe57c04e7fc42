"""The rows of a round's slots, on their way to the devices and back.

While a round is running, the rows of the next one are read in a thread, except those
that both have: these are read when the round has written them.
"""

from concurrent.futures import Future, ThreadPoolExecutor

import jax
import jax.tree_util as jtu
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool

from .._cohort import NO_CLIENT
from .._mesh import AXIS
from .._types import ClientState
from .device import DeviceMover
from .rows import rows_of, store_of
from .spread import SpreadMover, SpreadPlace
from .store import AbstractMover, Numbers, Slots, Store


class HostMover(AbstractMover):
    """For rows that the host reads and writes."""

    waits = True

    def __init__(self, store: Store, mesh: Mesh | None, *, writes: bool):
        self._store, self._writes = store, writes
        self._to = None
        if mesh is not None:
            self._to = NamedSharding(mesh, PartitionSpec(AXIS))
        self._running = np.zeros(0, np.int64)
        self._ahead: _Read | None = None

    @property
    def states(self) -> ClientState:
        return rows_of(self._store)

    def take(self, index: Slots) -> ClientState:
        numbers = self._numbers(index)
        read, self._ahead = self._ahead, None
        if read is None or not np.array_equal(read.numbers, numbers):
            read = _Read(self._store, numbers, np.zeros(0, np.int64))
            read.do()
        rows = read.result()
        self._running = np.unique(numbers)
        shaped = [x.reshape(*index.shape, *x.shape[1:]) for x in rows]
        return jtu.tree_unflatten(self._store.treedef, jax.device_put(shaped, self._to))

    def ahead(self, index: Slots) -> None:
        self._ahead = _Read(self._store, self._numbers(index), self._running)
        self._ahead.future = _reader().submit(self._ahead.do)

    def put(self, index: Slots, slots: ClientState, accept: Bool[Array, ""]) -> None:
        if not self._writes or not bool(accept):
            return
        flat = np.asarray(index).reshape(-1)
        places = np.sort(np.unique(flat, return_index=True)[1])  # Twins did the same.
        places = places[flat[places] != NO_CLIENT]
        rows = [np.asarray(x) for x in jtu.tree_leaves(slots)]
        rows = [x.reshape(len(flat), *x.shape[2:]) for x in rows]
        if np.array_equal(places, np.arange(len(places))):
            rows = [x[: len(places)] for x in rows]  # Not another copy.
        else:
            rows = [x[places] for x in rows]
        self._store.write(flat[places], rows)

    def _numbers(self, index: Slots) -> Numbers:
        """Whose rows the slots have: an empty one has the last client's."""
        numbers = np.asarray(index).reshape(-1).astype(np.int64)
        return np.minimum(numbers, self._store.num_clients - 1)


class _Read:
    """The rows of a round's slots, most of them read while another round is running."""

    def __init__(self, store: Store, numbers: Numbers, running: Numbers):
        self._store, self.numbers = store, numbers
        self._later = np.isin(numbers, running)
        self.future: Future[None] | None = None
        self._rows: list[np.ndarray] = []

    def do(self) -> None:
        size, now = len(self.numbers), np.flatnonzero(~self._later)
        for leaf, like in enumerate(self._store.initial):
            out = np.empty((size, *like.shape), like.dtype)
            if len(now) == size:
                self._store.place.read(leaf, self.numbers, out)
            elif len(now) > 0:
                out[now] = self._store.read(leaf, self.numbers[now])
            self._rows.append(out)

    def result(self) -> list[np.ndarray]:
        """All of them, once the running round has written its own."""
        if self.future is not None:
            self.future.result()
        late = np.flatnonzero(self._later)
        if len(late) > 0:
            for leaf, out in enumerate(self._rows):
                out[late] = self._store.read(leaf, self.numbers[late])
        return self._rows


_READERS: list[ThreadPoolExecutor] = []


def _reader() -> ThreadPoolExecutor:
    if not _READERS:
        _READERS.append(ThreadPoolExecutor(1, thread_name_prefix="equifed-rows"))
    return _READERS[0]


def mover(
    states: ClientState, mesh: Mesh | None, *, writes: bool = True, donate: bool = False
) -> AbstractMover:
    """What brings clients' states to rounds on these devices, and back.

    **Arguments:**

    - `writes`: whether a store keeps what rounds return.
    - `donate`: whether the memory of arrays on the device may be used again.
    """
    store = store_of(states)
    if store is None:
        return DeviceMover(states, mesh, donate=donate)
    if isinstance(store.place, SpreadPlace):
        return SpreadMover(store, mesh, writes=writes)
    return HostMover(store, mesh, writes=writes)
