"""The one loop of the library: a fold over `0, 1, ..., stop - 1` with a dynamic end.

A dynamic number of iterations is what lets ragged clients share a program without
padding, but JAX does not differentiate such a loop in reverse, as it cannot know where
to keep what each step began with. So there is a second way to run it, with a derivative
of its own: about twice as many carries are kept as is the square root of `bound`, and
what lies between them is computed again. It costs memory, so it is used only when asked
for.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.custom_derivatives import SymbolicZero
from jax.extend import core as jex
from jaxtyping import Array, Int, PyTree


Carry = TypeVar("Carry")
Arrays = list[Any]  # of some kind, or `None` where it is another
Step = Callable[[Arrays, Int[Array, ""], Arrays], Arrays]


def fold_range(
    body: Callable[[Int[Array, ""], Carry], Carry],
    carry: Carry,
    stop: Int[Array, ""],
    bound: int,
    *,
    differentiable: bool,
) -> Carry:
    """Applies `carry = body(i, carry)` for `i` in `range(stop)`; `stop <= bound`."""
    if not differentiable:
        return jax.lax.fori_loop(jnp.zeros_like(stop), stop, body, carry)

    leaves, structure = jtu.tree_flatten(jtu.tree_map(jnp.asarray, carry))
    # What the body closes over may have derivatives too: they become arguments.
    closed = jax.make_jaxpr(
        lambda i, leaves: jtu.tree_leaves(body(i, structure.unflatten(leaves)))
    )(jnp.zeros_like(stop), leaves)

    # JAX keeps the derivative of a jitted function: nested loops are traced once.
    @jax.jit
    def step(closure, i, leaves):
        program = jex.ClosedJaxpr(closed.jaxpr, closure)
        return jex.jaxpr_as_fun(program)(i, *leaves)

    leaves = _fold(step, max(bound, 1), list(closed.consts), leaves, stop)
    return structure.unflatten(leaves)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _fold(
    step: Step, bound: int, closure: Arrays, carry: Arrays, stop: Int[Array, ""]
) -> Arrays:
    run = functools.partial(step, closure)
    return jax.lax.fori_loop(jnp.zeros_like(stop), stop, run, carry)


def _forward(
    step: Step, bound: int, closure: Arrays, carry: Arrays, stop: Any
) -> tuple[Arrays, Any]:
    """Also keeps what each segment of the steps began with."""
    has_slope = [x.perturbed and eqx.is_inexact_array(x.value) for x in closure]
    closure, carry = [x.value for x in closure], [x.value for x in carry]
    run, stop, size = functools.partial(step, closure), stop.value, _segment(bound)

    def segment(k, value):
        carry, kept = value
        kept = _write(kept, carry, k)
        end = jnp.minimum(stop, (k + 1) * size)
        return jax.lax.fori_loop(k * size, end, run, carry), kept

    count = (stop + size - 1) // size
    begun = carry, _room(carry, -(-bound // size))
    carry, kept = jax.lax.fori_loop(jnp.zeros_like(count), count, segment, begun)
    varies, rest = eqx.partition(closure, has_slope)
    return carry, (varies, rest, kept, stop)


def _backward(step: Step, bound: int, residuals: Any, slopes: Arrays) -> Any:
    """From the last step to the first, segment by segment."""
    varies, rest, kept, stop = residuals
    size = _segment(bound)
    run = functools.partial(step, eqx.combine(varies, rest))
    floats = [eqx.is_inexact_array(x) for x in kept]

    def back(first, inside, i, value):
        """One step: from the slopes of its end to those of its beginning."""
        slopes, totals = value
        carry = _read(inside, i - first)

        def end(varies, moving):
            out = step(eqx.combine(varies, rest), i, eqx.combine(moving, fixed))
            return eqx.filter(out, floats)

        moving, fixed = eqx.partition(carry, floats)
        _, pull = jax.vjp(end, varies, moving)
        more, slopes = pull(slopes)
        return slopes, jtu.tree_map(jnp.add, totals, more)

    def segment(j, value):
        first = (count - 1 - j) * size
        end = jnp.minimum(stop, first + size)

        def again(i, value):
            carry, inside = value
            return run(i, carry), _write(inside, carry, i - first)

        carry = _read(kept, count - 1 - j)
        begun = carry, _room(carry, size)
        _, inside = jax.lax.fori_loop(first, end, again, begun)
        return jax.lax.fori_loop(
            jnp.zeros_like(stop),
            end - first,
            lambda i, value: back(first, inside, end - 1 - i, value),
            value,
        )

    count = (stop + size - 1) // size
    ends = [_dense(x) for x in eqx.filter(slopes, floats)]
    begun = ends, jtu.tree_map(jnp.zeros_like, varies)
    slopes, totals = jax.lax.fori_loop(jnp.zeros_like(count), count, segment, begun)
    return totals, slopes, None


_fold.defvjp(_forward, _backward, symbolic_zeros=True)


def _segment(bound: int) -> int:
    """How many steps are computed again from one carry that was kept."""
    return math.isqrt(bound - 1) + 1


def _dense(slope: Any) -> Any:
    if not isinstance(slope, SymbolicZero):
        return slope
    zero: Any = slope  # of which pyright knows neither shape nor dtype
    return jnp.zeros(zero.shape, zero.dtype)


def _room(carry: Arrays, count: int) -> Arrays:
    return [jnp.broadcast_to(x, (count, *x.shape)) for x in carry]


def _read(kept: Arrays, i: Int[Array, ""]) -> Arrays:
    read: Callable = jax.lax.dynamic_index_in_dim
    return [read(x, i, keepdims=False, allow_negative_indices=False) for x in kept]


def _write(kept: Arrays, carry: Arrays, i: Int[Array, ""]) -> Arrays:
    write: Callable = functools.partial(
        jax.lax.dynamic_update_index_in_dim, axis=0, allow_negative_indices=False
    )
    return [write(x, y, i) for x, y in zip(kept, carry, strict=True)]


def traced_once(
    function: Callable[..., Any], *args: PyTree
) -> tuple[Callable[..., Any], PyTree]:
    """The function, for such arguments, and the shapes of what it returns.

    A loop's carry must be made before the loop traces its body: tracing it for the
    shapes too would be as long again, and it is most of what comes before compiling.
    """
    if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
        return function, jax.eval_shape(function, *args)  # It is to run line by line.
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    structure = jtu.tree_structure(shapes)
    run = jex.jaxpr_as_fun(closed)
    return lambda *args: structure.unflatten(run(*jtu.tree_leaves(args))), shapes
