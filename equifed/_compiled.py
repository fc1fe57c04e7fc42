"""Compiled programs that go when what they were compiled for goes.

`jax.jit` looks up a program by the functions and other static values among its
arguments, and keeps both, as good as for ever: ten megabytes for each new loss. Here a
program belongs to the functions that it was compiled for. They are held weakly, and
the program goes with the first of them that goes. What is compared by its value
(numbers, text, the shape of a tree) cannot go in this way, so there is also a limit to
how many programs are kept.

A function that is made anew is another function: its program is compiled again, even
if its text is the same, since what it refers to may have changed. In a loop that is
slow, and silent but for a warning.
"""

import collections
import functools
import types
import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from ._warn import is_ours, warn
from ._words import shown


Thing = TypeVar("Thing")
Options = tuple[tuple[str, str], ...]
"""What else to tell the compiler."""

# So many programs are kept, those last used.
_MOST = 32
# The same function made so many times is worth a word.
_AGAIN = 3


class FlatTree:
    """A PyTree taken apart into its arrays, which change, and the rest."""

    def __init__(self, tree: PyTree):
        leaves, self.treedef = jtu.tree_flatten(tree)
        self._places = [i for i, x in enumerate(leaves) if eqx.is_array(x)]
        self.arrays: list[Array] = [leaves[i] for i in self._places]
        for i in self._places:
            leaves[i] = None
        self.rest = leaves

    @property
    def size(self) -> int:
        """How many arrays there are."""
        return len(self._places)

    def build(self, arrays: list[Any]) -> Any:
        """The tree with these arrays, or what stands for them, for its own."""
        leaves = list(self.rest)
        for place, array in zip(self._places, arrays, strict=True):
            leaves[place] = array
        return jtu.tree_unflatten(self.treedef, leaves)

    def weak(self, key: "Key") -> "FlatTree":
        """Without arrays, and with references for what can go."""
        new = object.__new__(FlatTree)
        new.treedef, new._places, new.arrays = self.treedef, self._places, []
        # In the places of arrays, which are most, there is nothing.
        new.rest = [x if x is None else _weak(x, key) for x in self.rest]
        return new

    def strong(self) -> "FlatTree":
        """What `weak` was called on, as long as it is there."""
        new = object.__new__(FlatTree)
        new.treedef, new._places, new.arrays = self.treedef, self._places, []
        new.rest = [
            x() if isinstance(x, _Reference | _MethodReference) else x
            for x in self.rest
        ]
        return new


class _Reference(weakref.ref):
    """Told from a reference of the user's own."""


class _MethodReference(weakref.WeakMethod):
    """A bound method is made at each access, and lives as long as its object."""


class Key:
    """What a program is found by."""

    __slots__ = ("__weakref__", "flats", "parts", "_hash")

    def __init__(self, what: Hashable, flats: tuple[FlatTree, ...], how: Hashable):
        self.flats = [flat.weak(self) for flat in flats]
        rest = [tuple(flat.rest) for flat in self.flats]
        # `1`, `1.0` and `True` are equal, but are not traced alike.
        kinds = [tuple(map(type, leaves)) for leaves in rest]
        treedefs = [flat.treedef for flat in self.flats]
        self.parts = (what, how, *rest, *kinds, *treedefs)
        self._hash = hash(self.parts)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Key)
            and self._hash == other._hash
            and self.parts == other.parts
        )


_PROGRAMS: collections.OrderedDict[Key, Any] = collections.OrderedDict()


def compiled(
    function: Callable,
    *flats: FlatTree,
    donate: tuple[int, ...] = (),
    options: Options = (),
) -> Callable:
    """`function(*trees, *more)`, compiled.

    **Arguments:**

    - `function`: a function of a module: there is one of it.
    - `flats`: the trees of its first arguments, taken apart.
    - `donate`: the arguments whose memory it may use.
    - `options`: what else to tell the compiler.

    **Returns:**

    A function that takes lists of arrays in place of the trees.
    """
    return kept(
        lambda key: _jitted(function, key.flats, donate, options),
        function,
        flats,
        (donate, options),
    )


