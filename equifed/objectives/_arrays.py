"""What the objectives share: arrays of numbers, and the checks of them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._words import shown


def floats(name: str, x: ArrayLike | Sequence) -> Float[Array, "..."]:
    """A strongly typed array of floating-point numbers; arrays of them keep their
    dtype, as far as JAX has it."""
    array = array_of(name, x)
    known = isinstance(x, jax.Array | np.ndarray)
    if known and jnp.issubdtype(array.dtype, jnp.floating):
        return jax.lax.convert_element_type(array, array.dtype)
    return array.astype(jnp.result_type(float))


def vector(x: ArrayLike | Sequence, dim: int) -> Float[Array, " dim"]:
    """What an objective is called with: integers too, which must not become its
    dtype."""
    x = floats("x", x)
    if x.shape != (dim,):
        raise ValueError(
            f"`x` must be a vector of length {dim}, the objective's dimension, got "
            f"shape {x.shape}. For several at once: `jax.vmap(objective)`."
        )
    return x


def array_of(name: str, x: ArrayLike | Sequence) -> Array:
    """A copy of what the host has."""
    try:
        known = x if isinstance(x, jax.Array | np.ndarray) else np.asarray(x)
    except jax.errors.TracerArrayConversionError:
        known = jnp.asarray(x)  # a list of what is traced
    except ValueError:
        known = np.empty((), object)  # its rows differ in length
    if not jnp.issubdtype(known.dtype, jnp.number) and known.dtype != bool:
        raise TypeError(f"`{name}` must be an array of numbers, got {shown(x)}.")
    if jnp.issubdtype(known.dtype, jnp.complexfloating):
        raise TypeError(f"`{name}` must be an array of real numbers, got {shown(x)}.")
    if isinstance(x, np.ndarray):
        # `jnp.array` would compile for every shape, and clients have many.
        return jax.device_put(np.array(x))
    return jnp.asarray(x)


def is_concrete(*xs: Any) -> bool:
    """Whether these are values, not the stand-ins of a function that is traced."""
    return not any(isinstance(x, jax.core.Tracer) for x in xs)


def check_rows(name: str, rows: Array, others: dict[str, Array]) -> None:
    """Refuses rows that are not a matrix, and what does not go with them."""
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(
            f"`{name}` must be a matrix with one row for each example, at least one "
            f"row and one column, got shape {rows.shape}."
        )
    for other, x in others.items():
        if x.shape != rows.shape[:1]:
            raise ValueError(
                f"`{other}` must have one number for each of the {rows.shape[0]} rows "
                f"of `{name}`, got shape {x.shape}."
            )


def check_optimum(x: Float[Array, " dim"], advice: str) -> Float[Array, " dim"]:
    """Refuses the NaN that stands for no optimum, where its value is known."""
    if is_concrete(x) and not np.isfinite(np.asarray(x)).all():
        raise ValueError(advice)
    return x
