"""A function of one example that asks for means over its batch, made one of the batch.

Layers that normalise a batch write `jax.lax.pmean(x, "batch")`, and mean all of it. A
client's last batch may be short, and its empty places are filled with what is at hand.
So the function is traced for one example, and wherever its program adds up over the
batch, only the examples that count are added up.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxprs_in_params, Literal
from jaxtyping import Array, Bool, PyTree

from .._tree import wide_dtype


# What adds up over an axis, without and with JAX's check of what varies over it.
_SUMS = ("psum", "psum_invariant")
_EXTREMES = {"pmax": (jax.lax.pmax, False), "pmin": (jax.lax.pmin, True)}
_CALLS = ("jit", "pjit", "closed_call", "core_call")
_REMAT = ("remat", "remat2", "checkpoint")

Collective = Callable[[str, Array], Array]


class StateError(ValueError):
    """What a loss asks of a batch, or does with its state, that cannot be."""


class Program:
    """A function, traced with an axis over a batch.

    **Arguments:**

    - `function`: of trees of arrays; returns one.
    - `axis`, `size`: the name of the axis, and how long it is.
    - `args`: the shapes and dtypes of what the function is given.
    """

    def __init__(
        self, function: Callable[..., PyTree], axis: str, size: int, *args: PyTree
    ):
        self._axis = axis
        leaves, treedef = jtu.tree_flatten(args)
        shapes: list[PyTree] = []

        def flat(*leaves: Array) -> list[Array]:
            out = function(*jtu.tree_unflatten(treedef, leaves))
            leaves_out, treedef_out = jtu.tree_flatten(out)
            shapes.append(treedef_out)
            return [jnp.asarray(x) for x in leaves_out]

        trace = jax.make_jaxpr(flat, axis_env=[(axis, size)])
        # Without the mesh of the round, on which what is computed from arguments would
        # lie and constants would not: Equinox compares the two where a state is set.
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
            self._program: ClosedJaxpr = trace(*leaves)
        self._treedef = shapes[-1]

    def __call__(self, collective: Collective, *args: PyTree) -> PyTree:
        """What the function returns.

        **Arguments:**

        - `collective`: what stands for a sum, the greatest or the least over the batch:
            it is given the name of JAX's primitive and what it is taken of.
        """
        program = self._program
        leaves = jtu.tree_leaves(args)
        out = self._evaluate(program.jaxpr, program.consts, leaves, collective)
        # A constant of the program may be a number of Python's.
        out = [
            x if isinstance(x, jax.Array) else jnp.asarray(x, kind.dtype)
            for x, kind in zip(out, program.out_avals, strict=True)
        ]
        return jtu.tree_unflatten(self._treedef, out)

    def _evaluate(
        self,
        jaxpr: Jaxpr,
        consts: Sequence[Any],
        args: Sequence[Any],
        collective: Collective,
    ) -> list[Any]:
        known = dict(zip(jaxpr.constvars, consts, strict=True))
        known.update(zip(jaxpr.invars, args, strict=True))

        mesh = jax.sharding.get_abstract_mesh()

        def read(x: Any) -> Any:
            return x.val if isinstance(x, Literal) else known[x]

        for equation in jaxpr.eqns:
            given = [read(x) for x in equation.invars]
            with equation.ctx.manager, jax.sharding.use_abstract_mesh(mesh):
                if self._is_over(equation):
                    out = self._reduced(equation, given, collective)
                elif self._holds(equation):
                    out = self._opened(equation, given, collective)
                else:
                    out = _run(equation, given)
            known.update(zip(equation.outvars, out, strict=True))
        return [read(x) for x in jaxpr.outvars]

    def _is_over(self, equation: Any) -> bool:
        """Whether it is an operation over the axis itself."""
        return self._axis in _axes(equation)

    def _holds(self, equation: Any) -> bool:
        """Whether such an operation lies within it."""
        return any(
            self._is_over(inner) or self._holds(inner)
            for jaxpr in jaxprs_in_params(equation.params)
            for inner in jaxpr.eqns
        )

    def _reduced(
        self, equation: Any, given: list[Array], collective: Collective
    ) -> list[Array]:
        name, params = equation.primitive.name, equation.params
        alone = _axes(equation) == (self._axis,)
        if name in (*_SUMS, *_EXTREMES) and alone and not params["axis_index_groups"]:
            return [collective(name, x) for x in given]
        raise StateError(
            f"The loss asks for `{name}` over the axis {self._axis!r} of its batch, "
            "which has no meaning where a batch is short. It may take means (`pmean`), "
            "and `pmax` and `pmin`, over that axis alone."
        )

    def _opened(
        self, equation: Any, given: list[Any], collective: Collective
    ) -> list[Any]:
        name, params = equation.primitive.name, equation.params
        if name in _CALLS:
            (inner,) = (x for x in params.values() if isinstance(x, ClosedJaxpr))
            return self._evaluate(inner.jaxpr, inner.consts, given, collective)
        if name in _REMAT:
            again = jax.checkpoint(
                lambda *args: self._evaluate(params["jaxpr"], (), args, collective),
                policy=params["policy"],
                prevent_cse=params["prevent_cse"],
            )
            return again(*given)
        raise StateError(
            "The loss takes a mean over its batch (as `BatchNorm` does) within a "
            f"`{name}`, where the examples that count cannot be told. Call such layers "
            "outside of loops, branches and functions with a derivative of their own."
        )


def _axes(equation: Any) -> tuple[Any, ...]:
    params = equation.params
    axes = params.get("axis_name", params.get("axes", ()))
    return tuple(axes) if isinstance(axes, tuple | list) else (axes,)


def _run(equation: Any, given: list[Any]) -> list[Any]:
    primitive = equation.primitive
    params: Any = primitive.get_bind_params(equation.params)
    functions = ()
    if isinstance(params, tuple):  # in earlier releases of JAX
        functions, params = params
    out = primitive.bind(*functions, *given, **params)
    return out if primitive.multiple_results else [out]


def over_kept(axis: str, keep: Bool[Array, ""], size: int, count: Array) -> Collective:
    """Sums, within `vmap`, over those examples of a batch that are kept, scaled to the
    size of the batch: so that a sum divided by that size is their mean."""

    def collective(name: str, x: Array) -> Array:
        if name in _EXTREMES:
            take, greatest = _EXTREMES[name]
            return take(jnp.where(keep, x, _end_of(x.dtype, greatest=greatest)), axis)
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            raise StateError(
                f"The loss adds up whole numbers ({x.dtype}) over its batch, which "
                "may be short. Take the mean of floating-point numbers."
            )
        wide = x.dtype if jnp.iscomplexobj(x) else wide_dtype(x.dtype)
        x, dtype = x.astype(wide), x.dtype
        total = jax.lax.psum(jnp.where(keep, x, jnp.zeros_like(x)), axis)
        scale = jnp.asarray(size, wide) / count.astype(wide)
        return (total * scale).astype(dtype)

    return collective


def _end_of(dtype: Any, *, greatest: bool) -> Array:
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.asarray(jnp.inf if greatest else -jnp.inf, dtype)
    if dtype == jnp.bool_:
        return jnp.asarray(greatest)
    limits = jnp.iinfo(dtype)
    return jnp.asarray(limits.max if greatest else limits.min, dtype)


def of_one(name: str, x: Array) -> Array:
    """The sum over a batch of one example."""
    del name
    return x
