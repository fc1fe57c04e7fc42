r"""How far messages are from each other, without a second copy of them.

The square of a distance is summed over pieces of the columns of each leaf. It is that
of differences: $\lVert a \rVert^2 + \lVert b \rVert^2 - 2 a^T b$ would be one matrix
product, but in float32 it loses the distance of two messages that share a large
offset; and from whatever centre they are measured, one client might move it far away.
Pieces, for a sum of many squares in one go stops growing at 2^24 times a summand.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree

from .._aggregator.base import Gathered
from .._aggregator.columns import in_pieces, piece, rest


def pairwise_squares(messages: Gathered) -> Float[Array, "messages messages"]:
    """The squares of the distances, infinite to an absent message, and 0 to oneself.

    They are there to compare messages with, which has no derivative.
    """

    def squares(x):
        return jax.lax.map(lambda row: jnp.square(x - row[None]).sum(1), x)

    payload = jax.lax.stop_gradient(messages.message.payload)
    total = _summed(squares, payload)
    there = messages.present[:, None] & messages.present[None, :]
    total = jnp.where(there, total, jnp.full_like(total, jnp.inf))
    return jnp.fill_diagonal(total, 0, inplace=False)


def distances_to(
    messages: Gathered, centre: PyTree[Array]
) -> Float[Array, " messages"]:
    """The distances from one point; an absent message is at 0."""

    def squares(x, y):
        return jnp.square(x - y.astype(x.dtype)).sum(1)

    total = _summed(squares, messages.message.payload, centre)
    zero = total == 0  # where a square root has no derivative
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, total)))


def _summed(function: Callable, payload: PyTree, *others: PyTree) -> Array:
    """The sum over all columns of a function of pieces."""

    def leaf(x, *more):
        rows, full = in_pieces(x, *more)
        total = function(*rest(rows, full))

        def add(i, total):
            return total + function(*piece(rows, i))

        return jax.lax.fori_loop(0, full, add, total) if full else total

    parts = jtu.tree_leaves(jtu.tree_map(leaf, payload, *others))
    total = jnp.zeros_like(parts[0], jnp.result_type(float))
    for part in parts:
        total = total + part.astype(total.dtype)
    return total
