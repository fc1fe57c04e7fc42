"""A number for each client: its speed, its bandwidth, how much of its work it does.

It is drawn once for each client (what device it has) or anew at every count (what its
network is like this time): `distributions.py` has those that are drawn.
"""

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import ArrayLike, Float, Int

from .._check import check_number, checked
from .._overrides import inherit_types
from .._words import shown
from .draws import Draws


Counts: TypeAlias = int | Int[np.ndarray, " clients"]


class AbstractQuantity(abc.ABC):
    """A number for each client, a pure function of a seed, the client and a count."""

    def __init_subclass__(cls) -> None:
        inherit_types(cls)

    @abc.abstractmethod
    def __call__(
        self, draws: Draws, clients: Int[np.ndarray, " clients"], count: Counts
    ) -> Float[np.ndarray, " clients"]:
        """The numbers of some clients.

        **Arguments:**

        - `draws`: where randomness comes from: `draws.uniforms(clients, count)`, or
            with `None` in place of the count for what does not change.
        - `clients`: their numbers in the population.
        - `count`: the number of the round, the event or the slot of time, from 0.
        """

    @property
    def num_clients(self) -> int | None:
        """How many clients it knows; `None` if it knows one for any number."""
        return None


@dataclasses.dataclass(eq=False)
class Constant(AbstractQuantity):
    """The same number for all. In place of it a plain number can be given.

    **Arguments:**

    - `value`: the number; infinite for a speed that takes no time.
    """

    value: float

    @checked()
    def __init__(self, value: ArrayLike):
        self.value = _one("value", value)

    def __call__(self, draws, clients, count):
        return np.full(len(clients), self.value)


@dataclasses.dataclass(eq=False)
class PerClient(AbstractQuantity):
    """A number for each client that is given. In place of it an array can be given.

    **Arguments:**

    - `values`: the numbers, in the order of the clients.
    """

    values: Float[np.ndarray, " population"]

    @checked()
    def __init__(self, values: ArrayLike | Sequence[ArrayLike]):
        self.values = _of_each("values", values)

    def __call__(self, draws, clients, count):
        return self.values[clients]

    @property
    def num_clients(self) -> int:
        return len(self.values)


def quantity(name: str, x: Any) -> AbstractQuantity:
    """A quantity as it came, or one made of a number or of one for each client."""
    if isinstance(x, AbstractQuantity):
        return x
    array = np.asarray(x)
    if array.ndim > 1 or array.dtype.kind not in "iuf":
        raise TypeError(
            f"`{name}` must be a quantity, a number, or one for each client, got "
            f"{shown(x)}. Write `LogNormal(1e9, 0.5)`, for example."
        )
    # Checked here by the name that was given.
    return Constant(_one(name, x)) if array.ndim == 0 else PerClient(_of_each(name, x))


def _one(name: str, x: ArrayLike) -> float:
    infinite = isinstance(x, float) and x == math.inf
    return math.inf if infinite else number(name, x)


def _of_each(name: str, x: Any) -> Float[np.ndarray, " population"]:
    numbers = np.asarray(x)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuf" or len(numbers) == 0:
        raise ValueError(
            f"`{name}` must be one number for each client, got {shown(x)}."
        )
    if np.isnan(numbers).any():
        hole = int(np.flatnonzero(np.isnan(numbers))[0])
        raise ValueError(
            f"`{name}` has a NaN for client {hole}: fill the hole, or leave that "
            "client out of the population."
        )
    return numbers.astype(np.float64)


def number(name: str, x: ArrayLike, **bounds: Any) -> float:
    """A number within its bounds, as Python's own."""
    check_number(name, x, **bounds)
    return float(np.asarray(x))
