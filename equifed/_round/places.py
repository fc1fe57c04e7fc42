"""Where arrays lie: whole on every device, along the mesh, or on one device alone.

The programs of one device are given arrays of that device. What moves between them is
moved here, and in several processes none asks another for what it has itself.
"""

import functools
from typing import TypeVar

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from .._mesh import AXIS


T = TypeVar("T")


def everywhere(tree: T, mesh: Mesh | None) -> T:
    """Every array on all devices, whole."""
    if mesh is None:
        return tree
    return _placed(tree, NamedSharding(mesh, PartitionSpec()))


def along(tree: T, mesh: Mesh | None) -> T:
    """Every array along the mesh."""
    if mesh is None:
        return tree
    return _placed(tree, NamedSharding(mesh, PartitionSpec(AXIS)))


def _placed(tree: T, place: NamedSharding) -> T:
    arrays, rest = eqx.partition(tree, eqx.is_array)
    if not place.mesh.is_multi_process:
        return eqx.combine(jax.device_put(arrays, place), rest)

    def put(x: Array) -> Array:
        # No process asks another for what it has itself.
        if x.sharding.is_equivalent_to(place, x.ndim):
            return x
        own = x.addressable_data(0)
        parts = place.addressable_devices_indices_map(x.shape).items()
        shards = [jax.device_put(own[part], device) for device, part in parts]
        return jax.make_array_from_single_device_arrays(x.shape, place, shards)

    return eqx.combine(jtu.tree_map(put, arrays), rest)


def first(x: Array | np.ndarray, mesh: Mesh | None) -> Array:
    """An array, whole, on the first device of this process."""
    if isinstance(x, np.ndarray):  # a constant of the step
        device = None if mesh is None else mesh.local_devices[0]
        return jax.device_put(np.array(x, subok=False), device)
    if mesh is None:
        return x
    whole = x if x.sharding.is_fully_replicated else gathered(x, mesh)
    return jax.device_put(whole.addressable_data(0), mesh.local_devices[0])


@functools.partial(jax.jit, static_argnums=1)
def gathered(x: Array, mesh: Mesh) -> Array:
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec()))


def on(place: int | None, tree: T) -> T:
    """What lies on one device of this process."""
    if place is None:
        return tree
    arrays, rest = eqx.partition(tree, eqx.is_array)
    arrays = jtu.tree_map(lambda x: x.addressable_shards[place].data, arrays)
    return eqx.combine(arrays, rest)


def joined(trees: list[T], mesh: Mesh | None) -> T:
    """What the devices of this process hold of arrays that lie along the mesh."""
    if mesh is None:
        return trees[0]
    split = NamedSharding(mesh, PartitionSpec(AXIS))

    def join(*shards: Array) -> Array:
        shape = (mesh.size * shards[0].shape[0], *shards[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, split, list(shards))

    return jtu.tree_map(join, *trees)
