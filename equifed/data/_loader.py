"""From a round's number to a `Cohort` on the devices.

A `Loader` is a pure function: the same round always gives the same cohort, so a run
can be resumed anywhere, and the next cohorts can be made in a background thread while
the devices are busy with this one.

A dataset that fits is put on every device once, and a cohort is then a few row
numbers. Of one that does not, each device is sent its clients' rows, round by round.
"""

import contextlib
import functools
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Shaped

from .._cohort import Cohort
from ._batching import AbstractBatching
from ._column import Column
from ._dataset import FederatedDataset
from ._plan import make_plan, Plan
from ._sampler import AbstractSampler, AllClients


T = TypeVar("T")

# Without `resident`, a dataset is kept on the devices if it takes up at most this
# share of the memory that is free on one of them; or where a device does not tell,
# as on a CPU, if all copies together take up at most this many bytes.
RESIDENT_SHARE = 0.25
RESIDENT_BYTES = 2**30


class Loader:
    """Makes the cohort of each round.

    !!! example

        ```python
        loader = Loader(dataset, UniformSampler(10, seed=0), Epochs(1, batch_size=20))
        cohort = loader(0)
        for round, cohort in loader.cohorts(0, 100):
            ...
        ```
    """

    dataset: FederatedDataset
    sampler: AbstractSampler
    batching: AbstractBatching
    mesh: Mesh | None
    resident: bool
    prefetch: int

    def __init__(
        self,
        dataset: FederatedDataset,
        sampler: AbstractSampler,
        batching: AbstractBatching,
        *,
        mesh: Mesh | None = None,
        resident: bool | None = None,
        prefetch: int = 2,
    ):
        """**Arguments:**

        - `dataset`: The population. Its columns must hold numbers.
        - `sampler`: Who takes part in a round. Its seed is also that of the order in
            which the clients visit their examples.
        - `batching`: How a client visits its examples: `algorithm.batching`.
        - `mesh`: The devices that share a round, along the axis `clients`. By default
            one.
        - `resident`: Whether the whole dataset is put on every device once. By default
            it is if it takes up at most a quarter of a device's free memory (on a CPU:
            if the copies take up at most 1 GiB).
        - `prefetch`: How many cohorts `cohorts` makes ahead, in a thread.

        **Raises:**

        `ValueError` for a mesh without a `clients` axis, a column that does not hold
        numbers, or a cohort larger than the population.
        """
        check_numeric(dataset.columns)
        if prefetch < 0:
            raise ValueError(f"`prefetch` must not be negative, got {prefetch}.")
        sampler(0, dataset.num_clients)  # Fails now rather than in the first round.
        self.dataset = dataset
        self.sampler = sampler
        self.batching = batching
        self.mesh = mesh
        self.prefetch = prefetch
        self._placement = Placement(mesh)
        if resident is None:
            resident = self._placement.fits(dataset.nbytes)
        if resident and dataset.num_examples > np.iinfo(np.int32).max:
            raise ValueError(
                f"The dataset has {dataset.num_examples} examples; a resident one can "
                "have at most 2**31 - 1. Pass `resident=False`."
            )
        self.resident = resident

    @property
    def num_clients(self) -> int:
        """The size of the population."""
        return self.dataset.num_clients

    @property
    def num_devices(self) -> int:
        return self._placement.num_devices

    def __call__(self, round: int) -> Cohort:
        """Makes the cohort of a round.

        **Arguments:**

        - `round`: The number of the round, from 0.
        """
        if round < 0:
            raise ValueError(f"`round` must not be negative, got {round}.")
        dataset = self.dataset
        clients = np.asarray(self.sampler(round, dataset.num_clients))
        first = dataset.offsets[clients]
        sizes = dataset.offsets[clients + 1] - first
        plan = make_plan(
            clients,
            sizes,
            first if self.resident else None,
            self.batching,
            seed=self.sampler.seed,
            round=round,
            num_devices=self.num_devices,
            max_slots=self.sampler.max_clients(dataset.num_clients),
        )
        if self.resident:
            return make_cohort(plan, self._resident_examples, self._placement)

        def read(name: str, place: int) -> np.ndarray:
            start = int(first[place])
            return dataset.columns[name][start : start + int(sizes[place])]

        pools = self._placement.pools(dataset.columns, read, plan)
        return make_cohort(plan, pools, self._placement)

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
        rounds = itertools.count(start) if stop is None else range(start, stop)
        return prefetched(((r, self(r)) for r in rounds), self.prefetch)

    def __repr__(self) -> str:
        return (
            f"Loader(\n  {self.dataset!r},\n  {self.sampler!r},\n  {self.batching!r},"
            f"\n  num_devices={self.num_devices},\n  resident={self.resident},\n)"
        )

    @functools.cached_property
    def _resident_examples(self) -> dict[str, Shaped[Array, "devices rows ..."]]:
        return {
            name: self._placement.replicate(on_device_dtype(name, np.asarray(column)))
            for name, column in self.dataset.columns.items()
        }


