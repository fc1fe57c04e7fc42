"""One try of an optimiser, on the shapes of a small model.

It tells what cannot be read off functions: whether they work with traced numbers, what
the update wants beside gradients and params, and whether it draws noise that follows
from nothing. Nothing is computed, and each kind of optimiser is tried once.
"""

import functools
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import optax
from jax.extend.core import Jaxpr, jaxprs_in_params, Literal
from jaxtyping import Array, PyTree

from ._closures import closed
from ._noise import bare, looks_like_a_raw_key
from ._tree import Static
from ._types import Params


class Trial(NamedTuple):
    """What a try has shown."""

    works: bool
    """Whether the optimiser works, with these numbers traced."""
    needs: tuple[str, ...]
    """What its update has to be given beside gradients and params."""
    draws_alike: bool = False
    """Whether it draws noise from a key that is the same for all clients."""


def tried(numbers: PyTree, static: Static) -> Trial:
    """Tries an optimiser with its numbers traced."""
    leaves, treedef = jtu.tree_flatten(numbers)
    shapes = tuple((x.shape, x.dtype) for x in leaves)
    return _once(static, treedef, shapes, jnp.result_type(float))


@functools.lru_cache(maxsize=64)
def _once(
    static: Static,
    treedef: Any,
    shapes: tuple[tuple[tuple[int, ...], Any], ...],
    dtype: Any,
) -> Trial:
    leaves = [jax.ShapeDtypeStruct(*x) for x in shapes]
    numbers = jtu.tree_unflatten(treedef, leaves)
    matrix = jax.ShapeDtypeStruct((2, 3), dtype)
    params = {"weight": matrix, "bias": jax.ShapeDtypeStruct((3,), dtype)}

    def built(numbers: PyTree) -> Any:
        t = closed(bare(eqx.combine(numbers, static.value())))
        return optax.with_extra_args_support(t)

    def init(numbers: PyTree, params: Params) -> PyTree:
        return built(numbers).init(params)

    def update(
        given: tuple[Params, dict[str, Array]],
        numbers: PyTree,
        state: PyTree,
        params: Params,
    ) -> PyTree:
        grads, extra = given
        return built(numbers).update(grads, state, params, **extra)

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
                state = jax.eval_shape(init, numbers, params)
                alike = draws_alike(update, (params, extra), numbers, state, params)
            except Exception as error:  # noqa: BLE001 (whatever a user's code raises)
                missing = missing_in(error)
                if not missing or needs:
                    return Trial(works=False, needs=needs)
                needs = missing
                if needs != ("value",):
                    return Trial(works=False, needs=needs)
            else:
                return Trial(works=True, needs=needs, draws_alike=alike)


def draws_alike(
    update: Callable[..., PyTree],
    given: PyTree,
    *args: PyTree,
) -> bool:
    """Whether an update draws noise that is the same for all clients.

    **Arguments:**

    - `given`: what it is given first: gradients, and more that is a client's own.
    - `args`: its other arguments; of these the keys are a client's own.
    """
    program = jax.make_jaxpr(update)(given, *args)
    own = [True] * len(jtu.tree_leaves(given))
    own += [_is_a_key(x) for x in jtu.tree_leaves(args)]
    return not all(_draws(program.jaxpr, own)[1])


def missing_in(error: Exception) -> tuple[str, ...]:
    """What an update should have been given by name, if that is the error."""
    match = re.search(r"required keyword-only arguments?: (.*)", str(error))
    if not isinstance(error, TypeError) or match is None:
        return ()
    return tuple(re.findall(r"'(\w+)'", match[1]))


def _is_a_key(x: Any) -> bool:
    # A raw key in a state has an error of its own.
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key) or looks_like_a_raw_key(x)


# How many of the first operands of what draws are its key.
_DRAWS = {"random_bits": 1, "random_gamma": 1, "rng_bit_generator": 1}
_DRAWS |= {"threefry2x32": 2}


def _draws(jaxpr: Jaxpr, own: Sequence[bool]) -> tuple[list[bool], list[bool]]:
    """Which outputs of a program follow from those of its inputs that are a client's
    own, and for everything that is drawn in it, whether its key does."""
    known = dict(zip(jaxpr.invars, own, strict=True))
    found: list[bool] = []

    def follows(x: Any) -> bool:
        return not isinstance(x, Literal) and known.get(x, False)

    for equation in jaxpr.eqns:
        given = [follows(x) for x in equation.invars]
        out = [any(given)] * len(equation.outvars)
        count = _DRAWS.get(equation.primitive.name)
        if count is not None:
            found.append(any(given[:count]))
        for inner in jaxprs_in_params(equation.params):
            # Where it is not known which operand is which, all count.
            outer = given[1:] if equation.primitive.name == "cond" else given
            same = len(outer) == len(inner.invars)
            outer = outer if same else [any(given)] * len(inner.invars)
            results, more = _draws(inner, outer)
            found += more
            if equation.primitive.name in ("jit", "pjit"):
                out = results
        known.update(zip(equation.outvars, out, strict=True))
    return [follows(x) for x in jaxpr.outvars], found
