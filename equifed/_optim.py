"""The one seam with Optax.

An Optax optimiser is a pair of closures, and closures hide their numbers: a learning
rate inside one can be neither traced, swept with `vmap`, nor changed without
recompiling. `Optim` opens the closures once, when it is made. Every float that it
finds becomes an array leaf, and the rest (functions, flags, integers) becomes one
static value, whose hash is computed once rather than on every call.

A transformation that asks for the value of a number (a Python `if`) cannot be given a
traced one. Each kind is tried once, and where that fails its numbers stay what they
are: it works as with Optax alone, and is compiled for each value.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax
import wadler_lindig as wl
from jaxtyping import Array, Float, PyTree

from ._check import checked
from ._closures import closed, Code, opened
from ._noise import bare, is_key, looks_like_a_raw_key, marked
from ._tree import floating, Static, tree_cast_like, tree_wide
from ._tried import draws_alike, missing_in, tried
from ._types import Params
from ._words import first_line, shown


def _is_float(x: Any) -> bool:
    return isinstance(x, float | np.floating)


def _array(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        return jnp.asarray(x)
    is_scalar = isinstance(x, jax.Array) and x.ndim == 0
    return floating(x) if is_scalar and jnp.issubdtype(x.dtype, jnp.floating) else x


class Optim(eqx.Module):
    """An Optax optimiser whose hyper-parameters are leaves.

    You rarely make one by hand: everything that takes an optimiser takes
    `optax.sgd(0.1)` and the like, and converts it.
    """

    numbers: PyTree[Array | None]
    static: Static = eqx.field(static=True)
    needs: tuple[str, ...] = eqx.field(static=True)
    """What its update has to be given beside gradients and params, as far as known."""
    looked_at: bool = eqx.field(static=True)
    """Whether it could be tried on other params than its own."""

    @checked()
    def __init__(self, transformation: optax.GradientTransformation | optax.MultiSteps):
        if isinstance(transformation, optax.MultiSteps):
            transformation = transformation.gradient_transformation()
        tree = jtu.tree_map(_array, opened(transformation))
        for x in jtu.tree_leaves(tree):
            if looks_like_a_raw_key(x):
                raise _raw_key(_names(tree))
        tree = marked(tree)
        arrays = jtu.tree_map(lambda x: floating(x) if _is_float(x) else x, tree)
        numbers, static = eqx.partition(arrays, eqx.is_array)
        # At first every number may be traced, floats too; what asks for the value of
        # one gets them back as they were, and keeps as leaves only its own arrays.
        trial = tried(numbers, Static(static))
        self.needs = trial.needs
        if not trial.works:
            numbers, static = eqx.partition(tree, eqx.is_array)
            trial = tried(numbers, Static(static))
        if trial.draws_alike:
            raise _own_key(_names(tree))
        self.looked_at = trial.works
        self.numbers, self.static = numbers, Static(static)

    @property
    def names(self) -> str:
        """What it consists of, for errors and for a readable repr."""
        return _names(self.static.value())

    def init(self, params: Params) -> PyTree:
        """The optimiser's state for these params, in float32 at least."""
        state = self._run(lambda t: t.init(tree_wide(params)))
        return marked(jtu.tree_map(self._state_leaf, state))

    def update(
        self,
        grads: Params,
        state: PyTree,
        params: Params,
        *,
        value: Float[Array, ""] | None = None,
    ) -> tuple[Params, PyTree]:
        """One step: what to add to the params, and the new state.

        The hyper-parameters may be wider than the params (float32 against bfloat16):
        the result keeps the dtypes that it was given.

        **Arguments:**

        - `value`: the loss, for the few optimisers that want it.
        """
        # In float32 at least: a second moment in bfloat16 could not decay by 0.999.
        wide = tree_wide((grads, bare(state), params))
        updates, new_state = self._run(lambda t: _step(t, wide[0], value, *wide[1:]))
        if not self.looked_at:
            self._check_noise(wide, value)
        self._check_like("updates", updates, params)
        new_state = marked(jtu.tree_map(self._state_leaf, new_state))
        self._check_like("state", new_state, state)
        return tree_cast_like(updates, params), tree_cast_like(new_state, state)

    def _check_noise(self, args: tuple[Any, ...], value: Any) -> None:
        """For the few that take only params of a certain structure."""

        def update(given: Any, numbers: PyTree, *rest: Any) -> Any:
            optim = eqx.tree_at(lambda optim: optim.numbers, self, numbers)
            return optim._run(lambda t: _step(t, *given, *rest))

        given = (args[0], value)
        if draws_alike(update, given, self.numbers, *args[1:]):
            raise _own_key(self.names)

    def _run(self, function: Callable[[Any], Any]) -> Any:
        # Closed for this one call, around numbers that may be traced by now. Optax is
        # written for standard promotion, whatever the user's program is under.
        tree = bare(eqx.combine(self.numbers, self.static.value()))
        try:
            with (
                jax.numpy_dtype_promotion("standard"),
                jax.numpy_rank_promotion("allow"),
            ):
                return function(optax.with_extra_args_support(closed(tree)))
        except Exception as error:
            raise _failed(self.names, error) from error

    def _state_leaf(self, x: Any) -> Any:
        if looks_like_a_raw_key(x):
            raise _raw_key(self.names)
        numbers = jax.Array | np.ndarray | np.number | float | int
        if is_key(x) or not isinstance(x, numbers):
            return x
        # Strongly typed: a loop carries it.
        x = jnp.asarray(x)
        return jax.lax.convert_element_type(x, x.dtype)

    def _check_like(self, what: str, got: PyTree, like: PyTree) -> None:
        if jtu.tree_structure(got) != jtu.tree_structure(like) or jtu.tree_leaves(
            _shapes(got)
        ) != jtu.tree_leaves(_shapes(like)):
            kept = "those of the params" if what == "updates" else "what it was before"
            raise TypeError(
                f"An optimiser is given the mean gradient of a batch, and its {what} "
                f"must have the same structure and shapes as {kept}. Those of "
                f"`{self.names}` have others, so it cannot be used here."
            )

    def __pdoc__(self, **kwargs: Any) -> wl.AbstractDoc:
        def show(x: Any) -> str:
            unknown = isinstance(x, jax.core.Tracer) or np.ndim(x) > 0
            return "..." if unknown else f"{float(x):.4g}"

        # A number that both `init` and `update` hold is there twice.
        leaves = jtu.tree_leaves(self.numbers) + list(self.static.leaves)
        values = [x for x in leaves if _is_float(x) or isinstance(x, jax.Array)]
        numbers = ", ".join(dict.fromkeys(show(x) for x in values if not is_key(x)))
        return wl.TextDoc(f"Optim({self.names}: {numbers})")