def cohort(
    dataset: FederatedDataset,
    batching: AbstractBatching,
    *,
    clients: Sequence[int] | Int[np.ndarray, " clients"] | None = None,
    round: int = 0,
    seed: int = 0,
    mesh: Mesh | None = None,
    resident: bool = True,
) -> Cohort:
    """Makes a single cohort of given clients.

    **Arguments:**

    - `dataset`: The population.
    - `batching`: How a client visits its examples.
    - `clients`: The numbers of the clients, each as often as it shall take part. By
        default all of them, once.
    - `round`, `seed`: What the clients' orders depend on.
    - `mesh`: The devices that share the cohort, along the axis `clients`.
    - `resident`: Whether the cohort holds the whole dataset or its clients' rows only.
    """
    sampler = AllClients(seed=seed)
    if clients is not None:
        numbers = np.asarray(clients, np.int64).reshape(-1)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(dataset):
            raise ValueError(
                f"`clients` has numbers from {numbers.min()} to {numbers.max()}; they "
                f"must be between 0 and {len(dataset) - 1}."
            )
        sampler = _GivenClients(clients=numbers, seed=seed)
    return Loader(dataset, sampler, batching, mesh=mesh, resident=resident)(round)


class _GivenClients(AbstractSampler):
    clients: Int[np.ndarray, " clients"]
    seed: int

    def __call__(self, round: int, num_clients: int) -> Int[np.ndarray, " clients"]:
        return self.clients

    def max_clients(self, num_clients: int) -> int:
        return len(self.clients)


class Placement:
    """Where the arrays of a cohort go: along the `clients` axis of a mesh, or to the
    default device."""

    mesh: Mesh | None
    num_devices: int

    def __init__(self, mesh: Mesh | None):
        if mesh is not None and "clients" not in mesh.axis_names:
            raise ValueError(
                f"`mesh` must have an axis 'clients', but its axes are "
                f"{mesh.axis_names}. Make one with "
                "`jax.make_mesh((jax.device_count(),), ('clients',))`."
            )
        self.mesh = mesh
        self.num_devices = 1 if mesh is None else mesh.shape["clients"]
        self._sharding = (
            None if mesh is None else NamedSharding(mesh, PartitionSpec("clients"))
        )

    def fits(self, num_bytes: int) -> bool:
        """Whether so many bytes may be put on every device."""
        device = (
            jax.local_devices()[0] if self.mesh is None else self.mesh.local_devices[0]
        )
        stats = device.memory_stats()
        if stats is None or "bytes_limit" not in stats:
            return num_bytes * self.num_devices <= RESIDENT_BYTES
        free = stats["bytes_limit"] - stats.get("bytes_in_use", 0)
        return num_bytes <= RESIDENT_SHARE * free

    def put(self, arrays: T) -> T:
        """Puts arrays with a leading axis of devices."""
        if self._sharding is None:
            return jax.device_put(arrays)
        if jax.process_count() == 1:
            return jax.device_put(arrays, self._sharding)
        sharding = self._sharding
        return jax.tree.map(
            lambda a: jax.make_array_from_callback(a.shape, sharding, a.__getitem__),
            arrays,
        )

    def replicate(self, array: np.ndarray) -> Shaped[Array, "devices ..."]:
        """Puts one and the same array on every device."""
        return self._each(array.shape, lambda device: array)

    def pools(
        self,
        columns: Mapping[str, Column],
        read: Callable[[str, int], np.ndarray],
        plan: Plan,
    ) -> dict[str, Shaped[Array, "devices rows ..."]]:
        """Puts on each device the rows of its own clients: those of this process only.

        `read(name, place)` are the rows of the client at a place of the round.
        """

        def pool(name: str, column: Column, device: int) -> np.ndarray:
            # Rows beyond the clients' own are never visited; zeros cost nothing.
            out = np.zeros((plan.num_rows, *column.shape[1:]), column.dtype)
            parts = [read(name, place) for place in plan.pools[device].tolist()]
            total = sum(len(part) for part in parts)
            if total > 0:
                np.concatenate(parts, out=out[:total])
            return on_device_dtype(name, out)

        return {
            name: self._each(
                (plan.num_rows, *column.shape[1:]),
                functools.partial(pool, name, column),
            )
            for name, column in columns.items()
        }

    def _each(
        self, shape: tuple[int, ...], make: Callable[[int], np.ndarray]
    ) -> Shaped[Array, "devices ..."]:
        if self._sharding is None:
            return jax.device_put(make(0)[None])
        # A mesh with other axes asks for the same array several times.
        make = functools.cache(make)
        return jax.make_array_from_callback(
            (self.num_devices, *shape),
            self._sharding,
            lambda place: make(cast(tuple[slice], place)[0].start or 0)[None],
        )


