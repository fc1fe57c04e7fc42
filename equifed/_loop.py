"""The one loop of the library: a fold over `0, 1, ..., stop - 1` with a dynamic end.

A dynamic number of iterations is what lets ragged clients share a program without
padding, but reverse-mode differentiation needs to know where to keep intermediate
values. Equinox's checkpointed loop has both: it stores a fixed number of checkpoints
and recomputes from them. It costs memory, so it is used only when asked for.
"""

from collections.abc import Callable
from typing import TypeVar

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


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

    def advance(value):
        i, carry = value
        return i + 1, body(i, carry)

    start = (jnp.zeros_like(stop), carry)
    _, carry = eqxi.while_loop(
        lambda value: value[0] < stop,
        advance,
        start,
        max_steps=max(bound, 1),
        kind="checkpointed",
    )
    return carry
