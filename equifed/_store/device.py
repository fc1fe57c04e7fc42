"""Clients' states as arrays of JAX's, of all clients on every device.

They are gathered and put back by programs of their own, and not by the round's: so the
round is the very same program wherever the states lie, and ends in the same bits.
"""

import functools

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int

from .._cohort import NO_CLIENT
from .._mesh import AXIS
from .._types import ClientState
from .store import AbstractMover, Slots


def gather(states: ClientState, index: Int[Array, "devices slots"]) -> ClientState:
    """The states of the cohort's slots; an empty one has somebody's."""
    return jtu.tree_map(lambda x: x.at[index].get(mode="clip"), states)


def scatter(
    states: ClientState,
    index: Int[Array, "devices slots"],
    new: ClientState,
    accept: Bool[Array, ""],
) -> ClientState:
    """The states of all clients, with the new ones of the slots, if the round is
    accepted."""
    index = jnp.where(accept, index, NO_CLIENT)
    return jtu.tree_map(lambda x, y: x.at[index].set(y, mode="drop"), states, new)


Places = tuple[NamedSharding, ...] | None


@functools.partial(jax.jit, static_argnums=2)
def _gathered(
    arrays: list[Array], index: Int[Array, "devices slots"], places: Places
) -> list[Array]:
    return _placed(gather(arrays, index), places)


def _scattered(
    arrays: list[Array],
    index: Int[Array, "devices slots"],
    new: list[Array],
    accept: Bool[Array, ""],
    places: Places,
) -> list[Array]:
    return _placed(scatter(arrays, index, new, accept), places)


_scattered_in_place = jax.jit(_scattered, static_argnums=4, donate_argnums=0)
_scattered_beside = jax.jit(_scattered, static_argnums=4)


def _placed(arrays: list[Array], places: Places) -> list[Array]:
    if places is None:
        return arrays
    return list(map(jax.lax.with_sharding_constraint, arrays, places))


class DeviceMover(AbstractMover):
    """For arrays on the device."""

    waits = False

    def __init__(self, states: ClientState, mesh: Mesh | None, *, donate: bool):
        """**Arguments:**

        - `donate`: whether the memory of these arrays may be used again.
        """
        self._arrays, self._treedef = jtu.tree_flatten(states)
        self._scattered = _scattered_in_place if donate else _scattered_beside
        self._whole, self._split = None, None
        if mesh is not None:
            specs = [_spec(x, mesh) for x in self._arrays]
            self._whole = tuple(NamedSharding(mesh, spec) for spec in specs)
            self._split = tuple(
                NamedSharding(mesh, PartitionSpec(AXIS, None, *spec[1:]))
                for spec in specs
            )

    @property
    def states(self) -> ClientState:
        return jtu.tree_unflatten(self._treedef, self._arrays)

    def take(self, index: Slots) -> ClientState:
        rows = _gathered(self._arrays, index, self._split)
        return jtu.tree_unflatten(self._treedef, rows)

    def put(self, index: Slots, slots: ClientState, accept: Bool[Array, ""]) -> None:
        new = jtu.tree_leaves(slots)
        self._arrays = self._scattered(self._arrays, index, new, accept, self._whole)

    def ahead(self, index: Slots) -> None:
        pass  # The rows are on the device.


def _spec(x: Array, mesh: Mesh) -> PartitionSpec:
    """How an array lies over the mesh."""
    old = x.sharding
    same = isinstance(old, NamedSharding) and old.mesh.shape == mesh.shape
    return old.spec if same else PartitionSpec()  # pyright: ignore
