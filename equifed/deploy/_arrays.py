"""Arrays on their way: NumPy's own dtypes only, each checked where it arrives.

What NumPy has no dtype for (bfloat16, and others of 8 bits and less) travels as the
unsigned integers of its bits, and a key as its numbers. Both sides know what an array
is from the trace of the round, and no message says it.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array

from .._metrics import AbstractMetric
from .._words import shown


Wire = dict[str, np.ndarray]
Numbers = dict[str, int | float | list[int] | list[float]]


class WrongReply(ValueError):
    """What arrived is not what was asked for."""


def to_wire(x: Any) -> np.ndarray:
    """The array as it travels."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jr.key_data(x)
    x = np.asarray(x)
    return x.view(_bits(x.dtype)) if _is_foreign(x.dtype) else x


def wire_kind(like: Any, axes: tuple[int, ...] = ()) -> jax.ShapeDtypeStruct:
    """The shape and dtype in which such an array travels, or a stack of them."""
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        like = jax.eval_shape(jr.key_data, jax.ShapeDtypeStruct(like.shape, like.dtype))
    dtype = np.dtype(like.dtype)
    dtype = _bits(dtype) if _is_foreign(dtype) else dtype
    return jax.ShapeDtypeStruct((*axes, *like.shape), dtype)


def from_wire(x: np.ndarray, like: Any) -> Array:
    """The array that travelled, or a stack of such arrays, as a JAX array."""
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jr.wrap_key_data(jax.device_put(x), impl=_impl_of(like.dtype))
    dtype = np.dtype(like.dtype)
    return jax.device_put(x.view(dtype) if _is_foreign(dtype) else x)


def check_arrays(got: Any, wanted: Mapping[str, Any], what: str) -> None:
    """Refuses what is not there, or of another shape or dtype.

    **Arguments:**

    - `wanted`: the arrays, or their shapes, by name.
    - `what`: says whose they are, as the beginning of a sentence.
    """
    if not isinstance(got, Mapping):
        raise WrongReply(f"{what} has {shown(got)} in place of arrays by name.")
    for name, like in wanted.items():
        if name not in got:
            raise WrongReply(f"{what} lacks `{name}`.")
        kind, x = wire_kind(like), got[name]
        if not isinstance(x, np.ndarray | np.generic):
            raise WrongReply(f"{what} has {shown(x)} as `{name}`, which is no array.")
        if x.shape != kind.shape or x.dtype != kind.dtype:
            raise WrongReply(
                f"{what} has `{name}` as {x.dtype}{list(x.shape)} instead of "
                f"{kind.dtype}{list(kind.shape)}."
            )
    extra = [name for name in got if name not in wanted]
    if extra:
        raise WrongReply(f"{what} has `{extra[0]}`, which nobody asked for.")


def named_numbers(metrics: Mapping[str, AbstractMetric]) -> Numbers:
    """Metrics as what they are sums of: an average as its total and its weight."""
    return numbers_of(
        {jtu.keystr(p): x for p, x in jtu.tree_leaves_with_path(dict(metrics))}
    )


def numbers_of(arrays: Mapping[str, Any]) -> Numbers:
    """Small arrays as plain numbers, or flat lists of them, to the bit."""
    return {name: np.asarray(x).reshape(-1).tolist() for name, x in arrays.items()}


def arrays_of(numbers: Any, wanted: Mapping[str, Any], what: str) -> Wire:
    """The arrays that such numbers were."""
    if not isinstance(numbers, Mapping):
        raise WrongReply(f"{what} has {shown(numbers)} in place of metrics by name.")
    found = {}
    for name, like in wanted.items():
        kind = wire_kind(like)
        x = _as_kind(numbers.get(name, ()), kind)
        if x is None:
            raise WrongReply(
                f"{what} has {shown(numbers.get(name))} as the metric `{name}` instead "
                f"of {kind.dtype}{list(kind.shape)}."
            )
        found[name] = x
    return found


def _as_kind(x: Any, kind: jax.ShapeDtypeStruct) -> np.ndarray | None:
    """Plain numbers as an array of this kind; `None` if they are none of it."""
    try:
        x = np.asarray(x)
    except ValueError:  # lists of different lengths
        return None
    if x.size != np.prod(kind.shape) or x.dtype.kind not in "iuf":
        return None
    if kind.dtype.kind in "iu" and x.size > 0:
        bounds = np.iinfo(kind.dtype)
        if x.dtype.kind == "f" or x.min() < bounds.min or x.max() > bounds.max:
            return None
    return x.astype(kind.dtype).reshape(kind.shape)


@functools.cache
def _impl_of(dtype: Any) -> str:
    """The name of the kind of keys of a dtype."""
    names = ("threefry2x32", "rbg", "unsafe_rbg")
    made = {n: jax.eval_shape(lambda n=n: jr.key(0, impl=n)).dtype for n in names}
    return next(name for name in names if made[name] == dtype)


def _is_foreign(dtype: np.dtype) -> bool:
    return dtype.kind == "V"


def _bits(dtype: np.dtype) -> np.dtype:
    return np.dtype(f"u{dtype.itemsize}")