def _jitted(
    function: Callable,
    weak: list[FlatTree],
    donate: tuple[int, ...],
    options: Options,
) -> Callable:
    def traced(*args: Any) -> Any:
        trees = [
            flat.strong().build(arrays)
            for flat, arrays in zip(weak, args[: len(weak)], strict=True)
        ]
        return function(*trees, *args[len(weak) :])

    traced.__name__ = function.__name__  # In profiles.
    return jax.jit(
        traced, donate_argnums=donate, compiler_options=dict(options) or None
    )


def kept(
    make: Callable[[Key], Thing],
    what: Hashable,
    flats: tuple[FlatTree, ...],
    how: Hashable,
) -> Thing:
    """What `make` makes, once for all flats that are alike, as long as the functions in
    them are there.

    **Arguments:**

    - `make`: may keep of the flats only what is weak (`flat.weak(key)`).
    - `what`: what is made.
    - `how`: what else it depends on.
    """
    key = Key(what, flats, how)
    found = _PROGRAMS.get(key)
    if found is not None:
        _PROGRAMS.move_to_end(key)
        return found
    _tell_of_new_functions(key)
    made = _PROGRAMS[key] = make(key)
    while len(_PROGRAMS) > _MOST:
        _PROGRAMS.popitem(last=False)
    return made


def _weak(x: Any, key: Key) -> Any:
    """A reference to what equals nothing but itself, whose end is that of the program.
    What is compared by its value stays."""
    gone = functools.partial(_forget, weakref.ref(key))
    if isinstance(x, types.MethodType) and _equals_nothing_else(x.__self__):
        return _MethodReference(x, gone)
    if _equals_nothing_else(x):
        return _Reference(x, gone)
    if type(x).__hash__ is None:
        raise TypeError(
            f"{shown(x)} cannot be compiled for: it is neither an array nor hashable."
        )
    return x


def _forget(
    key_reference: weakref.ref,
    _: Any,
    programs: collections.OrderedDict[Key, Any] = _PROGRAMS,  # Also when Python exits.
) -> None:
    key = key_reference()
    if key is not None:
        programs.pop(key, None)


def _equals_nothing_else(x: Any) -> bool:
    kind = type(x)
    return kind.__weakrefoffset__ > 0 and kind.__eq__ is object.__eq__


# For what differs from others in functions alone: how often such a function was new,
# and which it was last.
_seen: collections.OrderedDict[int, tuple[int, list[Any]]] = collections.OrderedDict()


def _tell_of_new_functions(key: Key) -> None:
    leaves = [x for flat in key.flats for x in flat.rest]
    functions = [x for x in leaves if _is_made(x)]
    if not functions:
        return
    rest = [_where(x().__code__) if _is_made(x) else x for x in leaves]
    alike = hash((key.parts[0], key.parts[1], *rest, *key.parts[-len(key.flats) :]))
    count, last = _seen.pop(alike, (1, functions))
    new = [x() for x, old in zip(functions, last, strict=True) if x != old]
    _seen[alike] = (count + 1 if new else count, functions)
    while len(_seen) > 4 * _MOST:
        _seen.popitem(last=False)
    if new and count + 1 == _AGAIN:
        code = new[0].__code__
        warn(
            f"The function `{new[0].__name__}` ({code.co_filename}, line "
            f"{code.co_firstlineno}) was made anew {_AGAIN} times, and what uses it "
            "was compiled again each time, which is slow. Define it once, outside of "
            "the loop; numbers that change belong into arrays, as those of the model "
            "or of an `equinox.Module` with a `__call__`, which is then the function."
        )


def _where(code: types.CodeType) -> tuple[types.CodeType, str, int]:
    """What one function made twice has in common, and two that look alike do not."""
    return code, code.co_filename, code.co_firstlineno


def _is_made(x: Any) -> bool:
    """Whether it is a function of the user's that a function or a loop makes: one of a
    module is made anew when a notebook's cell is run again, and is no mistake."""
    if not isinstance(x, _Reference):
        return False
    function = x()
    return (
        isinstance(function, types.FunctionType)
        and "<" in function.__qualname__
        and not is_ours(function.__code__.co_filename)
    )