def make_cohort(
    plan: Plan, examples: dict[str, Shaped[Array, "devices rows ..."]], to: Placement
) -> Cohort:
    arrays = to.put(plan[:6])
    order, start, stop, first, num_examples, index = cast(tuple[Array, ...], arrays)
    return Cohort(
        examples=examples,
        order=order,
        start=start,
        stop=stop,
        first=first,
        num_examples=num_examples,
        index=index,
    )


def check_numeric(columns: Mapping[str, Any]) -> None:
    """Refuses columns that a device cannot hold."""
    for name, column in columns.items():
        if column.dtype.kind not in "biufcV" or column.dtype.names is not None:
            held = "text or objects" if column.dtype.kind in "OUST" else "no numbers"
            raise ValueError(
                f"Column {name!r} holds {held} (dtype {column.dtype}), which cannot be "
                "put on a device. Turn it into numbers with `dataset.map(...)` or "
                "`dataset.map_clients(...)`, or leave it out with "
                "`dataset.select_columns(...)`."
            )


def on_device_dtype(name: str, array: np.ndarray) -> np.ndarray:
    """Casts to the dtype that JAX will use: 64 bits only where they are enabled."""
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype == array.dtype:
        return array
    if dtype.kind in "iu" and array.size > 0:
        low, high = array.min(), array.max()
        if low < np.iinfo(dtype).min or high > np.iinfo(dtype).max:
            raise ValueError(
                f"Column {name!r} has values from {low} to {high}, which do not fit "
                f"{dtype}. Enable 64 bits (`jax.config.update('jax_enable_x64', "
                "True)`), or drop or renumber the column."
            )
    return array.astype(dtype)


def prefetched(items: Iterable[T], depth: int) -> Iterator[T]:
    """Iterates in a background thread, at most `depth` items ahead of their use.

    An error of the thread is raised where its item would have been. The thread ends
    with the last item, or when the iterator is closed.
    """
    if depth == 0:
        yield from items
        return
    ready: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    room = threading.Semaphore(depth)
    closed = threading.Event()
    # Settings made with a context manager hold for one thread; hand them on.
    device = jax.config.jax_default_device  # pyright: ignore
    x64 = jax.config.jax_enable_x64  # pyright: ignore

    def work():
        with contextlib.ExitStack() as stack:
            stack.enter_context(jax.default_device(device))
            stack.enter_context(jax.enable_x64(x64))
            try:
                iterator = iter(items)
                while True:
                    room.acquire()
                    if closed.is_set():
                        return
                    ready.put(("item", next(iterator)))
            except StopIteration:
                ready.put(("end", None))
            except BaseException as error:  # noqa: BLE001
                ready.put(("error", error))

    thread = threading.Thread(target=work, name="equifed-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            room.release()
            yield value
    finally:
        closed.set()
        room.release()
        thread.join()
