"""What metrics of classes are given: logits, and integers that are numbers of classes.

Everything that is said of a label without a logit is NaN, and so it must not become
one that has: labels of 64 bits are not cut, and narrow ones are made wide.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Int, Integer

from .._check import check_count
from .._words import shown


_LEAST, _MOST = -(2**31), 2**31 - 1


def classes_of(
    name: str, logits: Array, label: ArrayLike
) -> tuple[Array, Int[Array, "..."]]:
    """The logits and the labels as arrays, if they can be that."""
    logits = as_array(f"The logits of `{name}` must be floating-point numbers", logits)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(
            f"The logits of `{name}` must be floating-point numbers, got "
            f"{logits.dtype}{list(logits.shape)}. They come first, then the label."
        )
    if logits.shape[-1:] == (0,):
        raise ValueError(f"`{name}` needs one logit at least, got an empty vector.")
    wanted = f"The label of `{name}` must be an integer, the number of a class"
    return logits, as_int32(wanted, label)


def one_example(
    name: str, logits: Array, label: ArrayLike
) -> tuple[Array, Int[Array, ""], Bool[Array, ""]]:
    """The logits, the label, and whether they say anything."""
    logits, label = classes_of(name, logits, label)
    if logits.ndim != 1 or label.ndim != 0:
        raise ValueError(
            f"`{name}` is of ONE example: a vector of logits and one label. These "
            f"logits have shape {logits.shape}, the label {label.shape}. For many "
            f"at once write `jax.vmap(eqf.{name})(logits, labels)`."
        )
    return logits, label, has_logit(label, logits.size) & ~jnp.isnan(logits).any()


def has_logit(
    label: Integer[Array, "*shape"], num_classes: int
) -> Bool[Array, "*shape"]:
    return (label >= 0) & (label < num_classes)


def as_int32(wanted: str, x: ArrayLike) -> Int[Array, "..."]:
    """Integers in 32 bits; one that does not fit becomes the nearest that does.

    **Arguments:**

    - `wanted`: what they must be, for the error.
    """
    if not isinstance(x, jax.Array):
        # JAX would cut them to 32 bits.
        wide = np.asarray(x)
        x = _clipped(wide, np) if wide.dtype.kind in "iu" else x
    array = as_array(wanted, x)
    if array.dtype == bool:
        return array.astype(jnp.int32)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{wanted}, got {array.dtype}{list(array.shape)}.")
    return _clipped(array, jnp)


def _clipped(x, np):
    limits = np.iinfo(x.dtype)
    if limits.min < _LEAST or limits.max > _MOST:
        x = np.clip(x, max(limits.min, _LEAST), min(limits.max, _MOST))
    return x.astype(np.int32)


def check_ids(name: str, ids: Sequence[int], *, size: int | None = None) -> list[int]:
    """Returns numbers of classes or tokens, if that is what they are.

    **Arguments:**

    - `size`: of the vocabulary, if there is one that they must belong to.
    """
    if isinstance(ids, str | bytes) or not isinstance(ids, Sequence | np.ndarray):
        raise TypeError(
            f"`{name}` must be several integers, `(0, 2)` say, got {shown(ids)}."
        )
    bounds = (_LEAST, _MOST) if size is None else (0, size - 1)
    return [check_count(name, x, *bounds) for x in ids]


def among(x: Int[Array, "*shape"], ids: Sequence[int]) -> Bool[Array, "*shape"]:
    """Whether each is one of a few numbers."""
    found = jnp.zeros(x.shape, bool)
    for i in ids:
        found = found | (x == i)
    return found


def as_array(wanted: str, x: ArrayLike) -> Array:
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError):
        raise TypeError(f"{wanted}, got {shown(x)}.") from None
