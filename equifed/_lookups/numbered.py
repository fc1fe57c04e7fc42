"""Numbers that an algorithm reads of an example itself, beside what its loss reads.

An algorithm that is told how many domains there are, say, is given the domain of each
example by a function. Where that hands on a column, its numbers can be looked at.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .._types import Example
from .follow import origin
from .program import traced


class Numbered(NamedTuple):
    """A function of one example whose value is a number of so many."""

    argument: str
    """What the user has given it as."""
    of: Callable[[Example], Any]
    size: int
    count: str
    """What the user has given the size as."""


class Among(NamedTuple):
    """Numbers of a column that one of those functions hands on, as it is or not."""

    column: str
    numbered: Numbered

    @property
    def size(self) -> int:
        return self.numbered.size

    @property
    def least(self) -> int:
        return 0

    def value(self, example: Mapping[str, np.ndarray]) -> int:
        """What the function makes of one example, of an array of one row each."""
        one = {name: jnp.asarray(x[0]) for name, x in example.items()}
        return int(jnp.asarray(self.numbered.of(one)))

    def refusal(self, client_id: str | int, row: int, value: int) -> str:
        argument, _, size, count = self.numbered
        remedy = f"Give `{count}={value + 1}`, or number" if value >= size else "Number"
        return (
            f"`{argument}` gives {value} for row {row} of client {client_id!r}, by "
            f"column {self.column!r}, but there are `{count}={size}`, from 0 to "
            f"{size - 1}. {remedy} the column otherwise."
        )


def among(numbered: Numbered, example: Example) -> list[Among]:
    """The columns whose numbers a function may hand on.

    What it makes of several columns, or by arithmetic, is not known.
    """
    try:
        _, program = traced(lambda _, x: jnp.asarray(numbered.of(x)), None, example)
    except Exception:  # noqa: BLE001 (it will be raised where it is computed)
        return []
    return [Among(column, numbered) for column in sorted(origin(program))]
