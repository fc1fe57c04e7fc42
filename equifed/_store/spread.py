"""Clients' states spread over the devices of a mesh: each has the rows of some clients.

The clients lie in order, in equal shares; where they do not come out even, the last
device has rows of nobody. Most of a round's clients are dealt to the device that has
their rows (`data/_plan.py`), which then only looks them up. The rows of the others are
sent there and back. Nothing is added up, so that even the sign of a zero stays.
"""

import copy
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, Shaped

from .._cohort import NO_CLIENT
from .._mesh import AXIS, clients_each
from .._types import ClientState
from .rows import rows_of
from .store import AbstractMover, AbstractPlace, Numbers, Rows, Slots, Store


class SpreadPlace(AbstractPlace):
    """An array for each leaf, along the mesh."""

    def __init__(self, initial: Rows, num_clients: int, mesh: Mesh):
        self.name, self.mesh = "spread over the mesh", mesh
        self.num_rows = clients_each(num_clients, mesh.size) * mesh.size
        self.clear(initial)

    @property
    def along(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    def begin(self, *, anew: bool = True) -> None:
        pass

    def finish(self) -> None:
        pass

    def read(self, leaf: int, numbers: Numbers, out: np.ndarray) -> None:
        x, share = self.arrays[leaf], self.num_rows // self.mesh.size
        whose = numbers // share
        for shard in x.addressable_shards:
            device = (shard.index[0].start or 0) // share
            mine = np.flatnonzero(whose == device)
            if len(mine) > 0:
                out[mine] = np.asarray(shard.data[numbers[mine] % share])

    def write(self, numbers: Numbers, rows: Rows) -> None:
        self.arrays = [
            _written(x, numbers, new, self.along)
            for x, new in zip(self.arrays, rows, strict=True)
        ]

    def clear(self, initial: Rows) -> None:
        self.arrays = [_repeated(x, self.num_rows, self.along) for x in initial]

    def copy(self) -> "SpreadPlace":
        new = copy.copy(self)
        new.arrays = [x.copy() for x in self.arrays]  # A round uses up the old ones.
        return new


@functools.partial(jax.jit, static_argnums=(1, 2))
def _repeated(x: Array, count: int, along: NamedSharding) -> Array:
    stacked = jnp.broadcast_to(x, (count, *x.shape))
    return jax.lax.with_sharding_constraint(stacked, along)


@functools.partial(jax.jit, static_argnums=3, donate_argnums=0)
def _written(x: Array, numbers: Array, rows: Array, along: NamedSharding) -> Array:
    return jax.lax.with_sharding_constraint(x.at[numbers].set(rows), along)


class Route(NamedTuple):
    """Which device has the rows of a round's slots, and which needs them. What there is
    none of is past the end: of the device's rows, or of its slots."""

    here: Int[Any, "devices slots"]
    """The device's own row that a slot has."""
    rows: Int[Any, "devices devices guests"]
    """Those that it sends to each device."""
    slots: Int[Any, "devices devices guests"]
    """The slots that have what it is sent by each device."""


def route(index: Int[np.ndarray, "devices slots"], share: int) -> Route:
    """The route of a round's rows.

    **Arguments:**

    - `share`: how many rows each device has.
    """
    num_devices, num_slots = index.shape
    owner = np.where(index == NO_CLIENT, -1, index // share)
    needs = np.broadcast_to(np.arange(num_devices)[:, None], index.shape)
    here = np.where(owner == needs, index % share, share)
    device, slot = np.nonzero((owner >= 0) & (owner != needs))
    pair = owner[device, slot] * num_devices + device
    order = np.argsort(pair, kind="stable")
    device, slot, pair = device[order], slot[order], pair[order]
    # How many there are before it that go the same way.
    nth = np.arange(len(pair)) - np.searchsorted(pair, pair)
    most = int(nth.max(initial=-1)) + 1
    most = 1 << (most - 1).bit_length() if most else 0  # A few programs are enough.
    shape = (num_devices, num_devices, most)
    rows, slots = np.full(shape, share), np.full(shape, num_slots)
    rows[pair // num_devices, device, nth] = index[device, slot] % share
    slots[device, pair // num_devices, nth] = slot
    return Route(*(x.astype(np.int32) for x in (here, rows, slots)))


class SpreadMover(AbstractMover):
    """Sends rows from device to device."""

    waits = False

    def __init__(self, store: Store, mesh: Mesh | None, *, writes: bool):
        self._store, self._writes, self._mesh = store, writes, mesh
        self._place: Any = store.place
        self._clients: Any = None
        self._route: Any = None
        if mesh != self._place.mesh:
            raise ValueError(
                "The clients' states are spread over another mesh than that of the "
                "loader. Give `Loader(..., mesh=mesh)` the same, or "
                "`client_states='sharded'` to spread them anew."
            )

    @property
    def states(self) -> ClientState:
        return rows_of(self._store)

    def take(self, index: Slots) -> ClientState:
        numbers, place = np.asarray(index), self._place
        self._clients = np.unique(numbers[numbers != NO_CLIENT])
        found = route(numbers, place.num_rows // place.mesh.size)
        self._route = jax.device_put(found, place.along)
        rows = _taken(place.arrays, self._route, place.mesh)
        return jtu.tree_unflatten(self._store.treedef, rows)

    def put(self, index: Slots, slots: ClientState, accept: Bool[Array, ""]) -> None:
        if not self._writes:
            return
        # Whether it was accepted is not waited for.
        self._store.mark(self._clients)
        place, new = self._place, jtu.tree_leaves(slots)
        place.arrays = _put(place.arrays, new, self._route, accept, place.mesh)

    def ahead(self, index: Slots) -> None:
        pass  # The rows are on the devices.


def _mapped(function: Any, mesh: Mesh, count: int) -> Any:
    split = PartitionSpec(AXIS)
    return jax.shard_map(
        function, mesh=mesh, in_specs=(split,) * count, out_specs=split, check_vma=False
    )


def _exchanged(x: Array) -> Array:
    """What the devices have for each other."""
    return jax.lax.all_to_all(x, AXIS, 0, 0)


@functools.partial(jax.jit, static_argnums=2)
def _taken(
    arrays: list[Array], route: Route, mesh: Mesh
) -> list[Shaped[Array, "devices slots ..."]]:
    """The rows of the slots; an empty one has somebody's."""

    def device(arrays: list[Array], route: Route) -> list[Array]:
        here, rows, slots = (x[0] for x in route)

        def one(x: Array) -> Array:
            found = x.at[here].get(mode="clip")
            if rows.size > 0:
                sent = _exchanged(x.at[rows].get(mode="clip"))
                found = found.at[slots].set(sent, mode="drop")
            return found[None]

        return [one(x) for x in arrays]

    return _mapped(device, mesh, 2)(arrays, route)


@functools.partial(jax.jit, static_argnums=4, donate_argnums=0)
def _put(
    arrays: list[Array],
    slots: list[Array],
    route: Route,
    accept: Bool[Array, ""],
    mesh: Mesh,
) -> list[Array]:
    """The arrays with the slots' rows."""
    share = arrays[0].shape[0] // mesh.size
    here, rows = (jnp.where(accept, x, share) for x in (route.here, route.rows))

    def device(arrays: list[Array], slots: list[Array], route: Route) -> list[Array]:
        here, rows, places = (x[0] for x in route)

        def one(x: Array, new: Array) -> Array:
            x = x.at[here].set(new[0], mode="drop")
            if rows.size == 0:
                return x
            sent = _exchanged(new[0].at[places].get(mode="clip"))
            return x.at[rows].set(sent, mode="drop")

        return [one(x, new) for x, new in zip(arrays, slots, strict=True)]

    return _mapped(device, mesh, 3)(arrays, slots, Route(here, rows, route.slots))
