"""Where the arrays of a cohort go, and in which dtype.

A cohort lies along the `clients` axis of a mesh, or on one device. Each process makes
the rows of its own devices only.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree, Shaped

from .._cohort import Cohort
from .._mesh import AXIS, clients_mesh, num_devices
from .._processes import any_process
from ._column import Column
from ._plan import Plan
from ._whose import in_runs, Whose


T = TypeVar("T")

# Without `resident`, a dataset is kept on the devices if it takes up at most this
# share of the memory that is free on one of them; or where a device does not tell,
# as on a CPU, if all copies together take up at most this many bytes.
RESIDENT_SHARE = 0.25
RESIDENT_BYTES = 2**30


# Takes a third of the time of `jax.device_put` where arrays are many and small.
_put = jax.jit(lambda arrays: arrays)


class Placement:
    """Where the arrays of a cohort go: along the `clients` axis of a mesh, or to the
    default device."""

    mesh: Mesh | None
    num_devices: int

    def __init__(self, mesh: Mesh | None):
        self.mesh = None if mesh is None else clients_mesh(mesh)
        self.num_devices = num_devices(self.mesh)
        self._sharding = (
            None if self.mesh is None else NamedSharding(self.mesh, PartitionSpec(AXIS))
        )

    def fits(self, num_bytes: int) -> bool:
        """Whether so many bytes may be put on every device; the processes agree."""
        fits = self._fits(num_bytes)
        several = self.mesh is not None and self.mesh.is_multi_process
        return not any_process(value=not fits) if several else fits

    def _fits(self, num_bytes: int) -> bool:
        device = (
            jax.local_devices()[0] if self.mesh is None else self.mesh.local_devices[0]
        )
        stats = device.memory_stats()
        if stats is None or "bytes_limit" not in stats:
            return num_bytes * self.num_devices <= RESIDENT_BYTES
        free = stats["bytes_limit"] - stats.get("bytes_in_use", 0)
        return num_bytes <= RESIDENT_SHARE * free

    def put(self, arrays: T, *, axis: int = 0) -> T:
        """Puts arrays that have an axis of devices."""
        if self.mesh is None:
            return _put(arrays)
        spec = PartitionSpec(*(None,) * axis, AXIS)
        sharding = NamedSharding(self.mesh, spec)
        if jax.process_count() == 1:
            return jax.device_put(arrays, sharding)
        return jax.tree.map(
            lambda a: jax.make_array_from_callback(a.shape, sharding, a.__getitem__),
            arrays,
        )

    def replicate(self, array: np.ndarray) -> Shaped[Array, "devices ..."]:
        """Puts one and the same array on every device."""
        return self.each(array.shape, lambda device: array)

    def pools(
        self,
        columns: Mapping[str, Column],
        read: Callable[[str, int], np.ndarray],
        plan: Plan,
        whose: Whose,
    ) -> dict[str, Shaped[Array, "devices rows ..."]]:
        """Puts on each device the rows of its own clients: those of this process only.

        `read(name, place)` are the rows of the client at a place of the round, and
        `whose(place)` says who that is.
        """

        def pool(name: str, column: Column, device: int) -> np.ndarray:
            # Rows beyond the clients' own are never visited; zeros cost nothing.
            out = np.zeros((plan.num_rows, *column.shape[1:]), column.dtype)
            places = plan.pools[device].tolist()
            parts = [read(name, place) for place in places]
            sizes = [len(part) for part in parts]
            total = sum(sizes)
            if total > 0:
                np.concatenate(parts, out=out[:total])
            bounds = np.cumsum([0, *sizes])
            owner = in_runs(bounds, lambda i: whose(places[i]))
            return on_device_dtype(name, out, owner)

        return {
            name: self.each(
                (plan.num_rows, *column.shape[1:]),
                functools.partial(pool, name, column),
            )
            for name, column in columns.items()
        }

    def each(
        self, shape: tuple[int, ...], make: Callable[[int], np.ndarray]
    ) -> Shaped[Array, "devices ..."]:
        """Puts `make(device)` on each device, of this process only, end to end."""
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
    plan: Plan,
    examples: dict[str, Shaped[Array, "devices rows ..."]],
    to: Placement,
    info: PyTree[Shaped[np.ndarray, "devices slots ..."]] = None,
) -> Cohort:
    arrays, info = to.put((plan[:6], info))
    order, start, stop, first, num_examples, index = cast(tuple[Array, ...], arrays)
    return Cohort(
        examples=examples,
        order=order,
        start=start,
        stop=stop,
        first=first,
        num_examples=num_examples,
        index=index,
        info=info,
        mesh=to.mesh,
    )


def check_numeric(columns: Mapping[str, Any], of: str = "") -> None:
    """Refuses columns that a device cannot hold."""
    for name, column in columns.items():
        if column.dtype.kind not in "biufcV" or column.dtype.names is not None:
            held = "text or objects" if column.dtype.kind in "OUST" else "no numbers"
            raise ValueError(
                f"Column {name!r}{of} holds {held} (dtype {column.dtype}), which "
                "cannot be put on a device. Turn it into numbers with "
                "`dataset.map(...)` or `dataset.map_clients(...)`, or leave it out "
                "with `dataset.select_columns(...)`."
            )


def on_device_dtype(name: str, array: np.ndarray, whose: Whose) -> np.ndarray:
    """Casts to the dtype that JAX will use: 64 bits only where they are enabled.

    `whose(row)` says whose a row of the array is.
    """
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype == array.dtype:
        return array
    if dtype.kind in "iu" and array.size > 0:
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        low, high = array.min(), array.max()
        if low < least or high > most:
            misfits = (array < least) | (array > most)
            row = int(np.argwhere(misfits)[0, 0])
            raise ValueError(
                f"Column {name!r} has values from {low} to {high}, which do not fit "
                f"{dtype}; the first that does not, {array[misfits][0]}, is of "
                f"{whose(row)}. Enable 64 bits (`jax.config.update('jax_enable_x64', "
                "True)`), or drop or renumber the column."
            )
    return array.astype(dtype)
