"""Clients' states spread over the devices of a mesh: each has the rows of some clients.

The clients lie in order, in equal shares; where they do not come out even, the last
device has rows of nobody. A round's rows are sent by whoever has them to whoever needs
them, and nothing is added up on the way, so that even the sign of a zero stays.
"""

import copy
import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, Shaped

from .._cohort import NO_CLIENT
from .._mesh import AXIS
from .._types import ClientState
from .rows import rows_of
from .store import AbstractMover, AbstractPlace, Numbers, Rows, Slots, Store


class SpreadPlace(AbstractPlace):
    """An array for each leaf, along the mesh."""

    def __init__(self, initial: Rows, num_clients: int, mesh: Mesh):
        self.name, self.mesh = "spread over the mesh", mesh
        self.num_rows = -(-num_clients // mesh.size) * mesh.size
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


class SpreadMover(AbstractMover):
    """Sends rows from device to device."""

    waits = False

    def __init__(self, store: Store, mesh: Mesh | None, *, writes: bool):
        self._store, self._writes, self._mesh = store, writes, mesh
        self._place: Any = store.place
        self._clients = np.zeros(0, np.int64)
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
        self._clients = np.unique(np.asarray(index))
        last = self._store.num_clients - 1
        rows = _taken(self._place.arrays, self._placed(index), self._place.mesh, last)
        return jtu.tree_unflatten(self._store.treedef, rows)

    def put(self, index: Slots, slots: ClientState, accept: Bool[Array, ""]) -> None:
        if not self._writes:
            return
        # Whether it was accepted is not waited for.
        self._store.mark(self._clients[self._clients != NO_CLIENT])
        place, new = self._place, jtu.tree_leaves(slots)
        place.arrays = _put(place.arrays, new, self._placed(index), accept, place.mesh)

    def ahead(self, index: Slots) -> None:
        pass  # The rows are on the devices.

    def _placed(self, index: Slots) -> Array:
        return jax.device_put(index, self._place.along)


def _mapped(function: Any, mesh: Mesh, count: int) -> Any:
    split = PartitionSpec(AXIS)
    return jax.shard_map(
        function, mesh=mesh, in_specs=(split,) * count, out_specs=split, check_vma=False
    )


@functools.partial(jax.jit, static_argnums=(2, 3))
def _taken(
    arrays: list[Array], index: Int[Array, "devices slots"], mesh: Mesh, last: int
) -> list[Shaped[Array, "devices slots ..."]]:
    """The rows of the slots: each device sends every other the rows that it may need,
    and takes of what it is sent those that are of the sender."""

    def device(arrays: list[Array], index: Array) -> list[Array]:
        share, index = arrays[0].shape[0], jnp.minimum(index[0], last)
        here = jax.lax.all_gather(index, AXIS) % share
        owner = index // share
        slots = jnp.arange(owner.shape[0])

        def one(x: Array) -> Array:
            sent = jax.lax.all_to_all(x[here], AXIS, 0, 0)
            return sent[owner, slots][None]

        return [one(x) for x in arrays]

    return _mapped(device, mesh, 2)(arrays, index)


@functools.partial(jax.jit, static_argnums=4, donate_argnums=0)
def _put(
    arrays: list[Array],
    slots: list[Array],
    index: Int[Array, "devices slots"],
    accept: Bool[Array, ""],
    mesh: Mesh,
) -> list[Array]:
    """The arrays with the slots' rows: each device takes of all slots its own."""

    def device(arrays: list[Array], slots: list[Array], index: Array) -> list[Array]:
        share = arrays[0].shape[0]
        first = jax.lax.axis_index(AXIS) * share
        everyone = jax.lax.all_gather(index[0], AXIS, tiled=True)
        mine = (everyone >= first) & (everyone < first + share)
        place = jnp.where(mine, everyone - first, share)

        def one(x: Array, new: Array) -> Array:
            rows = jax.lax.all_gather(new[0], AXIS, tiled=True)
            return x.at[place].set(rows, mode="drop")

        return [one(x, new) for x, new in zip(arrays, slots, strict=True)]

    index = jnp.where(accept, index, NO_CLIENT)
    return _mapped(device, mesh, 3)(arrays, slots, index)
