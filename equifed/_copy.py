"""Copies of arrays, for which nothing is compiled."""

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree


def tree_copy(x: PyTree) -> PyTree:
    """A copy of each array, spread over devices as it is."""
    return jtu.tree_map(lambda a: _copy(a) if eqx.is_array(a) else a, x)


def _copy(x: Array) -> Array:
    # `jnp.array` compiles a program for each shape, but also copies what is traced, and
    # arrays of which other processes have a part.
    if isinstance(x, jax.core.Tracer) or not x.is_fully_addressable:
        return jnp.array(x)
    return jax.device_put(x, may_alias=False)
