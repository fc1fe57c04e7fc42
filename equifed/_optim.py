"""The one seam with Optax.

An Optax optimiser is a pair of closures, and closures hide their numbers: a learning
rate inside one can be neither traced, swept with `vmap`, nor changed without
recompiling. `Optim` opens the closures once, when it is made. Every float that it
finds becomes an array leaf, and the rest (functions, flags, integers) becomes one
static value, whose hash is computed once rather than on every call.
"""

import types
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax
import wadler_lindig as wl
from jaxtyping import Array, PyTree

from ._tree import floating, Static, tree_cast_like, tree_wide
from ._types import Params


def _names(static: Static) -> list[str]:
    """The names of the transformations, for a readable repr."""
    functions = (getattr(leaf, "fn", None) for leaf in static.leaves)
    names = [f.__qualname__.split(".")[0] for f in functions if f is not None]
    names += [leaf for leaf in static.leaves if isinstance(leaf, str)]
    hidden = ("chain", "identity", "with_extra_args_support", "init_empty_state")
    return [n for n in dict.fromkeys(names) if n not in hidden]


def _is_number(x: Any) -> bool:
    if isinstance(x, float | np.floating):
        return True
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)


class _Code:
    """What a function is but for the values that it holds.

    The same `def`, run twice, makes functions of one code; two functions of the same
    name, or in the same line, have different ones.
    """

    def __init__(self, function: types.FunctionType):
        self.fn = function
        self._key = (function.__code__, id(function.__globals__))

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Code) and self._key == other._key


class _Empty:
    """What a variable holds that was never assigned to."""


class _Closure(eqx.Module):
    """A function whose closure and defaults are subtrees."""

    code: _Code
    cells: tuple[Any, ...] | None
    defaults: tuple[Any, ...] | None
    keywords: dict[str, Any] | None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        old = self.code.fn
        cells = None
        if self.cells is not None:
            cells = tuple(
                types.CellType() if isinstance(x, _Empty) else types.CellType(x)
                for x in self.cells
            )
        new = types.FunctionType(
            old.__code__, old.__globals__, old.__name__, self.defaults, cells
        )
        new.__kwdefaults__ = self.keywords
        return new(*args, **kwargs)


_EMPTY = _Empty()


def _open(tree: Any) -> Any:
    """Turns the functions in a tree into trees of what they hold."""

    def contents(cell: types.CellType) -> Any:
        try:
            value = cell.cell_contents
        except ValueError:
            return _EMPTY
        return _open(value)

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, types.FunctionType):
            return leaf
        cells = leaf.__closure__
        return _Closure(
            _Code(leaf),
            None if cells is None else tuple(map(contents, cells)),
            _open(leaf.__defaults__),
            _open(leaf.__kwdefaults__),
        )

    return jtu.tree_map(one, tree)


class Optim(eqx.Module):
    """An Optax optimiser whose hyper-parameters are leaves.

    You rarely make one by hand: everything that takes an optimiser takes
    `optax.sgd(0.1)` and the like, and converts it.
    """

    numbers: PyTree[Array | None]
    static: Static = eqx.field(static=True)

    def __init__(self, transformation: optax.GradientTransformation):
        tree = _open(transformation)

        def leaf(x: Any) -> Any:
            if isinstance(x, np.ndarray):
                return jnp.asarray(x)
            return floating(x) if _is_number(x) and np.ndim(x) == 0 else x

        tree = jtu.tree_map(leaf, tree)
        self.numbers, static = eqx.partition(tree, eqx.is_array)
        self.static = Static(static)

    def init(self, params: Params) -> PyTree:
        """The optimiser's state for these params, in float32 at least."""
        with jax.numpy_dtype_promotion("standard"):
            return self._transformation().init(tree_wide(params))

    def update(
        self, grads: Params, state: PyTree, params: Params
    ) -> tuple[Params, PyTree]:
        """One step: what to add to the params, and the new state.

        The hyper-parameters may be wider than the params (float32 against bfloat16):
        the result keeps the dtypes that it was given.
        """
        # In float32 at least: a second moment in bfloat16 could not decay by 0.999.
        wide = tree_wide((grads, state, params))
        with jax.numpy_dtype_promotion("standard"):
            updates, new_state = self._transformation().update(*wide)
        return tree_cast_like(updates, params), tree_cast_like(new_state, state)

    def _transformation(self) -> Any:
        return eqx.combine(self.numbers, self.static.value())

    def __pdoc__(self, **kwargs: Any) -> wl.AbstractDoc:
        def show(x: Array) -> str:
            unknown = isinstance(x, jax.core.Tracer) or x.ndim > 0
            return "..." if unknown else f"{float(x):.4g}"

        # A number that both `init` and `update` hold is there twice.
        shown = [show(x) for x in jtu.tree_leaves(self.numbers)]
        numbers = ", ".join(dict.fromkeys(shown))
        return wl.TextDoc(f"Optim({' | '.join(_names(self.static))}: {numbers})")


def as_optim(x: optax.GradientTransformation | Optim) -> Optim:
    """Converts what a user gives as an optimiser.

    **Raises:**

    `TypeError` if it is not an Optax optimiser.
    """
    if isinstance(x, Optim):
        return x
    if isinstance(x, optax.GradientTransformation):
        return Optim(x)
    raise TypeError(
        f"An optimiser must be an Optax transformation, got {x!r} of type "
        f"`{type(x).__name__}`. If this is a learning rate, wrap it: "
        "`optax.sgd(learning_rate)`."
    )
