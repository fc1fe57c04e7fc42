"""The one loop of the library: a fold over `0, 1, ..., stop - 1` with a dynamic end.

A dynamic number of iterations is what lets ragged clients share a program without
padding, but reverse-mode differentiation needs to know where to keep intermediate
values. Equinox's checkpointed loop has both: it stores a fixed number of checkpoints
and recomputes from them. It costs memory, so it is used only when asked for.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.extend import core as jex
from jaxtyping import Array, Int, PyTree


Carry = TypeVar("Carry")


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

    # Equinox's loop asks for the derivative of its body again and again, and JAX keeps
    # that of a jitted function: nested loops are traced in half the time.
    once = jax.jit(body)

    def advance(value):
        i, carry = value
        return i + 1, once(i, carry)

    start = (jnp.zeros_like(stop), carry)
    _, carry = eqxi.while_loop(
        lambda value: value[0] < stop,
        advance,
        start,
        max_steps=max(bound, 1),
        kind="checkpointed",
    )
    return carry


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
