"""Which example a number that is not finite comes from.

Looked for when there is such a number, and not before: data may hold missing values
that the loss leaves out, and to look at all of it takes time.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Bool, PyTree

from .._tree import tree_isfinite
from .._types import Measure, Model
from ..data._arrays import canonical
from ..data._plan import ladder
from .over_rows import metrics_of


Columns = Mapping[str, np.ndarray]

_ROWS = 256  # so many are looked at together


def blame(
    clients: Iterable[tuple[str, Columns]], metrics: Measure, model: Model
) -> str:
    """A sentence on the first example whose metrics are not finite; or else on the
    first number of the data that is not, which may spoil a gradient; or nothing.

    **Arguments:**

    - `clients`: pairs of a client's id and its examples.
    """
    try:
        return _blame(clients, metrics, model)
    except Exception:  # What was computed is worth more than what is said of it.
        return ""


def _blame(
    clients: Iterable[tuple[str, Columns]], metrics: Measure, model: Model
) -> str:
    find = None if _is_far(model) else _Finder(metrics, model)
    cell = None
    for client_id, columns in clients:
        row = None if find is None else find(columns)
        if row is not None:
            return (
                f"One example whose metrics are not finite is row {row} of client "
                f"{client_id!r}: {_describe(columns, row)}."
            )
        if cell is None:
            cell = bad_cell(client_id, columns)
    return "" if cell is None else f"The data itself is not finite: {cell}."


def bad_cell(client_id: str, columns: Columns) -> str | None:
    """Where a client's data first holds a NaN or an infinity."""
    for name, column in columns.items():
        if not jnp.issubdtype(column.dtype, jnp.inexact):
            continue
        rows = np.asarray(column)
        finite = np.isfinite(rows).all(tuple(range(1, rows.ndim)))
        if not finite.all():
            row = int(finite.argmin())
            value = rows[row][~np.isfinite(rows[row])][0]
            return f"column {name!r} of client {client_id!r} holds {value} in row {row}"
    return None


def _describe(columns: Columns, row: int) -> str:
    example = {name: np.asarray(x[row : row + 1]) for name, x in columns.items()}
    for name, value in example.items():
        if jnp.issubdtype(value.dtype, jnp.inexact) and not np.isfinite(value).all():
            bad = value[~np.isfinite(value)][0]
            return f"its column {name!r} holds {bad}"
    whole = [
        f"{name} = {value.item()}"
        if value.size == 1
        else f"{name} from {value.min()} to {value.max()}"  # tokens
        for name, value in example.items()
        if jnp.issubdtype(value.dtype, jnp.integer)
        if value.size == 1 or (value.ndim == 2 and value.size > 0)
    ]
    if not whole:
        return "its data is finite"
    return f"it has {', '.join(whole[:3])}, and a label without a logit gives NaN"


def _is_far(model: Model) -> bool:
    """Whether some of a model lies on other processes' devices."""
    return any(
        isinstance(x, jax.Array) and not x.is_fully_addressable
        for x in jtu.tree_leaves(model)
    )


class _Finder:
    """Finds a client's first example whose metrics are not finite."""

    def __init__(self, metrics: Measure, model: Model):
        self._arrays, static = eqx.partition(model, eqx.is_array)

        def bad(arrays: PyTree, examples: PyTree) -> Bool[Any, " rows"]:
            model = eqx.combine(arrays, static)

            def one(example: PyTree) -> Bool[Any, ""]:
                return ~tree_isfinite(metrics_of(metrics, model, example, jr.key(0)))

            return jax.vmap(one)(examples)

        # Compiled for this object, with which it goes.
        self._bad = jax.jit(bad)

    def __call__(self, columns: Columns) -> int | None:
        count = len(next(iter(columns.values())))
        for start in range(0, count, _ROWS):
            stop = min(start + _ROWS, count)
            size = min(ladder(stop - start), _ROWS)
            rows = np.minimum(start + np.arange(size), count - 1)
            examples = {
                name: canonical(np.asarray(column)[rows])
                for name, column in columns.items()
            }
            found = np.asarray(self._bad(self._arrays, examples))
            if found.any():
                return int(rows[found.argmax()])
        return None
