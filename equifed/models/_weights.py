"""A model's parameters by the names that others gave them.

What a file holds is compared with what the model has, by name and shape, before a
single weight is read: a weight too many is as wrong as one too few, for it means that
the model in the file computes something else.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, DTypeLike, Shaped

from .._types import Model
from .._words import shown


@dataclasses.dataclass(frozen=True)
class Stored:
    """A weight in a file, which `read` reads."""

    shape: tuple[int, ...]
    read: Callable[[], Shaped[np.ndarray, "..."]]


def filled(
    model: Model,
    stored: Mapping[str, Stored],
    words: Mapping[str, str],
    *,
    source: str,
    dtype: DTypeLike | None,
    unused: Iterable[str] = (),
) -> Model:
    """The model with the weights of a file.

    **Arguments:**

    - `model`: one whose arrays have shapes alone.
    - `stored`: the weights, by their names in the file.
    - `words`: what the file calls the model's fields.
    - `source`: the file, for errors.
    - `dtype`: of the weights; as they are stored if `None`.
    - `unused`: names that may be in the file without a place in the model.
    """
    check_dtype(dtype)
    leaves, structure = jtu.tree_flatten_with_path(model)
    names = [_name(path, words) for path, _ in leaves]
    shapes = {name: x.shape for name, (_, x) in zip(names, leaves, strict=True)}
    missing = [name for name in names if name not in stored]
    if missing:
        raise ValueError(
            f"`{source}` lacks {_several(missing)}, which a `{type(model).__name__}` "
            "of its sizes has."
        )
    more = sorted(stored.keys() - shapes.keys() - {*unused})
    if more:
        raise ValueError(
            f"`{source}` has {_several(more)}, for which a `{type(model).__name__}` "
            "has no place: it would compute something else."
        )
    for name, shape in shapes.items():
        if stored[name].shape != shape:
            raise ValueError(
                f"`{name}` in `{source}` has shape {stored[name].shape}, where the "
                f"sizes that it states ask for {shape}."
            )
    arrays = [_array(name, stored[name], dtype, source) for name in names]
    return jtu.tree_unflatten(structure, arrays)


def check_dtype(dtype: DTypeLike | None) -> None:
    """Refuses a dtype that weights cannot have."""
    try:
        known = dtype is None or jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:  # NumPy does not know it.
        known = False
    if not known:
        raise ValueError(
            "`dtype` must be one of floating-point numbers (`jnp.bfloat16`, say), got "
            f"{shown(dtype)}."
        )


def _array(name: str, stored: Stored, dtype: DTypeLike | None, source: str) -> Array:
    x = stored.read()
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"`{name}` in `{source}` must be floating-point numbers, got {x.dtype}. "
            "Weights that are quantised are read from GGUF files alone."
        )
    return jax.device_put(x if dtype is None else x.astype(jnp.dtype(dtype)))


def _name(path: tuple[Any, ...], words: Mapping[str, str]) -> str:
    parts = [str(getattr(key, "name", getattr(key, "idx", key))) for key in path]
    return ".".join(words.get(part, part) for part in parts)


def _several(names: list[str]) -> str:
    first = ", ".join(f"`{name}`" for name in names[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"


def shapes_of(make: Callable[..., Model], *args: Any, **kwargs: Any) -> Model:
    """The model as `make` would make it, with shapes in place of its arrays."""
    return eqx.filter_eval_shape(make, *args, **kwargs)
