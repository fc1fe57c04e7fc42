"""What becomes of messages that were kept rather than summed as they came.

Floating-point sums depend on their order, and with it on how clients are dealt to
devices; unless the messages are brought into the order of the clients' numbers first.
"""

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree

from .._mesh import AXIS


def in_order(
    kept: PyTree,
    index: Int[Array, " slots"],
    mesh: Mesh | None,
    *,
    capacity: int | None,
    count: int | Int[Array, ""],
) -> tuple[PyTree, PyTree]:
    """The encoded messages, summed; or, where a `capacity` is given, so many of them,
    sorted by client number. And the sum of the metrics. The sums end after the first
    `count` clients in that order."""
    order = jnp.argsort(index, stable=True)
    encoded, metrics = kept
    if capacity is None:
        encoded = _ordered_sum(encoded, order, count, mesh)
    else:
        encoded = jtu.tree_map(lambda x: _rows(x[order], capacity), encoded)
        encoded = _replicated(encoded, mesh)
    return encoded, _ordered_sum(metrics, order, count, mesh)


def _rows(x: Array, size: int) -> Array:
    """The first rows, and zeros where there are fewer: those of empty slots."""
    fill = max(size - x.shape[0], 0)
    return jnp.pad(x[:size], ((0, fill), *[(0, 0)] * (x.ndim - 1)))


def _replicated(x: PyTree, mesh: Mesh | None) -> PyTree:
    if mesh is None:
        return x
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.lax.with_sharding_constraint(x, whole)


def _ordered_sum(
    x: PyTree,
    order: Int[Array, " slots"],
    count: int | Int[Array, ""],
    mesh: Mesh | None,
) -> PyTree:
    """Sums over the leading axis in the given order, one by one. Each device adds up a
    share of the columns, of all devices' messages."""
    like = jtu.tree_map(lambda x: x[0], x)

    def split(x):
        flat = x.reshape(x.shape[0], -1)
        if mesh is None:
            return flat
        flat = jnp.pad(flat, ((0, 0), (0, -flat.shape[1] % mesh.shape[AXIS])))
        columns = NamedSharding(mesh, PartitionSpec(None, AXIS))
        return jax.lax.with_sharding_constraint(flat, columns)

    def add(i, total):
        return jtu.tree_map(lambda t, x: t + x[order[i]], total, flat)

    flat = jtu.tree_map(split, x)
    zero = jtu.tree_map(lambda x: jnp.zeros_like(x[0]), flat)
    total = _replicated(jax.lax.fori_loop(0, count, add, zero), mesh)
    return jtu.tree_map(lambda t, x: t[: x.size].reshape(x.shape), total, like)
