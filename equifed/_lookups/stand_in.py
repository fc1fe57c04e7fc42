"""Whether it matters which row stands in for one that is not there.

A loss may read a row for an id that has none and throw away what it read: padding is
often marked so, and masked afterwards. Nothing is invented there. So the loss of an
example is computed twice, the second time with other numbers in place of those rows;
where it comes out the same, they do not count.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal
from jaxtyping import Array, Bool, Shaped

from .follow import indices, Read, Site
from .program import called, Program


def matters(
    program: Program,
    given: Sequence[Array],
    examples: dict[str, Shaped[np.ndarray, "rows ..."]],
    sites: frozenset[Site],
    read: Read,
) -> Bool[np.ndarray, " rows"]:
    """For each of several examples, whether the program's results depend on what is
    read at these sites where there is nothing to read.

    Of results that are not finite anyhow it cannot be told. They may be so because
    another column asks for the same row, as of tokens the one that is to be predicted:
    then there are others in place of what that one asks for.

    Both are one program, compiled once: two programs might differ in the last bit.
    """
    columns = [name for name in program.columns if name is not None]

    @jax.jit
    def run(given: list[Array], rows: list[Array], other: Bool[Array, ""]) -> list[Any]:
        def one(rows: list[Array]) -> list[Any]:
            return _run(program.closed, [*given, *rows], _Other(sites, other))

        return jax.vmap(one)(rows)

    def tried(examples: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        rows = [jnp.asarray(examples[name]) for name in columns]
        first, second = (run([*given], rows, np.bool_(x)) for x in (False, True))
        none = np.zeros(len(rows[0]), bool)
        differ, unknown = [none], [none]
        for x, y in zip(first, second, strict=True):
            if not jnp.issubdtype(x.dtype, jax.dtypes.extended):
                a, b = (np.asarray(z).reshape(len(z), -1) for z in (x, y))
                inexact = jnp.issubdtype(x.dtype, jnp.inexact)
                known = np.isfinite(a) if inexact else np.ones(a.shape, bool)
                differ.append(np.any((a != b) & known, 1))
                unknown.append(np.any(~known, 1))
        return np.any(differ, 0), np.any(unknown, 0)

    differ, unknown = tried(examples)
    if not unknown.any():
        return differ
    others = {
        name: x if name == read.column else _inside(x, read.size)
        for name, x in examples.items()
    }
    return differ | (unknown & tried(others)[0])


def _inside(x: np.ndarray, size: int) -> np.ndarray:
    """Whole numbers with 0 for those that are too large for so many rows."""
    whole = np.issubdtype(x.dtype, np.integer)
    return np.where(x >= size, np.zeros_like(x), x) if whole else x


class _Other:
    """Reads at some sites, if asked with other numbers where there is no such row."""

    def __init__(self, sites: frozenset[Site], asked: Bool[Array, ""]):
        self._sites, self._asked = sites, asked
        self._equations = {site.equation for site in sites}

    def __contains__(self, equation: JaxprEqn) -> bool:
        return id(equation) in self._equations

    def __call__(
        self, equation: JaxprEqn, inputs: list[Array | np.ndarray], out: Array
    ) -> Array:
        if out.dtype == bool:
            return out
        shape, params = inputs[0].shape, equation.params
        sizes = params["slice_sizes"]
        missing = jnp.zeros((), bool)
        if equation.primitive.name == "dynamic_slice":
            starts = jnp.stack(inputs[1:])
        else:
            starts = jnp.moveaxis(inputs[1], -1, 0)
            within = params["dimension_numbers"].offset_dims
            missing = jnp.zeros(inputs[1].shape[:-1], bool)
        for index, axis in indices(equation).items():
            if Site(id(equation), index) in self._sites:
                start = starts[index]
                missing |= (start < 0) | (start > shape[axis] - sizes[axis])
        if missing.ndim > 0:
            missing = jnp.expand_dims(missing, within)
        # Not all by the same: a model may not see what all numbers have in common.
        other = jnp.cos(jnp.arange(out.size, dtype=float)).reshape(out.shape)
        if not jnp.issubdtype(out.dtype, jnp.inexact):
            other = jnp.ones_like(other)
        changed = out + other.astype(out.dtype)
        return jnp.where(missing & self._asked, changed, out)


def _run(closed: ClosedJaxpr, inputs: Sequence[Any], other: _Other) -> list[Any]:
    """Runs a program, with the reads that are to be others."""
    jaxpr = closed.jaxpr
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))

    def value(x: Any) -> Any:
        if isinstance(x, Literal):
            aval: Any = x.aval
            return jnp.asarray(x.val, aval.dtype)
        return known[x]

    for equation in jaxpr.eqns:
        given = [value(x) for x in equation.invars]
        known.update(zip(equation.outvars, _step(equation, given, other), strict=True))
    return [value(x) for x in jaxpr.outvars]


def _step(equation: JaxprEqn, given: list[Any], other: _Other) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    inner = called(equation)
    if inner is not None:
        return _run(inner, given, other)
    if name == "scan":
        return _scan(params, given, other)
    if name == "while":
        return _while(params, given, other)
    if name == "cond":
        ways = [_runs(way, other) for way in params["branches"]]
        return jax.lax.switch(given[0], ways, *given[1:])
    out = equation.primitive.bind(*given, **equation.primitive.get_bind_params(params))
    if equation in other:
        return [other(equation, given, out)]
    return out if equation.primitive.multiple_results else [out]


def _runs(closed: ClosedJaxpr, other: _Other) -> Callable[..., list[Any]]:
    return lambda *inputs: _run(closed, inputs, other)


def _scan(params: dict[str, Any], given: list[Any], other: _Other) -> Sequence[Any]:
    first = params["num_consts"]
    count, body = params["num_carry"], params["jaxpr"]
    consts, carry = given[:first], given[first:][:count]

    def step(carry: list[Any], rest: list[Any]) -> tuple[list[Any], list[Any]]:
        out = _run(body, [*consts, *carry, *rest], other)
        return out[:count], out[count:]

    carry, out = jax.lax.scan(
        step,
        carry,
        given[first + count :],
        length=params["length"],
        reverse=params["reverse"],
    )
    return [*carry, *out]


def _while(params: dict[str, Any], given: list[Any], other: _Other) -> Sequence[Any]:
    first, count = params["cond_nconsts"], params["body_nconsts"]
    limits, consts = given[:first], given[first:][:count]
    return jax.lax.while_loop(
        lambda carry: _run(params["cond_jaxpr"], [*limits, *carry], other)[0],
        lambda carry: _run(params["body_jaxpr"], [*consts, *carry], other),
        given[first + count :],
    )
