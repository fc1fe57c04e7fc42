"""Stacked messages, some columns at a time.

A rule that looks at each number of the messages apart needs no second copy of all of
them: it is given a piece of their columns, and then the next.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._tree import tree_wide


PIECE = 2**14  # columns: of 64 messages in float32, 4 MiB


def by_columns(function: Callable, x: Array, *others: Array) -> Array:
    """What becomes of each column, of a function of pieces `[messages, columns]`, which
    is given one after another; with those of others that are like one message."""
    rows, full = in_pieces(x, *others)
    out = function(*rest(rows, full))
    if full:
        most = jax.lax.map(lambda i: function(*piece(rows, i)), jnp.arange(full))
        out = jnp.concatenate([most.reshape(-1), out])
    return out.reshape(x.shape[1:])


def in_pieces(x: Array, *others: Array) -> tuple[list[Array], int]:
    """All as rows of as many columns, and the number of whole pieces."""
    rows = [x.reshape(x.shape[0], -1), *(y.reshape(1, -1) for y in others)]
    return rows, rows[0].shape[1] // PIECE


def rest(rows: list[Array], full: int) -> list[Array]:
    """The columns after the last whole piece."""
    return [tree_wide(row[:, full * PIECE :]) for row in rows]


def piece(rows: list[Array], i: Array) -> list[Array]:
    """The columns of one whole piece."""
    take = jax.lax.dynamic_slice_in_dim
    return [tree_wide(take(row, i * PIECE, PIECE, axis=1)) for row in rows]
