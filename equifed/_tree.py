"""Arithmetic on PyTrees that keeps every leaf's dtype.

Optax has tree arithmetic too, but it promotes: a float32 weight times a bfloat16 tree
is a float32 tree. Inside a compiled loop the carry may not change its type, so here
the leaf's own dtype always wins.
"""

import contextlib
import functools
import math
from collections.abc import Hashable
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree

from ._words import message, shown


def floating(x: ArrayLike) -> Float[Array, ""]:
    """Turns a number into a strongly typed array of the default floating dtype.

    The converter of every tunable field: an array is a leaf, so changing it neither
    recompiles nor stops `jax.vmap` from sweeping over it. An array that is floating
    already keeps its dtype.
    """
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating):
        return jax.lax.convert_element_type(x, x.dtype)
    # The text of a number, and the real part of a complex one, are not meant.
    if not isinstance(x, str | bytes) and not np.iscomplexobj(x):
        with contextlib.suppress(TypeError, ValueError):
            return jnp.asarray(x, jnp.result_type(float))
    raise TypeError(message("x", "a number", x))


class Static:
    """Leaves that are not arrays, compared by value and hashed once.

    A jitted function hashes its static arguments at every call.
    """

    def __init__(self, value: PyTree):
        leaves, self.treedef = jtu.tree_flatten(value)
        self.leaves = tuple(leaves)
        for leaf in leaves:
            if not isinstance(leaf, Hashable):
                raise TypeError(
                    f"{leaf!r:.99} of type `{type(leaf).__name__}` cannot be compiled "
                    "for: it is neither an array nor hashable."
                )
        self._hash = hash((self.leaves, self.treedef))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Static)
            and self._hash == other._hash
            and self.treedef == other.treedef
            and self.leaves == other.leaves
        )

    def value(self) -> Any:
        return jtu.tree_unflatten(self.treedef, self.leaves)


def split_params(model: PyTree) -> tuple[PyTree, PyTree]:
    """What can be trained of a model, which is `None` elsewhere, and the rest: the
    floating-point arrays, but for those of a state (`equinox.nn.State`), which are
    statistics and not params."""
    trained = jtu.tree_map(eqx.is_inexact_array, model, is_leaf=_is_of_a_state)
    return eqx.partition(model, trained)


def split_statistics(model: PyTree) -> tuple[PyTree, PyTree]:
    """The arrays of a model's states (`equinox.nn.State`), `None` elsewhere, and the
    rest. Random keys are no numbers that could be averaged, and are rest."""
    numbers = jtu.tree_map(_are_statistics, model, is_leaf=is_state)
    return eqx.partition(model, numbers)


def _is_of_a_state(x: Any) -> bool:
    return isinstance(x, eqx.nn.State | eqx.nn.StateIndex)


def is_state(x: Any) -> bool:
    return isinstance(x, eqx.nn.State)


def _are_statistics(x: Any) -> PyTree[bool]:
    return jtu.tree_map(_is_number, x) if is_state(x) else False


def _is_number(x: Any) -> bool:
    return eqx.is_array(x) and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def params_of(model: PyTree) -> PyTree:
    """The trainable part of a model, `None` elsewhere."""
    return split_params(model)[0]


def tree_there(params: PyTree) -> PyTree[bool]:
    """Where a tree has a leaf: false where it is `None`."""
    return jtu.tree_map(lambda x: x is not None, params, is_leaf=lambda x: x is None)


def is_here(x: Any) -> bool:
    """Whether it is an array whose numbers are known, all of them in this process."""
    known = isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer)
    return known and x.is_fully_addressable


def tree_add(x: PyTree, y: PyTree) -> PyTree:
    return jtu.tree_map(lambda a, b: a + b.astype(a.dtype), x, y)


def tree_sub(x: PyTree, y: PyTree) -> PyTree:
    return jtu.tree_map(lambda a, b: a - b.astype(a.dtype), x, y)


def tree_scale(scale: Array, x: PyTree) -> PyTree:
    return jtu.tree_map(lambda a: a * scale.astype(a.dtype), x)


def tree_divide(x: PyTree, divisor: Array) -> PyTree:
    """`x / divisor` by a scalar, and zeros where that is zero.

    It multiplies with the inverse. XLA turns a division by a scalar into just that on
    one device but not on several, so that the bits of an honest division would differ.
    """
    return tree_scale(safe_divide(jnp.ones_like(divisor), divisor), x)


def tree_add_scaled(x: PyTree, scale: Array, y: PyTree) -> PyTree:
    """`x + scale * y`."""
    return jtu.tree_map(
        lambda a, b: a + scale.astype(a.dtype) * b.astype(a.dtype), x, y
    )


def rowwise(values: Array, x: Array) -> Array:
    """One value for each row of `x`, with as many axes."""
    return values.reshape(values.shape + (1,) * (x.ndim - values.ndim))


def tree_row(x: PyTree, i: int | Array) -> PyTree:
    """One of several trees that are stacked along a leading axis of their arrays."""
    arrays, rest = eqx.partition(x, eqx.is_array)
    traced = any(isinstance(a, jax.core.Tracer) for a in (*jtu.tree_leaves(arrays), i))
    return eqx.combine((_row if traced else _row_of_all)(arrays, i), rest)


def _row(arrays: PyTree[Array], i: int | Array) -> PyTree[Array]:
    return jtu.tree_map(lambda a: a[i], arrays)


# One program, where two for each array would be compiled.
_row_of_all = jax.jit(_row)


