"""Functions taken apart into what they hold, and put together again.

A closure hides its numbers: nothing can trace them. Opened, it is a PyTree of the
values in its cells and defaults; closed again, it is a function like the first one, so
that whoever is given it cannot tell the two apart. What remains of the function itself
is its code, by which two closures of one source are equal.

So `optax.sgd(0.1)` and `optax.sgd(0.2)`, opened, are one structure with two numbers:
they share a program, and `vmap` sweeps over both. (Equinox has
`closure_to_pytree` for its own use, but that opens neither defaults nor partials nor
objects, and fails where a variable is still without a value.)
"""

import enum
import functools
import types
from typing import Any

import equinox as eqx
import jax.tree_util as jtu


class Code:
    """What a function is but for the values that it holds.

    The same `def`, run twice, makes functions of one code; two functions of the same
    name, or in the same line, have different ones.
    """

    def __init__(self, function: types.FunctionType):
        # Not the function itself, which would keep all that it holds alive.
        self.code, self.globals = function.__code__, function.__globals__
        self.name, self.qualname = function.__name__, function.__qualname__
        self._key = (self.code, id(self.globals))

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Code) and self._key == other._key


class _Empty:
    """What a variable holds that was never assigned to."""


_EMPTY = _Empty()


class Closure(eqx.Module):
    """A function whose closure and defaults are subtrees."""

    code: Code
    cells: tuple[Any, ...] | None
    defaults: tuple[Any, ...] | None
    keywords: dict[str, Any] | None

    def build(self) -> types.FunctionType:
        old = self.code
        cells = None
        if self.cells is not None:
            # New ones: the old belong to the user's function, which must never see the
            # traced numbers that these hold.
            cells = tuple(
                types.CellType() if isinstance(x, _Empty) else types.CellType(x)
                for x in closed(self.cells)
            )
        new = types.FunctionType(
            old.code, old.globals, old.name, closed(self.defaults), cells
        )
        new.__kwdefaults__ = closed(self.keywords)
        new.__qualname__ = old.qualname
        return new


class _Partial(eqx.Module):
    """A `functools.partial`."""

    function: Any
    args: tuple[Any, ...]
    keywords: dict[str, Any]

    def build(self) -> functools.partial:
        keywords = closed(self.keywords)
        return functools.partial(closed(self.function), *closed(self.args), **keywords)


class _Object(eqx.Module):
    """One of Optax's own objects (a `MultiSteps`), with what it holds."""

    kind: type
    contents: dict[str, Any]

    def build(self) -> Any:
        new = object.__new__(self.kind)
        vars(new).update(closed(self.contents))
        return new


class _Method(eqx.Module):
    """A bound method of such an object."""

    function: types.FunctionType
    owner: _Object

    def build(self) -> types.MethodType:
        return types.MethodType(self.function, self.owner.build())


_OPEN = (Closure, _Partial, _Object, _Method)


def opened(tree: Any, inside: frozenset[int] = frozenset()) -> Any:
    """Turns the functions in a tree into trees of what they hold."""
    return jtu.tree_map(lambda x: _opened(x, inside), tree)


def _opened(x: Any, inside: frozenset[int]) -> Any:
    # `inside` is what is being opened further out: a function that calls itself is in a
    # cell of its own, and would be opened without end. There it stays as it is.
    if id(x) in inside:
        return x
    deeper = inside | {id(x)}
    if isinstance(x, types.FunctionType):
        cells = x.__closure__
        return Closure(
            Code(x),
            None if cells is None else tuple(_contents(c, deeper) for c in cells),
            opened(x.__defaults__, deeper),
            opened(x.__kwdefaults__, deeper),
        )
    if type(x) is functools.partial:
        parts = opened((x.func, x.args, x.keywords), deeper)
        return _Partial(*parts)
    # Optax's own objects hold nothing but functions and numbers, and can be made anew
    # from them. What another's object does with what it holds is not known: it stays
    # whole, and is equal to what it says it equals.
    owner = x.__self__ if isinstance(x, types.MethodType) else x
    own = type(owner).__module__.split(".")[0] == "optax"
    if not own or isinstance(owner, enum.Enum):
        return x
    parts = _Object(type(owner), opened(dict(vars(owner)), deeper))
    return parts if owner is x else _Method(x.__func__, parts)


def _contents(cell: types.CellType, inside: frozenset[int]) -> Any:
    try:
        value = cell.cell_contents
    except ValueError:
        return _EMPTY  # Its variable is assigned to later, or never.
    return opened(value, inside)


def closed(tree: Any) -> Any:
    """Turns what `opened` made back into functions."""
    return jtu.tree_map(
        lambda x: x.build() if isinstance(x, _OPEN) else x,
        tree,
        is_leaf=lambda x: isinstance(x, _OPEN),
    )