# What is taken wherever an optimiser is asked for.
OptimLike: TypeAlias = optax.GradientTransformation | optax.MultiSteps | Optim


def _step(transformation: Any, grads: Any, value: Any, *rest: Any) -> Any:
    try:
        return transformation.update(grads, *rest)
    except TypeError as error:
        if value is None or missing_in(error) != ("value",):
            raise
        return transformation.update(grads, *rest, value=value)


def _shapes(tree: PyTree) -> PyTree:
    return jtu.tree_map(lambda x: getattr(x, "shape", None), tree)


def as_optim(
    x: OptimLike,
    *,
    gives: tuple[str, ...] = (),
) -> Optim:
    """Converts what a user gives as an optimiser.

    **Arguments:**

    - `gives`: what its update will be given beside gradients and params.

    **Raises:**

    `TypeError` if it is not an Optax optimiser, or wants what it is not given.
    """
    if isinstance(x, optax.GradientTransformation | optax.MultiSteps):
        x = Optim(x)
    if not isinstance(x, Optim):
        raise TypeError(
            f"An optimiser must be an Optax transformation, got {shown(x)}. If this is "
            "a learning rate, wrap it: `optax.sgd(learning_rate)`."
        )
    missing = [name for name in x.needs if name not in gives]
    if missing:
        raise TypeError(_wants(x.names, missing, gives))
    return x


def _names(tree: PyTree) -> str:
    names = []
    for leaf in jtu.tree_leaves(tree):
        if isinstance(leaf, Code):
            # `scale_by_adam.<locals>.update_fn` is named after who made it.
            names.append(leaf.qualname.split(".<locals>.")[-2:][0])
        elif isinstance(leaf, str):
            names.append(leaf)
    hidden = ("chain", "identity", "with_extra_args_support", "init_empty_state")
    return " | ".join(n for n in dict.fromkeys(names) if n not in hidden)[:120]


def _wants(names: str, missing: list[str], gives: tuple[str, ...]) -> str:
    wants = " and ".join(f"`{name}`" for name in missing)
    given = "the loss of the batch and no more" if gives else "gradients and params"
    clients = "" if gives else " Clients' optimisers (`LocalSGD`) are given `value`."
    return (
        f"The optimiser `{names}` wants {wants} in its update, but in this place it is "
        f"given {given}.{clients} Use one without, or a schedule in its place."
    )


def _raw_key(names: str) -> TypeError:
    return TypeError(
        f"The optimiser `{names}` holds what looks like an old-style random key, which "
        "nothing tells from other numbers, so that all clients would draw the same. "
        "Give it a typed key: `jax.random.key(0)` instead of `PRNGKey(0)`."
    )


def _own_key(names: str) -> ValueError:
    return ValueError(
        f"The optimiser `{names}` draws noise from a key that it makes itself, so that "
        "all clients would draw the same in every round. Keep the key in its state: "
        "return `jax.random.key(0)` in what `init` returns, and split it in `update`."
    )


def _failed(names: str, error: Exception) -> Exception:
    missing = missing_in(error)
    if missing:
        return TypeError(_wants(names, list(missing), ("value",)))
    asks = (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerBoolConversionError,
        jax.errors.TracerIntegerConversionError,
    )
    if isinstance(error, asks):
        return TypeError(
            f"The optimiser `{names}` asks for the value of a number that is traced: "
            "of a gradient, or of a hyper-parameter that is swept over. Give it Python "
            "numbers as hyper-parameters, or write `jnp.where` instead of `if` in it."
        )
    kind = type(error).__name__
    return ValueError(
        f"The optimiser `{names}` failed on these params: {kind}: {first_line(error)}."
    )
