"""The one seam with Optax.

An Optax optimiser is a pair of closures, and closures hide their numbers: a learning
rate inside one can be neither traced, swept with `vmap`, nor changed without
recompiling. `Optim` opens the closures once, when it is made. Every float that it
finds becomes an array leaf, and the rest (functions, flags, integers) becomes one
static value, whose hash is computed once rather than on every call.
"""

from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.core
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax
import wadler_lindig as wl
from jaxtyping import Array, PyTree

from ._tree import floating, Static
from ._types import Params


def _names(static: Static) -> list[str]:
    """The names of the transformations, for a readable repr."""
    functions = (getattr(leaf, "fn", None) for leaf in static.leaves)
    names = [f.__qualname__.split(".")[0] for f in functions if f is not None]
    hidden = ("chain", "with_extra_args_support", "init_empty_state", "sgd", "adam")
    return [n for n in dict.fromkeys(names) if n not in hidden]


def _is_number(x: Any) -> bool:
    if isinstance(x, float | np.floating):
        return True
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)


class Optim(eqx.Module):
    """An Optax optimiser whose hyper-parameters are leaves.

    You rarely make one by hand: everything that takes an optimiser takes
    `optax.sgd(0.1)` and the like, and converts it.
    """

    numbers: PyTree[Array | None]
    static: Static = eqx.field(static=True)

    def __init__(self, transformation: optax.GradientTransformation):
        tree = eqxi.closure_to_pytree(transformation)
        tree = jtu.tree_map(
            lambda x: floating(x) if _is_number(x) and np.ndim(x) == 0 else x, tree
        )
        self.numbers, static = eqx.partition(tree, eqx.is_array)
        self.static = Static(static)

    def init(self, params: Params) -> PyTree:
        """The optimiser's state for these params."""
        with jax.numpy_dtype_promotion("standard"):
            return self._transformation().init(params)

    def update(
        self, grads: Params, state: PyTree, params: Params
    ) -> tuple[Params, PyTree]:
        """One step: what to add to the params, and the new state.

        The hyper-parameters may be wider than the params (float32 against bfloat16):
        the result keeps the dtypes that it was given.
        """
        with jax.numpy_dtype_promotion("standard"):
            updates, new_state = self._transformation().update(grads, state, params)
        return _cast_like(updates, params), _cast_like(new_state, state)

    def _transformation(self) -> Any:
        return eqx.combine(self.numbers, self.static.value())

    def __pdoc__(self, **kwargs: Any) -> wl.AbstractDoc:
        def show(x: Array) -> str:
            unknown = isinstance(x, jax.core.Tracer) or x.ndim > 0
            return "..." if unknown else f"{float(x):.4g}"

        numbers = ", ".join(show(x) for x in jtu.tree_leaves(self.numbers))
        return wl.TextDoc(f"Optim({' | '.join(_names(self.static))}: {numbers})")


def _cast_like(x: PyTree, like: PyTree) -> PyTree:
    def cast(a, b):
        return a.astype(b.dtype) if eqx.is_array(a) and a.dtype != b.dtype else a

    return jtu.tree_map(cast, x, like)


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


def apply_updates(params: Params, updates: Params) -> Params:
    return jtu.tree_map(lambda p, u: p + u, params, updates)