def tree_merge_axes(x: PyTree[Array]) -> PyTree[Array]:
    """The first two axes of each array as one, also where another one has length 0."""
    return jtu.tree_map(lambda a: a.reshape(a.shape[0] * a.shape[1], *a.shape[2:]), x)


def tree_shapes(x: PyTree) -> PyTree:
    """The shapes and dtypes of arrays, without how they are spread over devices."""
    return jtu.tree_map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype) if eqx.is_array(a) else a, x
    )


def tree_zeros_like(x: PyTree) -> PyTree:
    """Zeros with the shapes and dtypes of `x`, which may be `ShapeDtypeStruct`s, spread
    over devices as `x` is."""
    return jtu.tree_map(jnp.zeros_like, x)


def wide_dtype(dtype: Any) -> Any:
    """The dtype to keep sums in: float32 at least."""
    wide = jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits >= 32
    return dtype if wide else jnp.dtype(jnp.float32)


def tree_wide(x: PyTree) -> PyTree:
    """The floating-point leaves in a dtype that sums may be kept in."""
    return jtu.tree_map(
        lambda a: a.astype(wide_dtype(a.dtype)) if eqx.is_inexact_array(a) else a, x
    )


def tree_cast_like(x: PyTree, like: PyTree) -> PyTree:
    """The arrays of `x` in the dtypes of those of `like`."""
    return jtu.tree_map(
        lambda a, b: a.astype(b.dtype) if eqx.is_array(a) and a.dtype != b.dtype else a,
        x,
        like,
    )


def tree_where(condition: Bool[Array, ""], x: PyTree, y: PyTree) -> PyTree:
    """`x` if the condition holds, else `y`, leaf by leaf; leaves that are not arrays
    are `x`'s."""
    return jtu.tree_map(
        lambda a, b: jnp.where(condition, a, b) if eqx.is_array(a) else a, x, y
    )


def tree_isfinite(x: PyTree) -> Bool[Array, ""]:
    """Whether every number of every floating-point leaf is finite."""
    leaves = [a for a in jtu.tree_leaves(x) if eqx.is_inexact_array(a)]
    finite = [_isfinite(leaf) for leaf in leaves]
    return functools.reduce(jnp.logical_and, finite, jnp.ones((), bool))


def _isfinite(x: Array) -> Bool[Array, ""]:
    if x.ndim < 2:
        return jnp.isfinite(x).all()
    # Every client's message is looked at, and XLA reduces a large array on a CPU one
    # number at a time. A product with a vector is five times as fast, and finite if and
    # only if all numbers are: as they are made small first, they do not overflow.
    small = jnp.full(x.shape[:1], 1e-30, x.dtype)
    rows = x.reshape(x.shape[0], math.prod(x.shape[1:]))
    sums = jnp.matmul(small, rows, precision="highest")
    return jnp.isfinite(sums).all()


def tree_norm(x: PyTree) -> Float[Array, ""]:
    """The Euclidean norm of all leaves together, at least in float32."""
    total = jnp.asarray(0.0, jnp.result_type(float))
    for leaf in jtu.tree_leaves(x):
        if eqx.is_inexact_array(leaf):
            leaf = jnp.abs(leaf) if jnp.iscomplexobj(leaf) else leaf
            total = total + jnp.sum(jnp.square(leaf.astype(total.dtype)))
    # The gradient of a square root at 0 is infinite, and an empty client is there.
    zero = total == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, total)))


def tree_unit(x: PyTree) -> tuple[PyTree, Float[Array, ""]]:
    """A tree over a power of two beside which the square of its norm does not overflow,
    and that power: 1, as long as it would not anyway."""
    largest = jnp.asarray(0.0, jnp.result_type(float))
    for leaf in jtu.tree_leaves(x):
        if eqx.is_inexact_array(leaf):
            size = jnp.abs(jax.lax.stop_gradient(leaf)).max(initial=0)
            largest = jnp.maximum(largest, size.astype(largest.dtype))
    _, exponent = jnp.frexp(largest)
    # A larger power is none of single precision.
    power = jnp.ldexp(jnp.ones_like(largest), jnp.minimum(exponent, 126))
    power = jnp.where((largest > 1e15) & jnp.isfinite(largest), power, 1)
    return tree_scale(1 / power, x), power


def safe_divide(x: Array, y: Array) -> Array:
    """`x / y`, and zero where `y` is zero, with a gradient that is finite there."""
    zero = y == 0
    return jnp.where(zero, jnp.zeros_like(x), x / jnp.where(zero, jnp.ones_like(y), y))


def difference(name: str, x: PyTree, like: PyTree) -> str | None:
    """The first thing in which a tree is not like another one, in words."""
    got, wanted = leaves_by_path(x), leaves_by_path(like)
    for path in wanted:
        if path not in got:
            return f"`{name}{path}` is missing"
    for path in got:
        if path not in wanted:
            return f"it has `{name}{path}`, which it should not have"
        a, b = kind_of(got[path]), kind_of(wanted[path])
        if a != b:
            return f"`{name}{path}` is {a} instead of {b}"
    if jtu.tree_structure(x) != jtu.tree_structure(like):
        return f"`{name}` is {shown(x)} where {shown(like)} was"
    return None


def leaves_by_path(x: PyTree) -> dict[str, Any]:
    return {jtu.keystr(path): leaf for path, leaf in jtu.tree_leaves_with_path(x)}


def kind_of(x: Any) -> str:
    """The dtype and the shape of an array, and a few words on anything else."""
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        return shown(x)
    return f"{dtype}[{','.join(map(str, jnp.shape(x)))}]"
