"""Which params the loss reaches.

A leaf that the loss does not depend on in a differentiable way (a backbone behind
`jax.lax.stop_gradient`, a layer that is not called) has nothing to learn, and must stay
as it is: an optimiser that is given its zero gradient would still move it, by weight
decay or noise. Which leaves these are is known from the loss's derivative as a
program, before any number is computed: their tangents are not used in it.
"""

import functools
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import jax.tree_util as jtu
from jax.interpreters.partial_eval import dce_jaxpr
from jaxtyping import Array, PyTree

from .._tree import Static
from .._types import Example, Loss, Params
from .._wire import Broadcast
from .stateful import alone


# What was found out, by loss: the trace is as long as one of the loss. A loss that
# nobody else holds is forgotten.
_KNOWN: weakref.WeakKeyDictionary[Any, dict[Hashable, tuple[bool, ...]]]
_KNOWN = weakref.WeakKeyDictionary()


def reached(loss: Loss, at: Broadcast, example: Example) -> PyTree[bool]:
    """For each of the params, whether the loss of one example depends on it in a
    differentiable way.

    Where this cannot be told it is true: of what goes into a function with a derivative
    of its own (`jax.custom_vjp`), all counts.
    """
    leaves, treedef = jtu.tree_flatten(at.params)
    others, static = jtu.tree_flatten((at.rest, example))
    arrays = [i for i, x in enumerate(others) if _has_shape(x)]
    shapes = _shapes(leaves), _shapes([others[i] for i in arrays])
    fixed = [None if _has_shape(x) else x for x in others]

    value = functools.partial(_value, alone(loss), treedef, static, fixed, arrays)
    try:
        known = _KNOWN.setdefault(loss, {})
        what = (Static(fixed), static, treedef, *map(_key, shapes))
        if what not in known:
            known[what] = _reached(value, *shapes)
        answer = known[what]
    except TypeError:  # A loss that is not hashable, as one that holds arrays.
        answer = _reached(value, *shapes)
    return jtu.tree_unflatten(treedef, answer)


def _value(
    loss: Callable,
    treedef: Any,
    static: Any,
    fixed: list[Any],
    places: list[int],
    leaves: list[Array],
    given: list[Array],
) -> Array:
    """The loss, with the params and what else has a shape where they belong."""
    whole = list(fixed)
    for i, x in zip(places, given, strict=True):
        whole[i] = x
    rest, example = jtu.tree_unflatten(static, whole)
    model = eqx.combine(jtu.tree_unflatten(treedef, leaves), rest)
    out = loss(model, example, jr.key(0))
    return out[0] if isinstance(out, tuple) else out


def _reached(value: Callable, params: list[Any], given: list[Any]) -> tuple[bool, ...]:
    try:
        program = jax.make_jaxpr(
            lambda params, tangents, given: jax.jvp(
                lambda params: value(params, given), (params,), (tangents,)
            )[1]
        )(params, params, given)
    except Exception:  # noqa: BLE001 (it will be raised where it is computed)
        return (True,) * len(params)
    _, used = dce_jaxpr(program.jaxpr, [True])
    return tuple(used[len(params) : 2 * len(params)])


def only(where: PyTree[bool], new: Params, old: Params) -> Params:
    """The new leaves where it says so, the old ones elsewhere."""
    return jtu.tree_map(lambda w, x, y: x if w else y, where, new, old)


def _has_shape(x: Any) -> bool:
    return isinstance(x, jax.Array | jax.ShapeDtypeStruct)


def _shapes(arrays: list[Any]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays]


def _key(shapes: list[jax.ShapeDtypeStruct]) -> Hashable:
    return tuple((x.shape, x.dtype) for x in shapes)
