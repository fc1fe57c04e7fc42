"""What a law is: a claim, a way to try it, and what to do where it fails."""

import functools
import inspect
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PyTree

from .._roles import Roles
from ._losses import LawModel
from ._setup import Make, Setup, setup


Law = Callable[..., None]  # of `make`, and of a model and its roles
TOLERANCE = 1e-5


def law(check: Callable[[Setup], None]) -> Law:
    """Makes a law of a function that tries it.

    The first paragraph of its docstring is the claim. What follows is what to do about
    an algorithm for which it fails.
    """
    claim, _, advice = (inspect.getdoc(check) or "").partition("\n\n")
    claim, advice = (" ".join(text.split()) for text in (claim, advice))

    @functools.wraps(check)
    def wrapper(
        make: Make, *, model: LawModel | None = None, roles: Roles | None = None
    ) -> None:
        here = setup(make, model, roles)
        _ = here.expected  # A `make` that is of no use breaks no law.
        try:
            check(here)
        except Exception as error:
            what = str(error)
            if not isinstance(error, AssertionError):
                first = next(iter(what.strip().splitlines()), "")
                what = f"It ended in `{type(error).__name__}: {first:.150}`."
            text = f"The law '{check.__name__}' fails. {claim} {what} {advice}"
            raise AssertionError(text.rstrip()) from error

    return wrapper


def assert_same(
    got: PyTree, expected: PyTree, tolerance: float = TOLERANCE, *, what: str
) -> None:
    """Checks that two PyTrees hold the same numbers; `what` says when they do not."""
    got, expected = eqx.filter(got, eqx.is_array), eqx.filter(expected, eqx.is_array)
    leaves = jtu.tree_leaves_with_path(got)
    for (path, x), y in zip(leaves, jtu.tree_leaves(expected), strict=True):
        a, b = _numbers(x), _numbers(y)
        if a.shape != b.shape:
            found = f"the shape {a.shape} instead of {b.shape}"
        elif not np.allclose(a, b, tolerance, tolerance, equal_nan=True):
            apart = np.where(np.isnan(a) & np.isnan(b), 0, np.abs(a - b))
            worst = np.unravel_index(np.argmax(apart), a.shape)
            found = f"{a[worst]:.9g} instead of {b[worst]:.9g}"
        else:
            continue
        name = "".join(map(str, path[1:])).lstrip(".")
        raise AssertionError(f"{what}, `{name}` has {found}.")


def _numbers(x: Array) -> np.ndarray:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jr.key_data(x)
    return np.asarray(x, np.float64)
