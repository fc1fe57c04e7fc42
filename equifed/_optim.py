"""The one seam with Optax.

An Optax optimiser is a pair of closures, and closures hide their numbers: a learning
rate inside one can be neither traced, swept with `vmap`, nor changed without
recompiling. `Optim` opens the closures once, when it is made. Every float that it
finds becomes an array leaf, and the rest (functions, flags, integers) becomes one
static value, whose hash is computed once rather than on every call.

A transformation that asks for the value of a number (a Python `if`) cannot be given a
traced one. Each kind is tried once, on the shapes of a small model, and where that
fails its numbers stay what they are: it works as with Optax alone, and is compiled for
each value.
"""

import functools
import re
import warnings
from collections.abc import Callable
from typing import Any

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
from ._types import Params
from ._words import shown


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
        dynamic, self.needs = _try(numbers, Static(static))
        if not dynamic:
            numbers, static = eqx.partition(tree, eqx.is_array)
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

        def step(t: Any) -> Any:
            try:
                return t.update(*wide)
            except TypeError as error:
                if value is None or _missing(error) != ("value",):
                    raise
                return t.update(*wide, value=value)

        updates, new_state = self._run(step)
        self._check_like("updates", updates, params)
        new_state = marked(jtu.tree_map(self._state_leaf, new_state))
        self._check_like("state", new_state, state)
        return tree_cast_like(updates, params), tree_cast_like(new_state, state)

    def _run(self, function: Callable[[Any], Any]) -> Any:
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
        def shapes(tree: PyTree) -> PyTree:
            return jtu.tree_map(lambda x: getattr(x, "shape", None), tree)

        if jtu.tree_structure(got) != jtu.tree_structure(like) or jtu.tree_leaves(
            shapes(got)
        ) != jtu.tree_leaves(shapes(like)):
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


def as_optim(
    x: optax.GradientTransformation | optax.MultiSteps | Optim,
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


def _try(numbers: PyTree, static: Static) -> tuple[bool, tuple[str, ...]]:
    """Whether it works with traced numbers, and what its update needs."""
    leaves, treedef = jtu.tree_flatten(numbers)
    shapes = tuple((x.shape, x.dtype) for x in leaves)
    return _try_once(static, treedef, shapes, jnp.result_type(float))


@functools.lru_cache(maxsize=64)
def _try_once(
    static: Static,
    treedef: Any,
    shapes: tuple[tuple[tuple[int, ...], Any], ...],
    dtype: Any,
) -> tuple[bool, tuple[str, ...]]:
    leaves = [jax.ShapeDtypeStruct(*x) for x in shapes]
    numbers = jtu.tree_unflatten(treedef, leaves)
    matrix = jax.ShapeDtypeStruct((2, 3), dtype)
    params = {"weight": matrix, "bias": jax.ShapeDtypeStruct((3,), dtype)}

    def step(numbers: PyTree, params: Params, extra: dict[str, Array]) -> PyTree:
        t = closed(bare(eqx.combine(numbers, static.value())))
        t = optax.with_extra_args_support(t)
        return t.update(params, t.init(params), params, **extra)

    needs: tuple[str, ...] = ()
    with (
        warnings.catch_warnings(),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        warnings.simplefilter("ignore")
        while True:
            extra = {name: jax.ShapeDtypeStruct((), dtype) for name in needs}
            try:
                jax.eval_shape(step, numbers, params, extra)
            except Exception as error:  # noqa: BLE001 (whatever a user's code raises)
                missing = _missing(error)
                if not missing or needs:
                    return False, needs
                needs = missing
                if needs != ("value",):
                    return False, needs
            else:
                return True, needs


def _missing(error: Exception) -> tuple[str, ...]:
    """What an update should have been given by name, if that is the error."""
    match = re.search(r"required keyword-only arguments?: (.*)", str(error))
    if not isinstance(error, TypeError) or match is None:
        return ()
    return tuple(re.findall(r"'(\w+)'", match[1]))


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


def _failed(names: str, error: Exception) -> Exception:
    missing = _missing(error)
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
    kind, text = type(error).__name__, (str(error).strip().splitlines() or [""])[0]
    return ValueError(
        f"The optimiser `{names}` failed on these params: {kind}: {text[:200]}"
    )
