"""What `client_states=` means: where the clients' states lie.

Without a word they lie on the device as long as they take up a quarter of its free
memory (on a CPU: as long as all copies take up a gibibyte). Beyond that they lie on
the host, and what would take more than half of its free memory must be given a folder.
On a mesh of several accelerators that can share them, they do.
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from .._mesh import AXIS, num_devices
from .._types import ClientState
from .._words import shown
from ..data._placement import Placement
from .disk import DiskPlace
from .host import HostPlace
from .rows import rows_of, store_of
from .spread import SpreadPlace
from .store import AbstractPlace, check_numbers, Store


ClientStates: TypeAlias = str | os.PathLike[str] | None

_NAMES = ("device", "sharded", "host")


def check_place(name: ClientStates) -> str | pathlib.Path | None:
    """The argument, checked: one of the names, or a folder."""
    if name is None or (isinstance(name, str) and name in _NAMES):
        return name
    text = os.fspath(name)
    if isinstance(name, str) and not {os.sep, "/", "."} & set(text):
        raise ValueError(
            "`client_states` must be 'device', 'sharded', 'host' or a folder, got "
            f"{shown(name)}. A folder beside the program is written "
            f"{'./' + text!r}."
        )
    return pathlib.Path(text).absolute()


def begun(
    one: ClientState,
    num_clients: int,
    repeat: Callable[[Any, int], Any],
    where: ClientStates,
    mesh: Mesh | None,
) -> ClientState:
    """The states of all clients, where they are to lie.

    **Arguments:**

    - `one`: what every client begins with.
    - `repeat`: repeats its arrays on the device.
    """
    place = check_place(where)
    if not jtu.tree_leaves(one):
        return one
    place = _by_size(one, num_clients, mesh) if place is None else place
    if place == "device":
        return repeat(one, num_clients)
    return rows_of(_made(one, num_clients, place, mesh))


def moved(
    states: ClientState, where: ClientStates, mesh: Mesh | None, *, owned: bool
) -> ClientState:
    """States that there are already, where they are to lie; where they are, if nothing
    is said.

    **Arguments:**

    - `owned`: whether nobody else has them.
    """
    place, leaves = check_place(where), jtu.tree_leaves(states)
    if not leaves:
        return states
    arrays = all(isinstance(x, np.ndarray) for x in leaves)
    place = "host" if place is None and arrays else place
    store = store_of(states)
    if place is None or (store is not None and _is_at(store.place, place, mesh)):
        if store is None or owned or isinstance(store.place, DiskPlace):
            return states
        return rows_of(store.copy())
    if place == "device":
        is_there = store is None and not arrays
        return states if is_there else jtu.tree_map(_on_device, states)
    if store is None:
        one = jtu.tree_map(lambda x: x[0], states)
        num_clients = leaves[0].shape[0]
    else:
        one = jtu.tree_unflatten(store.treedef, store.initial)
        num_clients = store.num_clients
    new = _made(one, num_clients, place, mesh)
    if isinstance(new.place, DiskPlace):
        new.place.begin()
    new.fill(leaves)
    return rows_of(new)


def _on_device(x: Any) -> Any:
    return x if isinstance(x, jax.Array) else jnp.asarray(np.asarray(x))


def _is_at(place: AbstractPlace, where: str | pathlib.Path, mesh: Mesh | None) -> bool:
    if isinstance(place, DiskPlace):
        return place.folder == where
    if isinstance(place, SpreadPlace):
        return where == "sharded" and place.mesh == mesh
    return where == "host"


def _made(
    one: ClientState, num_clients: int, where: str | pathlib.Path, mesh: Mesh | None
) -> Store:
    check_numbers(one)
    if jax.process_count() > 1:
        raise ValueError(
            f"`client_states` is {str(where)!r}, but several processes share this "
            "training, and each of them has all clients' states on its devices. Leave "
            "it out, or start one process."
        )
    if where == "sharded" and (mesh is None or mesh.size != mesh.shape[AXIS]):
        raise ValueError(
            "`client_states='sharded'` spreads them over a mesh whose only axis is "
            f"{AXIS!r}, got {'no mesh' if mesh is None else dict(mesh.shape)}. Give "
            f"one to the loader: `mesh=jax.make_mesh((jax.device_count(),), "
            f"({AXIS!r},))`."
        )

    def make(store: Store) -> AbstractPlace:
        if isinstance(where, pathlib.Path):
            return DiskPlace(where, store.names, store.initial, num_clients)
        if mesh is None or where == "host":
            return HostPlace(store.initial, num_clients)
        return SpreadPlace(store.initial, num_clients, mesh)

    return Store(one, num_clients, make)


def _by_size(one: PyTree, num_clients: int, mesh: Mesh | None) -> str:
    """Where they fit comfortably."""
    row = sum(x.nbytes for x in jtu.tree_leaves(one))
    size, to = row * num_clients, Placement(mesh)
    keys = any(
        jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jtu.tree_leaves(one)
    )
    if keys or jax.process_count() > 1 or to.fits(size):
        return "device"
    devices = jax.devices() if mesh is None else list(mesh.devices.flat)
    alone = mesh is not None and mesh.size == mesh.shape[AXIS] > 1
    if alone and devices[0].platform != "cpu" and to.fits(size // num_devices(mesh)):
        return "sharded"
    free = _free_memory()
    if free is None or size <= free // 2:
        return "host"
    raise ValueError(
        f"{num_clients} clients keep {size / 1e9:.3g} GB together, which fit neither a "
        f"device nor into half of the {free / 1e9:.3g} GB of memory that are free. "
        "Give a folder on a disk: `client_states='./client-states'`."
    )


def _free_memory() -> int | None:
    """What the host has left, if it tells."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        (line,) = (x for x in lines if x.startswith("MemAvailable"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
