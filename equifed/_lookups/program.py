"""A function of an example as a program, kept from the one time that it is traced."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.core
import jax.tree_util as jtu
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from .._types import Example


class Program(NamedTuple):
    """`fn(given, example)` as a program."""

    closed: ClosedJaxpr
    columns: tuple[str | None, ...]
    """Of each input, which column of the example it is; `None` for what is given."""


def traced(
    fn: Callable[[Any, Any], Any], given: Any, example: Example
) -> tuple[Any, Program]:
    """Traces a function, without computing anything.

    **Returns:**

    The shapes and dtypes of what it returns, and its program.
    """
    closed, arrays, rest = eqx.filter_make_jaxpr(fn)(given, example)
    names: list[str | None] = [
        path[0].key
        if len(path) == 1
        and isinstance(path[0], jtu.DictKey)
        and isinstance(path[0].key, str)
        else None
        for path, _ in jtu.tree_leaves_with_path(example)
    ]
    columns = [None] * (len(closed.in_avals) - len(names)) + names
    return eqx.combine(arrays, rest), Program(closed, tuple(columns))


def arrays_of(given: Any) -> list[jax.Array]:
    """The inputs of a program that are not columns, from what was given: of copies
    that several processes hold, the one that lies here."""

    def here(x: jax.Array) -> jax.Array:
        if isinstance(x, jax.core.Tracer) or x.is_fully_addressable:
            return x
        return x.addressable_data(0) if x.is_fully_replicated else x

    return [here(x) for x in jtu.tree_leaves(eqx.filter(given, eqx.is_array))]


# Calls of another program, which may be written out in place of the call. A derivative
# of its own matters to nobody who only computes the value.
_CALLS = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2")
_CALLS += ("custom_jvp_call", "custom_vjp_call")


def called(equation: JaxprEqn) -> ClosedJaxpr | None:
    """The program that an equation calls as it is, if it is such a call."""
    if equation.primitive.name not in _CALLS:
        return None
    for name in ("jaxpr", "call_jaxpr"):
        inner = equation.params.get(name)
        if isinstance(inner, Jaxpr):
            inner = None if inner.constvars else ClosedJaxpr(inner, ())
        if inner is not None and len(inner.in_avals) == len(equation.invars):
            return inner
    return None
